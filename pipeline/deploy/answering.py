"""Opens an export: it answers rows with the dictionaries that its run's predictions are, without PyTorch or TensorFlow.

The tasks and the tokenizer are the run's own code; only the model is in another runtime.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from pipeline.backend import GenerationSettings, OnToken
from pipeline.data.batches import Features
from pipeline.deploy.exported_model import ExportedModel, load_model
from pipeline.deploy.manifest import RECIPE, Manifest, read_manifest, verified_manifest
from pipeline.deploy.runtimes import Arrays
from pipeline.models import checkpoint
from pipeline.models.optimization import HIDDEN_LOGIT
from pipeline.recipe.loading import load_resolved
from pipeline.recipe.schema import Recipe
from pipeline.runs.prediction import prediction_recipe, prediction_task
from pipeline.tasks.base import Task
from pipeline.tasks.numerics import log_softmax

Write = Callable[[Features, GenerationSettings, OnToken | None], NDArray[np.int32]]


class ExportPredictor:
    """A `pipeline.backend.Predictor` that asks a runtime: `run` for the model's outputs, `write` for texts."""

    def __init__(self, run: Callable[[Features], Arrays], write: Write):
        self.run, self.write = run, write

    def logits(self, inputs: Features) -> NDArray[np.float32]:
        """The logits of one batch; padding can be neither start nor end of a span."""
        return self.answer(inputs)

    def answer(self, inputs: Features) -> NDArray[np.float32]:
        """The runtime's logits for one batch."""
        outputs = self.run(inputs)
        if "logits" in outputs:
            return outputs["logits"]
        hidden = (1 - inputs["attention_mask"][:, None, :]) * np.float32(HIDDEN_LOGIT)
        return np.stack([outputs["start_logits"], outputs["end_logits"]], axis=1) + hidden

    def token_losses(self, inputs: Features, targets: Features) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Each label's cross-entropy in nats and each position's likeliest token id, both [B, T]."""
        logits, labels = self.answer(inputs), targets["labels"]
        losses = -np.take_along_axis(log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        return losses.astype(np.float32), logits.argmax(axis=-1).astype(np.int32)

    def generate(
        self, inputs: Features, settings: GenerationSettings, on_token: OnToken | None = None
    ) -> NDArray[np.int32]:
        """Token ids [B, T] that the model writes; see `pipeline.backend.Predictor`."""
        return self.write(inputs, settings, on_token)


@dataclass(frozen=True)
class Export:
    """An export that answers: its manifest, its task with the labels of the model, its tokenizer and its model."""

    folder: Path
    manifest: Manifest
    task: Task
    tokenizer: PreTrainedTokenizerFast
    model: ExportedModel

    def predictor(self) -> ExportPredictor:
        """What answers batches."""
        return ExportPredictor(self.model.run, self.model.generate)


def open_export(folder: str | os.PathLike[str], changes: Mapping[str, object] | None = None) -> Export:
    """An export, verified and loaded in its runtime; `changes` override its recipe, as in a prediction by its run.

    `pipeline.runs.prediction.predict_rows` and `predict_lines` take it. Raises UserError if a file was altered, or if
    the runtime is not installed.
    """
    manifest = verified_manifest(Path(folder))
    task = task_of(Path(folder), manifest, changes)
    return Export(Path(folder), manifest, task, task.tokenizer, load_model(Path(folder), manifest))


def task_of(folder: Path, manifest: Manifest | None = None, changes: Mapping[str, object] | None = None) -> Task:
    """The task of an export, with its tokenizer and the labels of its manifest. Raises UserError."""
    manifest = manifest or read_manifest(folder)
    recipe = prediction_recipe(recipe_of(folder), folder, changes)
    config = checkpoint.load_config(recipe)
    task = prediction_task(recipe, config, checkpoint.load_tokenizer(recipe, config))
    if task.labels:
        task.labels = tuple(manifest.labels)
    return task


def recipe_of(folder: Path) -> Recipe:
    """The recipe of the run that an export came from. Raises UserError."""
    return load_resolved(folder / RECIPE)
