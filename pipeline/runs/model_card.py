"""The model card: the README.md that is saved with a trained model, with the front matter that the Hub reads."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from huggingface_hub import EvalResult, ModelCardData, metadata_load
from transformers import AutoConfig
from transformers.utils.hub import cached_file

from pipeline.metrics.specs import HUB_PREFIX
from pipeline.models.attention import described
from pipeline.recipe.schema import Files, Recipe
from pipeline.runs.directory import Run
from pipeline.runs.record import Metrics, RunIdentity
from pipeline.tasks.base import task_class
from pipeline.utils.errors import UserError
from pipeline.utils.text import count, one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# What the Hub calls the task of a model by its head; it has no name for the task of another head.
_HUB_TASKS = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSeq2SeqLM": "text2text-generation",
}
# What the Hub wants where a license is not known.
_UNKNOWN = "unknown"


def model_card(
    recipe: Recipe, auto_class: str, config: PretrainedConfig, identity: RunIdentity, metrics: Metrics
) -> str:
    """What the model is, what it was made from, how well it scores, and how to load it in either framework.

    `auto_class` is its head, a transformers Auto class, and `config` its configuration.
    """
    front_matter = _front_matter(recipe, auto_class, config, metrics).to_yaml()
    scores = "\n".join(f"| {name} | {_score(value)} |" for name, value in metrics.items())
    start = "random weights of the architecture of" if recipe.weights == "random" else "the pretrained checkpoint"
    return f"""---
{front_matter}
---

# {recipe.name}

A model for {recipe.task}, fine-tuned from {start} `{_base(recipe)}` on {_data_name(recipe)}
in {identity.framework} with {described(identity.attention)}, seed {identity.seed}.

| validation metric | value |
|---|---|
{scores}

Training: {count(recipe.train.epochs, "epoch")}, batch size {recipe.train.batch_size}, learning rate
{recipe.train.learning_rate:g} ({recipe.train.schedule}), precision {recipe.train.precision}. The whole recipe is
`recipe.yaml` in the run's directory.

## Loading it

`folder` is the folder of this file, or the model's id on the Hub.

```python
from transformers import {auto_class}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = {auto_class}.from_pretrained(folder)
```

{_in_tensorflow(auto_class, config)}"""


def rebuilt_card(run: Run) -> str:
    """The card of a finished run, written anew: it was deleted, or an older version wrote it. Raises UserError."""
    recipe, record = run.directory.recipe(), run.record
    try:
        config = AutoConfig.from_pretrained(run.directory.model_folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{run.directory.model_folder} cannot be read: {one_line(error)}") from error
    return model_card(recipe, task_class(recipe.task).auto_class, config, record.identity, record.metrics)


def without_folders(recipe: Recipe) -> Recipe:
    """The recipe with the names of local checkpoints and files, without the folders in which they lie."""
    files = {
        split: [Path(file).name for file in files] if isinstance(files, tuple) else files and Path(files).name
        for split, files in recipe.data.files.model_dump().items()
    }
    return recipe.model_copy(
        update={
            "checkpoint": _base(recipe),
            "data": recipe.data.model_copy(update={"files": Files.model_validate(files)}),
        }
    )


def _front_matter(recipe: Recipe, auto_class: str, config: PretrainedConfig, metrics: Metrics) -> ModelCardData:
    """The metadata in the form that the Hub checks when a card is uploaded."""
    task, data = _HUB_TASKS.get(auto_class), recipe.data
    is_on_hub = not os.path.isdir(recipe.checkpoint) and recipe.weights != "random"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=data.path,
            dataset_name=_data_name(recipe),
            dataset_config=data.name,
            dataset_split=None if data.is_local else data.validation,
            metric_type=name.removeprefix(HUB_PREFIX),
            metric_value=value,
        )
        for name, value in metrics.items()
        if value is not None and math.isfinite(value) and task is not None
    ]
    return ModelCardData(
        model_name=recipe.name,
        library_name="transformers",
        pipeline_tag=task,
        license=_license(recipe.checkpoint) if recipe.weights != "random" else _UNKNOWN,
        base_model=recipe.checkpoint if is_on_hub else None,
        datasets=None if data.is_local else [data.path],
        metrics=[result.metric_type for result in results] or None,
        tags=[config.model_type],
        eval_results=results or None,
    )


def _license(checkpoint: str) -> str:
    """What the card of the pretrained checkpoint says, if that is in its folder or has been downloaded."""
    try:
        file = cached_file(
            checkpoint, "README.md", local_files_only=True, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
        found = (metadata_load(file) or {}).get("license") if file else None
    except (OSError, ValueError, yaml.YAMLError):
        return _UNKNOWN
    return found if isinstance(found, str) else _UNKNOWN


def _base(recipe: Recipe) -> str:
    """The checkpoint's name; the path of a local one is the business of its machine."""
    return Path(recipe.checkpoint).name if os.path.isabs(recipe.checkpoint) else recipe.checkpoint


def _data_name(recipe: Recipe) -> str:
    """The data set's id on the Hub, or the names of its files without their folders."""
    data = recipe.data
    if not data.is_local:
        return data.path + (f" ({data.name})" if data.name else "")
    files = [
        Path(file).name
        for of_split in (data.files.train, data.files.validation)
        for file in ((of_split,) if isinstance(of_split, str) else of_split or ())
    ]
    return " and ".join(dict.fromkeys(files)) if len(files) < 4 else f"{files[0]} and {len(files) - 1} other files"


def _in_tensorflow(auto_class: str, config: PretrainedConfig) -> str:
    """How TensorFlow loads the model, which the library's plain `from_pretrained` does not."""
    if auto_class in ("AutoModelForCausalLM", "AutoModelForMaskedLM") and not config.tie_word_embeddings:
        return "TensorFlow's class of the library ignores the output matrix of this model, which is not its input's.\n"
    # They iterate over a file that safetensors opened, which none of its versions (0.2 to 0.8) allows.
    return f"""In TensorFlow, with tf-keras, the plain `from_pretrained` of transformers 4.55 to 4.57 stops with
"'builtins.safe_open' object is not iterable", whatever the version of safetensors. `from_pt=True` avoids that, and
needs PyTorch beside TensorFlow:

```python
from transformers import TF{auto_class}

model = TF{auto_class}.from_pretrained(folder, from_pt=True)
```

Without PyTorch, from a folder:

```python
from safetensors.numpy import load_file
from transformers import AutoConfig, TF{auto_class}
from transformers.modeling_tf_pytorch_utils import load_pytorch_state_dict_in_tf2_model

model = TF{auto_class}.from_config(AutoConfig.from_pretrained(folder))
load_pytorch_state_dict_in_tf2_model(model, load_file(f"{{folder}}/model.safetensors"))
```
"""


def _score(value: float | None) -> str:
    return "undefined" if value is None or math.isnan(value) else f"{value:.4f}"
