"""An experiment: everything that a recipe names, loaded and checked, and the model before its first step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import datasets
import numpy as np
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from pipeline.backend import Backend, load_backend
from pipeline.data import batches, hub
from pipeline.data.batches import Features
from pipeline.data.packing import Layout
from pipeline.data.splits import content_digest, fingerprint, read_splits
from pipeline.metrics.scoring import metric_problems
from pipeline.metrics.specs import is_hub_metric
from pipeline.models import checkpoint
from pipeline.models.attention import STOCK
from pipeline.models.attention_check import refuse_attention
from pipeline.models.building import Start, build_for_training
from pipeline.models.dropout import DROPOUT_KEYS, token_keys
from pipeline.models.families import family_of
from pipeline.recipe.schema import Recipe
from pipeline.tasks import tokenized_cache as cache
from pipeline.tasks.base import Examples, Task, load_task
from pipeline.tasks.observations import Observations, observe
from pipeline.utils.environment import give_back_freed_memory, preserved_random_state
from pipeline.utils.errors import UserError, combine_errors
from pipeline.utils.hashing import short_digest
from pipeline.utils.text import count

PROBE_ROWS = 8
PROBE_POSITIONS = 16
# Of a whole training, all of which are planned before the first.
MOST_STEPS = 1_000_000
# The random key of splits that are drawn once; an epoch's key has two numbers, the seed and the epoch.
DRAWN_ONCE = [2**32 - 1, 2**32 - 1, 1]
# Keys of a configuration that say who wrote it and where it lies.
_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Experiment:
    """A recipe with everything that it names loaded and checked, before any framework is."""

    recipe: Recipe
    task: Task
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerFast
    examples: dict[str, Examples]
    fingerprint: str
    metric_names: tuple[str, ...]
    allow_pickle: bool = False
    observations: dict[str, Observations] = field(default_factory=dict)

    def model_fingerprints(self) -> dict[str, str | None]:
        """Sixteen hex digits of what the checkpoint brings besides its weights, also if these are random."""
        config = {key: value for key, value in self.config.to_dict().items() if key not in _NOT_OF_THE_MODEL}
        described = {"configuration": config, "tokenizer": cache.tokenizer_rules(self.tokenizer)}
        digests: dict[str, str | None] = {
            name: short_digest(json.dumps(each, sort_keys=True, default=str), 16) for name, each in described.items()
        }
        return digests | {"generation configuration": checkpoint.generation_fingerprint(self.recipe)}

    def training_plan(self, epoch: int, seed: int) -> batches.Plan:
        """The batches of an epoch, one for each step, as nothing but their examples asks for; epochs count from 0."""
        return self._training_plans([epoch], seed)[0]

    def training_plans(self, seed: int, num_epochs: int | None = None) -> Sequence[Sequence[batches.Batch]]:
        """The batches of all epochs, or of so many; in few shapes if they are packed or their steps compiled."""
        data, train, lengths = self.recipe.data, self.recipe.train, self.examples["train"].lengths
        plans = self._training_plans(range(num_epochs or train.epochs), seed)
        if not train.compile and data.batching == "packed":
            return batches.packed_in_few_shapes(plans, lengths, data.pad_to_multiple_of, train.precision)
        if not train.compile:
            return plans
        return batches.in_few_shapes(plans, lengths, train.gradient_accumulation, data.pad_to_multiple_of)

    def _training_plans(self, epochs: Iterable[int], seed: int) -> list[batches.Plan]:
        data, lengths = self.recipe.data, self.examples["train"].lengths
        return batches.training_plans(
            lengths, self.recipe.train.batch_size, seed, epochs, data.batching, data.pad_to_multiple_of
        )

    def features(self, plan: Iterable[batches.Batch], epoch: int, seed: int, first_step: int) -> Iterator[Features]:
        """Inputs and targets of each batch of an epoch, and the keys of its tokens if dropout masks are shared.

        `first_step` is the number of optimizer steps of the whole training before the first of these batches. Where
        whole examples have labels, these become [R, P, ...] in packed batches, with weight 0 where a row has fewer
        examples, and there are `pooled_positions` [R, P]: where in its row each example's first token is, or its last
        one in families whose heads read that.
        """
        examples = self.task.for_epoch(self.examples["train"], [seed, epoch])
        for step, batch in enumerate(plan, start=first_step):
            layout = batch.layout(examples.lengths)
            inputs, targets = self.task.inputs(examples, batch), self.task.targets(examples, batch)
            if layout.packing is not None and self.task.labels_whole_examples:
                targets = {name: layout.by_slot(values) for name, values in targets.items()}
                # The library's heads that read a last token pass over those for padding, whatever the mask says.
                is_read = inputs["input_ids"] != self.tokenizer.pad_token_id
                last_of = is_read if family_of(self.config).pools_last_token else None
                inputs["pooled_positions"] = layout.pooled_positions(last_of)
            features = inputs | targets
            if self.recipe.train.dropout_masks == "shared":
                features |= self.dropout_keys(layout, seed, step)
            yield batches.filled_up(features, batch.least_rows, batch.least_slots) if batch.least_rows else features

    @staticmethod
    def dropout_keys(layout: Layout, seed: int, step: int) -> Features:
        """The keys of a batch's tokens, from which their dropout masks are computed; see `models/dropout.py`."""
        return {
            name: token_keys(seed, step, stream.examples, stream.positions)
            for name, stream in zip(DROPOUT_KEYS, layout.streams, strict=False)
        }

    def probe(self) -> Features:
        """Inputs of the first validation rows in file order, the same batch for every model."""
        examples = self.examples["validation"]
        rows = np.arange(min(PROBE_ROWS, len(examples.lengths)))
        return self.task.inputs(examples, batches.padded_batch(rows, examples.lengths))

    def probe_logits(self, logits: np.ndarray) -> np.ndarray:
        """What is kept of the probe's logits: [rows, classes], or [positions, ...] of evenly spaced real positions."""
        return self.task.sample_logits(logits, self.probe(), PROBE_POSITIONS)


