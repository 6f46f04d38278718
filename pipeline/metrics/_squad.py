"""SQuAD's rules for comparing answers.

Source: Rajpurkar et al. 2016, section 6.1, and Rajpurkar et al. 2018 for questions without an answer.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable

import datasets
import evaluate

from pipeline.metrics._columns import TEXT, card

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def info(description: str) -> evaluate.MetricInfo:
    """The card of a metric over predicted answers and the accepted ones."""
    return card(
        description,
        "Rajpurkar et al. 2016 and 2018, SQuAD",
        "predictions: answers; references: lists of accepted answers, empty where there is none",
        {"predictions": TEXT, "references": datasets.List(TEXT)},
    )


def words(answer: str) -> list[str]:
    """The words that are compared: lower case, without ASCII punctuation and articles."""
    return _ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split()


def exact(predicted: list[str], accepted: list[str]) -> float:
    """1 where the words are the same, else 0."""
    return float(predicted == accepted)


def overlap(predicted: list[str], accepted: list[str]) -> float:
    """F1 of the two bags of words, 0 to 1; where either is empty, 1 if both are."""
    if not predicted or not accepted:
        return exact(predicted, accepted)
    common = (Counter(predicted) & Counter(accepted)).total()
    return 2 * common / (len(predicted) + len(accepted))


def percentage(
    score: Callable[[list[str], list[str]], float], predictions: list[str], references: list[list[str]]
) -> float:
    """The mean over questions of the best `score` against an accepted answer, 0 to 100.

    Accepted answers without words do not count; a question that has no other is one without an answer.
    """
    total = 0.0
    for prediction, answers in zip(predictions, references, strict=True):
        accepted = [bag for bag in map(words, answers) if bag] or [[]]
        total += max(score(words(prediction), bag) for bag in accepted)
    return 100 * total / len(predictions)
