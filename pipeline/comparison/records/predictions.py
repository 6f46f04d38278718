"""Records of what the predictions show: which examples a variant gets right, and which kinds of mistakes it makes.

Everything is counted over all seeds of a variant together, from the lines of predictions.jsonl.
"""

from __future__ import annotations

from pydantic import JsonValue

from pipeline.comparison.records.base import Number, Record


class ClassCounts(Record):
    """How often a class, a label or a type of entity is predicted and true."""

    name: str
    right: int
    """Predicted where it is true."""
    predicted: int
    true: int

    @property
    def precision(self) -> float | None:
        """The share of the predicted that are true; None if it was never predicted."""
        return self.right / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """The share of the true that are predicted; None if it is never true."""
        return self.right / self.true if self.true else None

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 if it is neither predicted nor true."""
        total = self.predicted + self.true
        return 2 * self.right / total if total else 0.0


class Bin(Record):
    """Predictions whose probability lies in one range."""

    low: float
    high: float
    count: int
    probability: Number
    """The mean of the model's probabilities; None if there are no predictions."""
    right: Number
    """The share that is right."""


class Calibration(Record):
    """Whether probabilities can be believed: ten ranges of equal width (Guo et al. 2017, On calibration).

    With one class for each example, of the predicted class; with labels, of every label of every example.
    """

    bins: list[Bin]
    error: float
    """The expected calibration error: the mean of |probability - right| over the ranges, weighted by their counts."""
    probability: float
    """The mean of all probabilities."""
    right: float
    """The share of all predictions that are right."""


class Threshold(Record):
    """What remains if only predictions with a probability of at least `at_least` are taken."""

    at_least: float
    kept: float
    """The share of predictions that are taken."""
    right: Number
    """The share of those that are right; None if none is taken."""


class Operating(Record):
    """Precision and recall of one class if it is predicted from a probability of `at_least` on."""

    at_least: float
    precision: Number
    """None if nothing is predicted."""
    recall: float


class ClassCurves(Record):
    """One of several classes or labels against the rest, by the probability that is given to it in every example."""

    name: str
    calibration: Calibration | None
    """How often it is true where its probability is high or low; None if no probability is finite."""
    operating: list[Operating]
    """By rising threshold; empty if it is never true."""


class ClassDetails(Record):
    """Of a task that predicts a class, or labels, for each example."""

    classes: list[ClassCounts]
    """In the order of the model's classes, or of the first lines if the model is gone."""
    confusion: list[list[int]] | None
    """How often [true class][predicted class] occurs, in the order of `classes`; None if examples have labels."""
    calibration: Calibration | None
    """None if no probability is finite, as after a training that diverged."""
    thresholds: list[Threshold] = []
    """Empty if examples have labels."""
    positive: str | None = None
    """The class of `operating`: the second of two; None if there are more, or labels."""
    operating: list[Operating] = []
    """By rising threshold; empty without `positive`."""
    curves: list[ClassCurves] = []
    """Of the classes that are true most often, 12 at most; empty without `scores` of more than two in the lines."""


class EntityErrors(Record):
    """What became of the true entities of one type; the counts add up to all of them."""

    name: str
    right: int
    other_type: int
    """Found with the same words and another type."""
    other_words: int
    """Found in part, or with too many words."""
    missed: int
    """Found in no word."""
    invented: int
    """Predicted entities of this type that share no word with a true one; not among the true ones."""


class TagDetails(Record):
    """Of a task that predicts tags for words; entities as seqeval counts them."""

    entities: list[ClassCounts]
    """By type, in alphabetical order."""
    errors: list[EntityErrors]
    """In the same order."""


class LengthScore(Record):
    """Scores of the examples whose reference has `low` to `high` words."""

    low: int
    high: int | None
    """None if there is no upper end."""
    count: int
    exact: float
    """The share that equals a reference."""
    partial: float
    """The mean F1 of shared words, from 0 to 1."""


class AnswerErrors(Record):
    """What the predicted answers are beside the accepted answer that they share most words with."""

    exact: int
    too_long: int
    """The accepted answer with more words around it."""
    too_short: int
    """A part of the accepted answer."""
    shifted: int
    """Shares words with it, and each has words that the other lacks."""
    elsewhere: int
    """Shares no word with it."""
    wrongly_empty: int
    """Empty where there is an answer."""
    wrongly_answered: int
    """An answer where there is none."""
    starts_wrong: int
    """Of those that are too long, too short or shifted: how many do not begin with the same word."""
    ends_wrong: int
    """Of the same: how many do not end with the same word."""


class AnswerDetails(Record):
    """Of a task that finds an answer in a text."""

    lengths: list[LengthScore]
    errors: AnswerErrors


class Example(Record):
    """A validation example with what a variant predicts for it."""

    index: int
    """The row in the validation split."""
    seed: int
    fields: dict[str, JsonValue] = {}
    """What the prediction is made from; empty if the data cannot be read any more."""
    prediction: str
    reference: str
    score: float


class TextDetails(Record):
    """Of a task that writes a text."""

    lengths: list[LengthScore]
    length_ratio: list[float]
    """Words written, divided by the words of the reference: 10th, 25th, 50th, 75th and 90th percentile of the texts."""
    empty: int
    """Texts without a word."""
    worst: list[Example]
    """Of the first seed, those with the lowest chrF; `score` is that, from 0 to 100."""


class NumberBand(Record):
    """Examples whose true number lies in one fifth of all, in ascending order."""

    low: float
    high: float
    count: int
    true: float
    """The mean of the true numbers."""
    predicted: float
    """The mean of the predicted ones."""
    error: float
    """The mean distance of the two."""


class NumberDetails(Record):
    """Of a task that predicts a number."""

    bands: list[NumberBand]
    bias: float
    """The mean of predicted minus true."""
    error: float
    """The mean distance of predicted and true numbers."""


class PositionLoss(Record):
    """The mean loss of the tokens at some positions of their rows, in nats."""

    first: int
    """Positions count from 1."""
    last: int
    tokens: int
    loss: float


class FrequencyScore(Record):
    """How many hidden tokens are right among those that occur `low` to `high` times as a hidden token."""

    low: int
    high: int | None
    """None if there is no upper end."""
    tokens: int
    right: int


class TokenDetails(Record):
    """Of a language model."""

    percentiles: list[float]
    """Of the mean loss of a token in each example, in nats: 5th, 25th, 50th, 75th and 95th, over examples."""
    positions: list[PositionLoss] = []
    """Empty for masked language models, and for runs of a version that did not record them."""
    frequencies: list[FrequencyScore] = []
    """Of a masked language model."""


class PredictionDetails(Record):
    """What the predictions of one variant show; of the parts, the one of its task."""

    num_predictions: int
    """Over all seeds together."""
    classes: ClassDetails | None = None
    tags: TagDetails | None = None
    answers: AnswerDetails | None = None
    texts: TextDetails | None = None
    numbers: NumberDetails | None = None
    tokens: TokenDetails | None = None
