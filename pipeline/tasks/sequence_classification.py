"""Sequence classification: for a text or a pair, one label of several, any number of labels, or a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.data.batches import Batch, Features
from pipeline.data.table import values_of
from pipeline.data.token_stream import Text, tokenized
from pipeline.metrics.specs import Outcome, need_probabilities
from pipeline.recipe.schema import Recipe
from pipeline.tasks.base import Examples, Prediction, ScoredExample, Task, known
from pipeline.tasks.labels import (
    LabelNaming,
    class_names,
    distinct_values,
    in_checkpoint_order,
    in_order,
    label_maps,
    labels_in,
    listed,
    look_alikes,
    names_of_config,
    naming_of,
    vector_width,
)
from pipeline.tasks.numerics import log_softmax, recorded, sigmoid
from pipeline.tasks.options import SequenceClassificationOptions
from pipeline.tasks.validation import first_problems, number_of, text_problems
from pipeline.utils.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

ONE, MANY, NUMBER = "single_label_classification", "multi_label_classification", "regression"
_LOSSES = {ONE: "cross_entropy", MANY: "binary_cross_entropy", NUMBER: "squared_error"}
_OUTCOMES: dict[str, tuple[Outcome, ...]] = {ONE: ("class",), MANY: ("labels",), NUMBER: ("number",)}
_DEFAULT_METRICS = {ONE: ("accuracy",), MANY: ("f1_micro",), NUMBER: ("pearson",)}
_MOST_LABELS = 1000
# Classes up to which predictions.jsonl has the probability of each; with more, the lines would grow long.
MOST_SCORED_CLASSES = 100


@dataclass(frozen=True, kw_only=True)
class LabeledTexts(Examples):
    """A tokenized split with its labels: ids [N], 0 and 1 [N, labels], or numbers [N]; None if there are none."""

    labels: NDArray | None = None


class SequenceClassification(Task[LabeledTexts, ScoredExample, Prediction]):
    """The task for one recipe; `options.problem_type` chooses one of its three kinds."""

    auto_class = "AutoModelForSequenceClassification"
    architectures = ("encoder", "decoder")
    examples_class = LabeledTexts
    options: SequenceClassificationOptions
    labels_whole_examples = True
    required = ("text", "label")
    optional = ("text_pair",)

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        self.problem_type = self.options.problem_type
        self.loss = _LOSSES[self.problem_type]
        self.outcomes, self.default_metrics = _OUTCOMES[self.problem_type], _DEFAULT_METRICS[self.problem_type]
        self.predicts_classes = self.problem_type != NUMBER
        if "text_pair" in recipe.data.columns:
            self.prediction_fields = ("text", "text_pair")
        # The probabilities of all classes are large, and most metrics do not read them.
        self.keeps_scores = need_probabilities(recipe.metrics)
        self.naming = LabelNaming()
        self._vector_width: int | None = None

    def validate(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> None:
        """Check all rows; whether lists of labels are vectors of 0 and 1 is judged over all splits together."""
        if self.problem_type == MANY and class_names(splits["train"], "label") is None:
            self._vector_width = vector_width(values_of(rows, "label") for rows in splits.values())
        super().validate(splits, checkpoint_labels)

    def row_problems(self, split: str, rows: datasets.Dataset) -> Iterable[str]:
        """Texts that are missing, and labels of the wrong kind."""
        for field in ("text", "text_pair"):
            if field in rows.column_names:
                yield from text_problems(split, field, rows)
        if self._vector_width is not None:
            return
        problem_of = _LABEL_PROBLEMS[self.problem_type]
        is_class_label = class_names(rows, "label") is not None
        numbered = enumerate(values_of(rows, "label"), start=1)
        faults = ((number, problem_of(value, is_class_label)) for number, value in numbered)
        yield from first_problems(split, (f"{split} row {number}: label {text}" for number, text in faults if text))

    def fit_labels(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> list[str]:
        """Take the label names from the training split, in the order of a checkpoint that has the same ones."""
        if self.problem_type == NUMBER:
            return self.setting_problems()
        if problems := self._naming_problems(splits):
            return problems
        if problems := look_alikes(set[str]().union(*map(self._names_in, splits.values()))):
            return problems
        in_training = self._names_in(splits["train"])
        problems = [text for split, rows in splits.items() for text in self._unknown_labels(split, rows, in_training)]
        if not problems and len(in_training) < 2:
            only = f'only the label "{listed(sorted(in_training))}"' if in_training else "no label"
            problems.append(f"train has {only}; classification needs at least two")
        if not problems and len(in_training) > _MOST_LABELS:
            problems.append(f"train has {len(in_training)} different labels; is data.columns.label the right column?")
        if problems:
            return problems
        names = self.naming.names or class_names(splits["train"], "label") or _in_order(splits["train"])
        self.labels = in_checkpoint_order(names, checkpoint_labels)
        allowed = ("train.label_smoothing", "train.class_weights") if self.problem_type == ONE else ()
        return self.setting_problems((*allowed, "data.labels")) + self._weight_problems()

    def _naming_problems(self, splits: dict[str, datasets.Dataset]) -> list[str]:
        """Take the names that the recipe gives to the labels; returns what does not fit."""
        setting, width = self.recipe.data.labels, self._vector_width
        if width is not None:
            if isinstance(setting, tuple) and len(setting) == width:
                self.naming = LabelNaming(setting, reads_vectors=True)
                return []
            named = "" if setting is None else f", but it has {len(setting)} entries"
            return [
                f"each label is a list of {width} zeros and ones; data.labels must list the names of the {width} "
                f"classes in their order{named}"
            ]
        try:
            self.naming = naming_of(setting, set[str]().union(*map(self._names_in, splits.values())))
        except ValueError as error:
            return [str(error)]
        return []

    def _names(self, rows: datasets.Dataset) -> Iterator[tuple[str, ...]]:
        """Each row's labels as names: ClassLabel ids by their names, others as they are written or data.labels says."""
        stored_names = class_names(rows, "label")
        return (self.naming.names_of(value, stored_names) for value in labels_in(rows, "label"))

    def _names_in(self, rows: datasets.Dataset) -> set[str]:
        """All names that the labels of some rows have."""
        stored_names = class_names(rows, "label")
        return {name for v in distinct_values(rows, "label") for name in self.naming.names_of(v, stored_names)}

    def _unknown_labels(self, split: str, rows: datasets.Dataset, in_training: set[str]) -> list[str]:
        known = in_training if self.naming.names is None else set(self.naming.names)
        if self._names_in(rows) <= known:
            return []
        lacks = "the training split does not have" if self.naming.names is None else "data.labels does not have"
        unknown = (
            f'{split} row {number}: label is "{name}", which {lacks} ({listed(sorted(known))}).'
            f"{did_you_mean(name, known)}"
            for number, names in enumerate(self._names(rows), start=1)
            for name in names
            if name not in known
        )
        return first_problems(split, unknown)

    def config_changes(self) -> dict[str, object]:
        """The kind of problem, and the labels with their names."""
        labels: dict[str, object] = {"num_labels": 1} if self.problem_type == NUMBER else label_maps(self.labels)
        return labels | {"problem_type": self.problem_type}

    def setup(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        """Take config and tokenizer, and the labels of a trained model.

        Raises UserError if the recipe has pairs of texts and the tokenizer cannot separate them.
        """
        super().setup(config, tokenizer)
        if "text_pair" in self.recipe.data.columns and tokenizer.num_special_tokens_to_add(pair=True) == 0:
            raise UserError(
                f"recipe {self.recipe.name}: the tokenizer of {self.recipe.checkpoint} puts nothing between the texts "
                "of a pair, so a model could not tell where one ends; use a checkpoint whose tokenizer does, or join "
                "the texts in one column"
            )
        if not self.labels and self.problem_type != NUMBER:
            self.labels = names_of_config(config)

    def encode(self, rows: datasets.Dataset) -> LabeledTexts:
        """Tokenize one split; rows of more than `data.max_length` tokens are truncated and counted."""
        texts = values_of(rows, "text")
        if "text_pair" in rows.column_names:
            texts = zip(texts, values_of(rows, "text_pair"), strict=True)
        features, truncated = tokenized(self.tokenizer, cast(Iterable[Text], texts), self.recipe.data.max_length)
        return LabeledTexts(
            features,
            lengths=features["input_ids"].lengths,
            num_targets=np.ones(len(rows), np.int64),
            counts={"rows": len(rows), "truncated": int(truncated.sum())},
            truncated=truncated,
            labels=self._label_array(rows) if "label" in rows.column_names else None,
        )

    def targets(self, examples: LabeledTexts, batch: Batch) -> Features:
        """`labels` [B] ids or numbers, or [B, labels] of 0 and 1; `loss_weights` of the same shape, summing to 1."""
        labels = known(examples.labels)[batch.rows]
        weights = self._class_weights(examples)[labels] if self.problem_type == ONE else np.ones(labels.shape)
        return {"labels": labels, "loss_weights": (weights / weights.sum()).astype(np.float32)}

    def score_batch(self, output: NDArray, examples: LabeledTexts, rows: NDArray) -> list[ScoredExample]:
        """Compare predictions with references; the loss is the plain one, without smoothing or class weights."""
        references = known(examples.labels)[rows]
        if self.problem_type == NUMBER:
            return [_score_number(*each) for each in zip(output[:, 0], references, strict=True)]
        predictions = self.decode_batch(output, examples, rows)
        if self.problem_type == MANY:
            return [self._score_classes(*each) for each in zip(output, predictions, references, strict=True)]
        return self._score_class(output, predictions, references)

    def decode_batch(self, output: NDArray, examples: LabeledTexts, rows: NDArray) -> list[Prediction]:
        """A label with its probability, the labels over one half with all probabilities, or a number."""
        if self.problem_type == NUMBER:
            return [{"prediction": float(value)} for value in output[:, 0]]
        if self.problem_type == MANY:
            probabilities_BC = sigmoid(output)
            return [
                {
                    "prediction": [name for name, p in zip(self.labels, row, strict=True) if p > 0.5],
                    "score": dict(zip(self.labels, scores, strict=True)),
                }
                for row, scores in zip(probabilities_BC, recorded(probabilities_BC).tolist(), strict=True)
            ]
        best = output.argmax(axis=-1)
        probabilities = recorded(np.exp(log_softmax(output))[np.arange(len(output)), best])
        return [{"prediction": self.labels[i], "score": p} for i, p in zip(best, probabilities.tolist(), strict=True)]

    def _score_class(self, logits_BC: NDArray, predicted: list[Prediction], references: NDArray) -> list[ScoredExample]:
        """Of two classes a line has the score of one; of more, up to a number, also those of all, in their order."""
        log_probabilities_BC = log_softmax(logits_BC)
        probabilities_BC = np.exp(log_probabilities_BC)
        recorded_BC = recorded(probabilities_BC)
        is_recorded, scored = 2 < len(self.labels) <= MOST_SCORED_CLASSES, []
        for row, reference in enumerate(references.tolist()):
            score = predicted[row]["score"]
            line = {"prediction": predicted[row]["prediction"], "reference": self.labels[reference], "score": score}
            columns: dict[str, object] = {"predictions": int(logits_BC[row].argmax()), "references": reference}
            if is_recorded:
                line["scores"] = recorded_BC[row].tolist()
            if self.keeps_scores:
                columns["scores"] = probabilities_BC[row].tolist()
            scored.append(ScoredExample(line, columns, -float(log_probabilities_BC[row, reference]), 1))
        return scored

    def _score_classes(self, logits: NDArray, predicted: dict[str, object], reference: NDArray) -> ScoredExample:
        names = [name for name, is_set in zip(self.labels, reference, strict=True) if is_set]
        line = {"prediction": predicted["prediction"], "reference": names, "score": predicted["score"]}
        columns = {"predictions": (logits > 0).astype(int).tolist(), "references": reference.astype(int).tolist()}
        if self.keeps_scores:
            columns["scores"] = sigmoid(logits).tolist()
        exact = logits.astype(np.float64)
        losses = np.logaddexp(0.0, exact) - exact * reference
        return ScoredExample(line, columns, float(losses.sum()), len(losses))

    def _weight_problems(self) -> list[str]:
        weights, names = self.recipe.train.class_weights, self.labels
        if isinstance(weights, tuple) and len(weights) != len(names):
            return [f"train.class_weights has {len(weights)} numbers for {len(names)} labels: {listed(names)}"]
        if isinstance(weights, dict) and set(weights) != set(names):
            return [f"train.class_weights names {listed(sorted(weights))}, but the labels are {listed(names)}"]
        return []

    def _class_weights(self, examples: LabeledTexts) -> NDArray[np.float64]:
        """A weight for each class [classes]; "balanced" is scikit-learn's N / (classes · count)."""
        weights = self.recipe.train.class_weights
        if weights is None:
            return np.ones(len(self.labels))
        if weights == "balanced":
            labels = known(examples.labels)
            counts = np.bincount(labels, minlength=len(self.labels))
            return len(labels) / (len(self.labels) * np.maximum(counts, 1))
        return np.array([weights[name] for name in self.labels] if isinstance(weights, dict) else weights)

    def _label_array(self, rows: datasets.Dataset) -> NDArray:
        """Labels as the loss takes them: ids [N], 0 and 1 [N, labels], or numbers [N]."""
        if self.problem_type == NUMBER:
            return np.fromiter(map(number_of, values_of(rows, "label")), np.float32, len(rows))
        ids = {name: i for i, name in enumerate(self.labels)}
        if self.problem_type == ONE:
            stored_names, values = class_names(rows, "label"), distinct_values(rows, "label")
            id_of = {value: ids[name] for value in values for name in self.naming.names_of(value, stored_names)}
            return np.fromiter((id_of[value] for value in labels_in(rows, "label")), np.int32, len(rows))
        array = np.zeros((len(rows), len(ids)), dtype=np.float32)
        for row, names in enumerate(self._names(rows)):
            array[row, [ids[name] for name in names]] = 1
        return array


def _score_number(predicted: np.floating, reference: np.floating) -> ScoredExample:
    prediction, truth = float(predicted), float(reference)
    columns = {"predictions": prediction, "references": truth}
    return ScoredExample({"prediction": prediction, "reference": truth}, columns, (prediction - truth) ** 2, 1)


def _class_problem(value: object, is_class_label: bool) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"is {'null' if value is None else 'empty'}"
    if isinstance(value, list):
        return "is a list; several labels a row need options.problem_type=multi_label_classification"
    if not isinstance(value, str | int):
        return f"is {value!r}, but must be a whole number or text"
    if is_class_label and int(value) < 0:
        return f"is {value}, which marks a row without a label"
    return None


def _list_problem(value: object, is_class_label: bool) -> str | None:
    if not isinstance(value, list):
        return f"is {value!r}, but must be a list of labels (json, jsonl or parquet files can hold one)"
    if len(set(map(str, value))) != len(value):
        return f"is {str(value)[:60]}, which names a label twice; list the labels that apply, not a 0 or 1 for each"
    return next((text for item in value if (text := _class_problem(item, is_class_label))), None)


def _number_problem(value: object, is_class_label: bool) -> str | None:
    if number_of(value) is not None:
        return None
    comma = isinstance(value, str) and number_of(value.replace(",", ".", 1)) is not None
    return f"is {value!r}, but must be a number" + ("; write a decimal point for the comma" if comma else "")


_LABEL_PROBLEMS: dict[str, Callable[[object, bool], str | None]] = {
    ONE: _class_problem,
    MANY: _list_problem,
    NUMBER: _number_problem,
}


def _in_order(rows: datasets.Dataset) -> tuple[str, ...]:
    """All label names: numbers by size, also those that are written as texts, other texts in alphabetical order."""
    flat = {v for value in distinct_values(rows, "label") for v in (value if isinstance(value, list) else [value])}
    texts = [v for v in flat if isinstance(v, str)]
    return tuple(in_order(texts) if len(texts) == len(flat) else map(str, sorted(flat)))