def prepare(
    recipe: Recipe, attention: str = STOCK, allow_hub_code: bool = False, allow_pickle: bool = False
) -> Experiment:
    """Load and check everything that the recipe names. Raises UserError with all that is wrong at once."""
    task, problems = load_task(recipe), Problems()
    hub.go_offline_if_unreachable(recipe)
    config, tokenizer = _load_checkpoint(recipe, task, attention, problems)
    splits = problems.attempt(read_splits, recipe, task.required, task.optional)
    if splits is not None:
        problems.attempt(task.validate, splits, dict(getattr(config, "label2id", None) or {}))
    names = recipe.metrics or task.default_metrics
    needs_permission = not allow_hub_code and any(is_hub_metric(name) for name in names)
    problems.add(
        recipe,
        metric_problems(recipe, names, task.metrics, len(task.labels), allow_hub_code),
        arguments=("allow_hub_code",) if needs_permission else (),
    )
    problems.raise_if_any()
    assert config is not None and tokenizer is not None and splits is not None
    for key, value in (task.config_changes() | {"pad_token_id": tokenizer.pad_token_id}).items():
        setattr(config, key, value)
    task.setup(config, tokenizer)
    digests = {split: content_digest(rows) for split, rows in splits.items()}
    examples = _encode(task, splits, digests)
    _refuse_endless(recipe, len(examples["train"].lengths))
    observed = observe(task, splits, examples)
    del splits
    give_back_freed_memory()
    return Experiment(recipe, task, config, tokenizer, examples, fingerprint(digests), names, allow_pickle, observed)


class Problems(list[UserError]):
    """What is wrong with a recipe, collected so that all of it is reported at once."""

    def attempt(self, load: Callable[..., Result], *arguments: object) -> Result | None:
        """What `load` returns; None if it raises UserError, whose message is kept."""
        try:
            return load(*arguments)
        except UserError as error:
            self.append(error)
            return None

    def add(self, recipe: Recipe, messages: Iterable[str], arguments: tuple[str, ...] = ()) -> None:
        """Keep messages about a recipe, and the arguments that they speak of."""
        self.extend(UserError(f"recipe {recipe.name}: {message}", arguments=arguments) for message in messages)

    def raise_if_any(self) -> None:
        """Raise UserError with a line for each problem."""
        if self:
            raise combine_errors(self)


