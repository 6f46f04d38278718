"""PyTorch: the names of `pipeline.backend.Backend`.

In reading order, and the same in `pipeline/tensorflow`:

- the models: `attention`, and `transformer` which is built of it; `model` builds and reads the library's, `sites` and
  `swap` put another attention into them, and `body` the whole Transformer; `lora` gives projections updates
- a step: `packed` rows, `dropout` masks, `fast_modules`, `gradient_checkpointing`, `loss`, `optimizer`, `group` for
  several processes; `train` puts them together
- what a model writes, and where it goes: `generation`, `export`, `graphs`
- short functions that are run and shown side by side: `tour`

Without counterparts are `gpu`, masks and recorded passes for a GPU, and `library`, what versions of transformers differ
in.
"""

from pipeline.pytorch.export import write_graph, write_writer
from pipeline.pytorch.graphs import MODES, execution
from pipeline.pytorch.group import Group
from pipeline.pytorch.lora import add_adapters
from pipeline.pytorch.model import (
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
from pipeline.pytorch.swap import attention_calls, restore_attention, swap_attention
from pipeline.pytorch.train import Learner, Predictor

name = "torch"

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
