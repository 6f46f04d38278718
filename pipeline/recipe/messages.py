"""Pydantic's errors about a recipe as sentences that name the key, what came, and the way out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.utils.errors import did_you_mean
from pipeline.utils.text import requirement, shorten

# What other libraries call our keys: Hugging Face's TrainingArguments and examples, and common habits.
_OTHER_NAMES = {
    "lr": "train.learning_rate",
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "per_device_train_batch_size": "train.batch_size",
    "train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "lr_scheduler_type": "train.schedule",
    "scheduler": "train.schedule",
    "warmup_steps": "train.warmup_ratio",
    "adam_beta1": "train.beta1",
    "adam_beta2": "train.beta2",
    "adam_epsilon": "train.epsilon",
    "label_smoothing_factor": "train.label_smoothing",
    "early_stopping_patience": "train.early_stopping",
    "metric_for_best_model": "train.keep_metric",
    "save_steps": "train.save_every",
    "save_total_limit": "train.keep_checkpoints",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "attn_implementation": "train.attention_implementation",
    "lora_alpha": "train.lora.alpha",
    "lora_dropout": "train.lora.dropout",
    "target_modules": "train.lora.targets",
    "r": "train.lora.rank",
    "model_name_or_path": "checkpoint",
    "model": "checkpoint",
    "model_name": "checkpoint",
    "pretrained_model_name_or_path": "checkpoint",
    "max_seq_length": "data.max_length",
    "max_source_length": "data.max_length",
    "max_target_length": "options.max_target_length",
    "dataset_name": "data.path",
    "dataset": "data.path",
    "dataset_config_name": "data.name",
    "train_file": "data.files.train",
    "validation_file": "data.files.validation",
    "test_file": "data.files.test",
    "max_train_samples": "data.limit.train",
    "max_eval_samples": "data.limit.validation",
    "source_prefix": "options.prefix",
    "mlm_probability": "options.masking_probability",
}


def explain(error: ValidationError, name: str, models: Mapping[str, type[BaseModel]]) -> str:
    """A line for each key that is wrong; `models` has the recipe's models by the title of pydantic's error."""
    faults: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for fault in error.errors():
        faults.setdefault(tuple(_location(fault)), []).append(fault)
    lines = []
    for location, alternatives in faults.items():
        # Where a value may be of several types, what is wrong inside it says more than that it is none of them.
        if len(alternatives) > 1 and any(other[: len(location)] == location != other for other in faults):
            continue
        key = ".".join(map(str, location)) or error.title.lower()
        lines.append(f"recipe {name}: {key}{_sentence(alternatives, list(location), models[error.title])}")
    return "\n".join(lines)


def _location(fault: ErrorDetails) -> list[str | int]:
    """The path to the key; pydantic puts names of types between its parts, and at the end."""
    parts: list[str | int] = [part for part in fault["loc"] if isinstance(part, int) or part.isidentifier()]
    if fault["type"] == "extra_forbidden":  # such a key can be any text
        return [*(part for part in parts if part != fault["loc"][-1]), fault["loc"][-1]]
    is_type = len(parts) > 1 and (parts[-1], fault["type"]) in (("str", "string_type"), ("int", "int_type"))
    return parts[:-1] if is_type else parts


def _sentence(alternatives: list[ErrorDetails], location: list[str | int], root: type[BaseModel]) -> str:
    """What follows the key: its first fault, and what the value may be instead."""
    fault = alternatives[0]
    if fault["type"] == "extra_forbidden":
        parent = _model_at(root, location[:-1])
        known = list(parent.model_fields) if parent else []
        return f": no such key.{_hint(str(location[-1]), known)} Known: {', '.join(known)}."
    if fault["type"] == "missing":
        return " is missing"
    if fault["type"] == "value_error":
        text = str(fault.get("ctx", {})["error"])
        return f" {text}" if text.startswith("is") else f": {text}"
    first, *others = dict.fromkeys(requirement(each["msg"]) for each in alternatives)
    wanted = " or ".join([first, *(other.removeprefix("must be ") for other in others)])
    return f" is {_shown(fault['input'])}, but {wanted}"


def _hint(key: str, known: list[str]) -> str:
    """What the user may have meant: a key beside it that looks alike, or ours for another library's name."""
    ours = _OTHER_NAMES.get(key)
    return f' Did you mean "{ours}"?' if ours else did_you_mean(key, known)


def _model_at(root: type[BaseModel], location: Iterable[str | int]) -> type[BaseModel] | None:
    """The model that a key such as ("data", "limit") leads to, for the names of its keys."""
    model: type[BaseModel] | None = root
    for part in location:
        field = model.model_fields.get(part) if model is not None and isinstance(part, str) else None
        kinds = [] if field is None else _union(field.annotation)
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return model


def _union(annotation: object) -> list[object]:
    return list(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else [annotation]


def _shown(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return shorten(json.dumps(value, default=str, ensure_ascii=True), 80)