def _load_checkpoint(
    recipe: Recipe, task: Task, attention: str, problems: Problems
) -> tuple[PretrainedConfig | None, PreTrainedTokenizerFast | None]:
    """Configuration and tokenizer of the recipe's checkpoint, None if they cannot be loaded."""
    config = problems.attempt(checkpoint.load_config, recipe)
    if config is None:
        return None, None
    tokenizer = problems.attempt(checkpoint.load_tokenizer, recipe, config)
    problems.attempt(refuse_attention, recipe, config, attention)
    if tokenizer is not None:
        problems.add(recipe, checkpoint.fit_problems(recipe, config, tokenizer, task.architectures))
    return config, tokenizer


def _encode(task: Task, splits: Mapping[str, datasets.Dataset], digests: Mapping[str, str]) -> dict[str, Examples]:
    """Each split as token ids, from the cache if it was encoded before. Raises UserError."""
    problems, examples = Problems(), {}
    for split, rows in splits.items():
        encoded = problems.attempt(cache.encoded, task, rows, digests[split])
        if encoded is not None:
            # What is drawn anew for training in each epoch is drawn once for the other splits.
            examples[split] = encoded if split == "train" else task.for_epoch(encoded, DRAWN_ONCE)
    problems.raise_if_any()
    for split, encoded in examples.items():
        _refuse_without_targets(task.recipe, split, encoded)
        _refuse_token_types(task, encoded)
    return examples


def _refuse_without_targets(recipe: Recipe, split: str, examples: Examples) -> None:
    """Raise UserError for a split in which nothing is to be predicted: it has no loss (0 / 0)."""
    if examples.num_targets.sum() == 0:
        raise UserError(
            f"recipe {recipe.name}: data.{split}: no row has a target that counts: all are cut off, blank or masked; "
            f"look at data.columns and data.max_length ({recipe.data.max_length})"
        )


def _refuse_token_types(task: Task, examples: Examples) -> None:
    """Raise UserError for pairs of texts if the model has no token type for the second."""
    token_types, known = examples.features.get("token_type_ids"), getattr(task.config, "type_vocab_size", None)
    if token_types is not None and known is not None and token_types.values.max(initial=0) >= known:
        raise UserError(
            f"recipe {task.recipe.name}: checkpoint {task.recipe.checkpoint} has {count(known, 'token type')} "
            "(type_vocab_size), but each row is a pair of texts, and the second has a token type of its own; name a "
            "checkpoint for pairs, or join the texts into one column"
        )


def _refuse_endless(recipe: Recipe, num_examples: int) -> None:
    """Raise UserError for more steps than can be planned."""
    train = recipe.train
    num_steps = train.epochs * -(-num_examples // train.batch_size)
    if num_steps > MOST_STEPS:
        raise UserError(
            f"recipe {recipe.name}: {count(num_examples, 'training example')} in batches of {train.batch_size:,} for "
            f"{count(train.epochs, 'epoch')} are {count(num_steps, 'step')}, but at most {MOST_STEPS:,} are planned; "
            "lower train.epochs, or raise train.batch_size"
        )


def start(experiment: Experiment, backend: Backend, seed: int, attention: str = STOCK) -> Start:
    """The model before the first step, with the attention that the run asks for."""
    return build_for_training(
        backend, experiment.recipe, experiment.task.auto_class, experiment.config, seed, attention,
        experiment.probe(), experiment.allow_pickle,
    )  # fmt: skip


@preserved_random_state()
def check(
    recipe: Recipe,
    framework: str = "torch",
    attention: str = STOCK,
    allow_hub_code: bool = False,
    allow_pickle: bool = False,
) -> Experiment:
    """Do everything that a run does before its first step, and write nothing. Raises UserError."""
    experiment = prepare(recipe, attention, allow_hub_code, allow_pickle)
    backend = load_backend(framework)
    with backend.preserved_generators():
        start(experiment, backend, 0, attention)
    return experiment
