"""Whether two classifiers predict the same, and which of them is right where they do not."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydantic import JsonValue
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa

from pipeline.comparison.records.scores import Agreement


def agreement(seeds: Iterable[tuple[list[JsonValue], list[JsonValue], list[JsonValue]]]) -> Agreement | None:
    """Agreement, Cohen's kappa and McNemar's exact test of (first predictions, second predictions, truth) by seed.

    Counts are over all seeds together. The same examples return with each seed, so they are not independent trials:
    McNemar's p is the smallest of the seeds' times their number (Bonferroni). None if there are no predictions.
    """
    predictions, correctness, p_values = [], np.zeros((2, 2), int), []
    for columns in seeds:
        wrong = np.zeros((2, 2), int)  # [first is wrong, second is wrong]
        for first, second, truth in zip(*(map(_hashable, column) for column in columns), strict=True):
            predictions.append((first, second))
            wrong[int(first != truth), int(second != truth)] += 1
        correctness += wrong
        p_values.append(float(vars(mcnemar(wrong, exact=True))["pvalue"]))
    if not predictions:
        return None
    ids = {name: i for i, name in enumerate(dict.fromkeys(name for pair in predictions for name in pair))}
    counts = np.zeros((len(ids), len(ids)), int)
    for first, second in predictions:
        counts[ids[first], ids[second]] += 1
    return Agreement(
        num_predictions=len(predictions),
        agree=float(np.trace(counts) / len(predictions)),
        # If all predictions are one class, chance explains everything and kappa is 0 / 0.
        kappa=float(cohens_kappa(counts)["kappa"]) if len(ids) > 1 else None,
        mcnemar_p=min(1.0, len(p_values) * min(p_values)),
        first_only_right=int(correctness[0, 1]),
        second_only_right=int(correctness[1, 0]),
    )


def _hashable(prediction: JsonValue) -> object:
    """A set of labels is one answer, whatever their order."""
    return tuple(sorted(map(str, prediction))) if isinstance(prediction, list) else prediction
