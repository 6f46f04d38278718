"""A recipe made ready: everything that it names loaded and checked, and the model of step 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.backend import Backend, load_backend
from pipeline.data import batches, hub
from pipeline.data import loading as data
from pipeline.data.batches import Features
from pipeline.metrics.scoring import metric_problems
from pipeline.models import checkpoint
from pipeline.models.attention import STOCK
from pipeline.models.attention_check import Proof, refuse_attention
from pipeline.models.building import build_for_training
from pipeline.recipe.schema import Recipe
from pipeline.tasks import tokenized_cache as cache
from pipeline.tasks.base import Examples, Task, load_task
from pipeline.utils.environment import preserved_random_state
from pipeline.utils.errors import UserError

PROBE_ROWS = 8
PROBE_POSITIONS = 16
_ONCE = [2**32 - 1, 2**32 - 1, 1]  # the key of splits that are drawn once; a run's has a seed and an epoch


@dataclass(frozen=True)
class Experiment:
    """A recipe with everything that it names loaded and checked, before any framework is."""

    recipe: Recipe
    task: Task
    config: Any
    tokenizer: Any
    examples: dict[str, Examples]
    fingerprint: str
    metric_names: tuple[str, ...]
    allow_pickle: bool = False

    def training_plan(self, epoch: int, seed: int) -> list[batches.Batch]:
        """The updates of an epoch, counted from 0."""
        train = self.recipe.train
        multiple = self.recipe.data.pad_to_multiple_of
        return batches.training_batches(self.examples["train"].lengths, train.batch_size, seed, epoch, multiple)

    def updates(self, plan: list[batches.Batch], epoch: int, seed: int) -> Iterator[Features]:
        """Each update's global batch: inputs and targets."""
        examples = self.task.for_epoch(self.examples["train"], [seed, epoch])
        for batch in plan:
            yield self.task.inputs(examples, batch) | self.task.targets(examples, batch)

    def probe(self) -> Features:
        """The first validation rows in file order, a fixed question put to every model."""
        examples = self.examples["validation"]
        rows = np.arange(min(PROBE_ROWS, len(examples.lengths)))
        return self.task.inputs(examples, batches.padded_batch(rows, examples.lengths))

    def probe_logits(self, logits: np.ndarray) -> np.ndarray:
        """What is kept of the probe's logits: [rows, classes], or [positions, ...] of evenly spaced real positions."""
        if logits.ndim == 2:
            return logits
        inputs = self.probe()
        real = self.task.real_positions(inputs)
        if logits.shape[1:] == (2, real.shape[1]):  # of spans, a start and an end at each position
            logits = logits.transpose(0, 2, 1)
        at = np.argwhere(real)
        chosen = at[np.linspace(0, len(at) - 1, min(PROBE_POSITIONS, len(at))).round().astype(int)]
        return logits[chosen[:, 0], chosen[:, 1]]


def prepare(
    recipe: Recipe, attention: str = "stock", allow_hub_code: bool = False, allow_pickle: bool = False
) -> Experiment:
    """Load and check everything that the recipe names. Raises UserError with all that is wrong at once."""
    task, problems = load_task(recipe), []
    hub.go_offline_if_unreachable(recipe)

    def attempt(load: Callable, *args: Any) -> Any:
        try:
            return load(*args)
        except UserError as error:
            problems.append(str(error))

    config = attempt(checkpoint.load_config, recipe)
    tokenizer = attempt(checkpoint.load_tokenizer, recipe) if config is not None else None
    if config is not None:
        attempt(refuse_attention, recipe, config, attention)
    splits = attempt(data.read_splits, recipe, task.required, task.optional)
    if config is not None and tokenizer is not None:
        found = checkpoint.fit_problems(recipe, config, tokenizer, task.auto_class)
        problems += [f"recipe {recipe.name}: {text}" for text in found]
    if splits is not None:
        attempt(task.validate, splits, dict(getattr(config, "label2id", None) or {}))
    names = recipe.metrics or task.default_metrics
    found = metric_problems(recipe, names, task.metrics, len(task.labels), allow_hub_code)
    problems += [f"recipe {recipe.name}: {text}" for text in found]
    if problems:
        raise UserError("\n".join(problems))
    for key, value in task.config_changes().items():
        setattr(config, key, value)
    config.pad_token_id = tokenizer.pad_token_id
    task.setup(config, tokenizer)
    contents = {split: data.content_digest(rows) for split, rows in splits.items()}
    examples = {split: attempt(cache.encoded, task, rows, contents[split]) for split, rows in splits.items()}
    if problems:
        raise UserError("\n".join(problems))
    # What is drawn for training anew each epoch is drawn for the other splits once.
    examples |= {split: task.for_epoch(e, _ONCE) for split, e in examples.items() if split != "train"}
    for split, found in examples.items():
        _refuse_without_targets(recipe, split, found)
    fingerprint = data.fingerprint(contents)
    return Experiment(recipe, task, config, tokenizer, examples, fingerprint, names, allow_pickle)


def _refuse_without_targets(recipe: Recipe, split: str, examples: Examples) -> None:
    """A split in which nothing is to be predicted has no loss (0 / 0). Raises UserError."""
    if examples.num_targets.sum() == 0:
        raise UserError(
            f"recipe {recipe.name}: data.{split}: no row has a target that counts: all are cut off, blank or masked; "
            f"look at data.columns and data.max_length ({recipe.data.max_length})"
        )


def start(experiment: Experiment, backend: Backend, seed: int, attention: str = STOCK) -> tuple[Any, Proof]:
    """The model of step 0 with the attention that the run asks for, and the proof that it is in place."""
    return build_for_training(
        backend, experiment.recipe, experiment.task.auto_class, experiment.config, seed, attention,
        experiment.probe(), experiment.allow_pickle,
    )  # fmt: skip


@preserved_random_state()
def check(
    recipe: Recipe,
    framework: str = "torch",
    attention: str = "stock",
    allow_hub_code: bool = False,
    allow_pickle: bool = False,
) -> Experiment:
    """Do all that a run does before its first step, and write nothing. Raises UserError."""
    experiment = prepare(recipe, attention, allow_hub_code, allow_pickle)
    start(experiment, load_backend(framework), 0, attention)
    return experiment
