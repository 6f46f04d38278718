"""Metrics of short answers, by the rules of SQuAD.

Rajpurkar et al. 2016, section 6.1, and Rajpurkar et al. 2018 for questions without an answer.
"""

from __future__ import annotations

import re
import string
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence

import datasets
import numpy as np

from pipeline.metrics.base import TEXT, Inputs, Metric
from pipeline.metrics.resampling import Lines, Statistic, lists_of_texts, mean, texts

ANSWERS = Inputs(
    "predictions: answers; references: lists of accepted answers, empty if there is none",
    ({"predictions": TEXT, "references": datasets.List(TEXT)},),
)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class AnswerMetric(Metric):
    """A mean over questions, 0 to 100: each prediction is compared with the accepted answer that it matches best.

    Accepted answers without words do not count. A question that has no other accepted answer has none.
    """

    source = "Rajpurkar et al. 2016 and 2018, SQuAD"
    inputs = ANSWERS

    @staticmethod
    @abstractmethod
    def match(predicted: list[str], accepted: list[str]) -> float:
        """How well the words of two answers match, 0 to 1."""

    @classmethod
    def best_matches(cls, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """For each question the best match with an accepted answer, 0 to 1."""
        matches = []
        for prediction, answers in zip(predictions, references, strict=True):
            accepted = [words for answer in answers if (words := words_to_compare(answer))] or [[]]
            matches.append(max(cls.match(words_to_compare(prediction), words) for words in accepted))
        return matches

    def percentage(self, predictions: list[str], references: list[list[str]]) -> float:
        """The mean of the best matches, 0 to 100."""
        total = 0.0
        for match in self.best_matches(predictions, references):  # sum() rounds in another way from Python 3.12 on
            total += match
        return 100 * total / len(predictions)

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """The mean of the questions' matches."""
        if "prediction" not in lines[0]:
            return None
        answers = lists_of_texts(lines, "reference")
        return mean(100 * np.array(cls.best_matches(texts(lines, "prediction"), answers)))


class SquadExactMatch(AnswerMetric):
    """The share of answers that equal an accepted one, 0 to 100, after the normalization of SQuAD."""

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"squad_exact_match": self.percentage(predictions, references)}

    @staticmethod
    def match(predicted: list[str], accepted: list[str]) -> float:
        """1 if the words are the same, else 0."""
        return float(predicted == accepted)


class SquadF1(AnswerMetric):
    """The mean F1 of the words of answers and the nearest accepted ones, 0 to 100, after the normalization of SQuAD."""

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"squad_f1": self.percentage(predictions, references)}

    @staticmethod
    def match(predicted: list[str], accepted: list[str]) -> float:
        """F1 of the two bags of words; if either is empty, 1 if both are."""
        if not predicted or not accepted:
            return float(predicted == accepted)
        num_shared = (Counter(predicted) & Counter(accepted)).total()
        return 2 * num_shared / (len(predicted) + len(accepted))


def words_to_compare(answer: str) -> list[str]:
    """The words of an answer in lower case, without ASCII punctuation and articles."""
    return _ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split()
