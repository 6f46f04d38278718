"""Answers and written texts: which lengths are hard, what is wrong with answers, and which texts are worst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import JsonValue
from sacrebleu.metrics.chrf import CHRF

from pipeline.comparison.records.predictions import AnswerDetails, AnswerErrors, Example, LengthScore, TextDetails
from pipeline.metrics.question_answering import SquadF1, words_to_compare
from pipeline.metrics.resampling import Lines, lists_of_texts, texts

# Words of a reference: the lowest and the highest number of each band.
ANSWER_BANDS = ((0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (9, None))
TEXT_BANDS = ((0, 0), (1, 1), (2, 4), (5, 8), (9, 16), (17, 32), (33, None))
RATIO_PERCENTILES = (10, 25, 50, 75, 90)
MAX_WORST = 5
MAX_SCORED = 1000  # texts among which the worst are sought
Scored = tuple[int, bool, float]  # words of the reference, whether it is met, F1 of shared words


def answer_details(lines: Lines) -> AnswerDetails:
    """Answers beside the accepted one that they match best, after the normalization of SQuAD."""
    scored, kinds = [], Counter()
    for answer, accepted in zip(texts(lines, "prediction"), lists_of_texts(lines, "reference"), strict=True):
        predicted = words_to_compare(answer)
        options = [words for text in accepted if (words := words_to_compare(text))] or [[]]
        nearest = max(options, key=lambda words: SquadF1.match(predicted, words))
        scored.append((len(nearest), predicted == nearest, SquadF1.match(predicted, nearest)))
        kind = _kind_of_answer(predicted, nearest)
        kinds[kind] += 1
        if kind in ("too_long", "too_short", "shifted"):
            kinds["starts_wrong"] += predicted[0] != nearest[0]
            kinds["ends_wrong"] += predicted[-1] != nearest[-1]
    counts = {name: kinds[name] for name in AnswerErrors.model_fields}
    return AnswerDetails(lengths=_by_length(scored, ANSWER_BANDS), errors=AnswerErrors(**counts))


def _kind_of_answer(predicted: list[str], accepted: list[str]) -> str:
    """What an answer is beside the accepted one, by the names of AnswerErrors."""
    if predicted == accepted:
        return "exact"
    if not accepted:
        return "wrongly_answered"
    if not predicted:
        return "wrongly_empty"
    if _contains(predicted, accepted):
        return "too_long"
    if _contains(accepted, predicted):
        return "too_short"
    return "shifted" if set(predicted) & set(accepted) else "elsewhere"


def _contains(words: list[str], part: list[str]) -> bool:
    """Whether `part` stands in `words`, in one piece."""
    return any(words[start : start + len(part)] == part for start in range(len(words) - len(part) + 1))


def text_details(runs: Sequence[tuple[int, Lines]], rows: Sequence[Mapping[str, JsonValue]]) -> TextDetails:
    """Written texts beside the reference that they match best; `runs` are seeds with their lines, `rows` the data."""
    scored, ratios, empty = [], [], 0
    for _, lines in runs:
        for text, references in zip(texts(lines, "prediction"), lists_of_texts(lines, "reference"), strict=True):
            words = text.split()
            nearest = max((each.split() for each in references), key=lambda each: SquadF1.match(words, each))
            is_exact = text.strip() in {reference.strip() for reference in references}
            scored.append((len(nearest), is_exact, SquadF1.match(words, nearest)))
            ratios.append(len(words) / max(1, len(nearest)))
            empty += not words
    return TextDetails(
        lengths=_by_length(scored, TEXT_BANDS),
        length_ratio=np.percentile(ratios, RATIO_PERCENTILES).tolist(),
        empty=empty,
        worst=_worst(*runs[0], rows),
    )


def _worst(seed: int, lines: Lines, rows: Sequence[Mapping[str, JsonValue]]) -> list[Example]:
    """The texts with the lowest chrF, the worst first; those that are right are not among them."""
    scorer, found = CHRF(), []
    pairs = zip(texts(lines, "prediction"), lists_of_texts(lines, "reference"), strict=True)
    for index, (text, references) in enumerate(list(pairs)[:MAX_SCORED]):
        if text.strip() not in {reference.strip() for reference in references}:
            found.append((scorer.sentence_score(text, references).score, index, text, references))
    return [
        Example(
            index=index,
            seed=seed,
            fields=dict(rows[index]) if index < len(rows) else {},
            prediction=text,
            reference=" / ".join(references),
            score=score,
        )
        for score, index, text, references in sorted(found, key=lambda each: each[:2])[:MAX_WORST]
    ]


def _by_length(scored: Sequence[Scored], bands: Sequence[tuple[int, int | None]]) -> list[LengthScore]:
    """The scores of each band of lengths that occurs."""
    found = []
    for low, high in bands:
        inside = [each for each in scored if low <= each[0] and (high is None or each[0] <= high)]
        if inside:
            _, exact, partial = np.array(inside, np.float64).mean(axis=0).tolist()
            found.append(LengthScore(low=low, high=high, count=len(inside), exact=exact, partial=partial))
    return found
