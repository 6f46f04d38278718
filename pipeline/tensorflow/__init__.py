"""TensorFlow: the names of `pipeline.backend.Backend`.

In reading order, and the same in `pipeline/pytorch`:

- the models: `attention`, and `transformer` which is built of it; `model` builds and reads the library's, `sites` and
  `swap` put another attention into them, and `body` the whole Transformer; `lora` gives projections updates
- a step: `packed` rows, `dropout` masks, `fast_modules`, `gradient_checkpointing`, `loss`, `optimizer`, `group` for
  several processes; `train` puts them together
- what a model writes, and where it goes: `generation`, `export`, `graphs`
- short functions that are run and shown side by side: `tour`
"""

from pipeline.utils.environment import legacy_keras

with legacy_keras():  # transformers' TensorFlow classes are Keras 2
    from pipeline.tensorflow.export import write_graph, write_writer
    from pipeline.tensorflow.graphs import MODES, execution
    from pipeline.tensorflow.group import Group
    from pipeline.tensorflow.lora import add_adapters
    from pipeline.tensorflow.model import (
        architecture,
        attention_weights,
        build_model,
        deterministic,
        eager_execution,
        freeze,
        get_weights,
        preserved_generators,
        read_pickle,
        set_weights,
        threads,
        versions,
        weight_shapes,
    )
    from pipeline.tensorflow.swap import attention_calls, restore_attention, swap_attention
    from pipeline.tensorflow.train import Learner, Predictor

name = "tensorflow"

__all__ = [
    "MODES",
    "Group",
    "Learner",
    "Predictor",
    "add_adapters",
    "architecture",
    "attention_calls",
    "attention_weights",
    "build_model",
    "deterministic",
    "eager_execution",
    "execution",
    "freeze",
    "get_weights",
    "name",
    "preserved_generators",
    "read_pickle",
    "restore_attention",
    "set_weights",
    "swap_attention",
    "threads",
    "versions",
    "weight_shapes",
    "write_graph",
    "write_writer",
]
