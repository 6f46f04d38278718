"""What a report says of the predictions: which are right, which mistakes are made, and whether probabilities hold.

Each sentence is about the same numbers as the tables and the figures beside it, those of `results.predictions`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.comparison.records.predictions import (
    AnswerDetails,
    ClassCounts,
    ClassDetails,
    NumberDetails,
    PredictionDetails,
    TagDetails,
    TextDetails,
    TokenDetails,
)
from pipeline.reporting.formatting import spread, value
from pipeline.utils.text import count

# Probabilities and shares of right predictions that are closer than this count as equal.
CLOSE = 0.02
# A calibration error from which on probabilities that are right on average are not so range by range.
UNEVEN = 0.05
ANSWER_ERRORS = {
    "too_long": "The accepted answer with more words around it",
    "too_short": "A part of the accepted answer",
    "shifted": "Shares words with the accepted answer",
    "elsewhere": "Shares no word with it",
    "wrongly_empty": "Empty where there is an answer",
    "wrongly_answered": "An answer where there is none",
}
ENTITY_ERRORS = {
    "other_type": "Found with another type",
    "other_words": "Found with other words",
    "missed": "Missed",
}


def predictions_lead(details: Mapping[str, PredictionDetails]) -> str:
    """What the predictions of all variants show, in a few sentences."""
    sentences = [
        *_of_classes({name: each.classes for name, each in details.items() if each.classes}),
        *_of_tags({name: each.tags for name, each in details.items() if each.tags}),
        *_of_answers({name: each.answers for name, each in details.items() if each.answers}),
        *_of_texts({name: each.texts for name, each in details.items() if each.texts}),
        *_of_numbers({name: each.numbers for name, each in details.items() if each.numbers}),
        *_of_tokens({name: each.tokens for name, each in details.items() if each.tokens}),
    ]
    return " ".join(["Counted over all seeds together.", *sentences]) if sentences else ""


def weakest(classes: list[ClassCounts]) -> ClassCounts:
    """The class with the lowest F1 among those that are true somewhere; among all, if none is."""
    return min([each for each in classes if each.true] or classes, key=lambda each: each.f1)


def _of_classes(details: Mapping[str, ClassDetails]) -> list[str]:
    if not details:
        return []
    hardest = _weakest_classes({name: each.classes for name, each in details.items()}, "class")
    return [*_shares_right(details), *hardest, *_calibration(details), *_worst_calibrated(details)]


def _shares_right(details: Mapping[str, ClassDetails]) -> list[str]:
    """How many predictions are right; nothing where an example has any number of labels."""
    shares = {
        variant: sum(each.right for each in own.classes) / total
        for variant, own in details.items()
        if own.thresholds and (total := sum(each.true for each in own.classes))
    }
    if not shares:
        return []
    return [f"Right: {', '.join(f'{share:.1%} of the predictions of {variant}' for variant, share in shares.items())}."]


def _weakest_classes(classes: Mapping[str, list[ClassCounts]], noun: str) -> list[str]:
    """Which class, or type of entity, is hardest: one for all variants, or each variant's own."""
    lowest = {variant: weakest(own) for variant, own in classes.items() if own}
    if not lowest:
        return []
    if len({each.name for each in lowest.values()}) == 1:
        name = next(iter(lowest.values())).name
        range_of_f1 = spread([each.f1 for each in lowest.values()], ".3f")
        whose = "" if len(lowest) == 1 else " in every variant"
        return [f"The hardest {noun}{whose} is “{name}” (F1 {range_of_f1})."]
    named = ", ".join(f"“{each.name}” in {variant} (F1 {each.f1:.3f})" for variant, each in lowest.items())
    return [f"The hardest {noun} is {named}."]


def _calibration(details: Mapping[str, ClassDetails]) -> list[str]:
    """Whether probabilities say how many predictions are right."""
    known = {name: each.calibration for name, each in details.items() if each.calibration}
    if not known:
        return []
    gaps = {variant: each.probability - each.right for variant, each in known.items()}
    errors = spread([each.error for each in known.values()], ".3f")
    if all(abs(gap) < CLOSE for gap in gaps.values()):
        opening = "On average, probabilities are as high as the share that is right"
        if max(each.error for each in known.values()) >= UNEVEN:
            opening += ", but high and low ones are not"
    elif all(gap >= CLOSE for gap in gaps.values()):
        opening = f"Probabilities are too high, by {_points(gaps)}: the models are surer than they should be"
    elif all(gap <= -CLOSE for gap in gaps.values()):
        opening = f"Probabilities are too low, by {_points(gaps)}: the models are less sure than they could be"
    else:
        named = ", ".join(f"{variant} {100 * gap:+.1f}" for variant, gap in gaps.items())
        opening = f"Probabilities minus the share that is right, in points: {named}".replace("-", "\N{MINUS SIGN}")
    return [f"{opening} (expected calibration error {errors})."]


def errors_by_class(details: Mapping[str, ClassDetails]) -> dict[str, dict[str, float]]:
    """The expected calibration error of each class against the rest, by class and variant."""
    errors: dict[str, dict[str, float]] = {}
    for variant, own in details.items():
        for curves in own.curves:
            if curves.calibration:
                errors.setdefault(curves.name, {})[variant] = curves.calibration.error
    return errors


def curves_shown(details: Mapping[str, ClassDetails]) -> str:
    """Which classes have curves, if not all have: a sentence with a space before it."""
    total, shown = max((len(own.classes), len(own.curves)) for own in details.values())
    return f" The {shown} of {total} classes that are true most often." if shown < total else ""


def _worst_calibrated(details: Mapping[str, ClassDetails]) -> list[str]:
    """The class whose own probability fits worst, over all variants together."""
    errors = errors_by_class(details)
    if not errors:
        return []
    worst = max(errors, key=lambda name: sum(errors[name].values()) / len(errors[name]))
    found = spread(list(errors[worst].values()), ".3f")
    return [f"Class by class, the probability of “{value(worst)}” fits worst (expected calibration error {found})."]


def _points(gaps: Mapping[str, float]) -> str:
    return f"{spread([100 * abs(gap) for gap in gaps.values()], '.1f')} points"


def _of_tags(details: Mapping[str, TagDetails]) -> list[str]:
    if not details:
        return []
    found = {}
    for variant, each in details.items():
        true = sum(errors.right + errors.other_type + errors.other_words + errors.missed for errors in each.errors)
        if not true:
            continue
        totals = {kind: sum(getattr(errors, kind) for errors in each.errors) for kind in ENTITY_ERRORS}
        right = sum(errors.right for errors in each.errors)
        most = max(totals, key=totals.__getitem__)
        rest = f"; the others are most often {_ENTITY_ERRORS_IN_A_SENTENCE[most]}" if totals[most] else ""
        found[variant] = f"{right / true:.1%} of {true:,} true {'entity' if true == 1 else 'entities'} are found{rest}."
    return [
        *_weakest_classes({name: each.entities for name, each in details.items()}, "type of entity"),
        *_for_each(found),
    ]


def _for_each(sentences: Mapping[str, str]) -> list[str]:
    """What is said of each variant after its name; once for those of which the same is said."""
    variants_by_sentence: dict[str, list[str]] = {}
    for variant, sentence in sentences.items():
        variants_by_sentence.setdefault(sentence, []).append(variant)
    return [f"{', '.join(variants)}: {sentence}" for sentence, variants in variants_by_sentence.items()]


_ENTITY_ERRORS_IN_A_SENTENCE = {
    "other_type": "found with another type",
    "other_words": "found with too few, too many or other words",
    "missed": "missed altogether",
}
_ANSWER_ERRORS_IN_A_SENTENCE = {
    "too_long": "have more words around it",
    "too_short": "are a part of it",
    "shifted": "share only some words with it",
    "elsewhere": "share no word with it",
    "wrongly_empty": "are empty although there is an answer",
    "wrongly_answered": "are answers to questions without one",
}


def _of_answers(details: Mapping[str, AnswerDetails]) -> list[str]:
    found = {}
    for variant, each in details.items():
        kinds = {kind: getattr(each.errors, kind) for kind in ANSWER_ERRORS}
        total = each.errors.exact + sum(kinds.values())
        most = max(kinds, key=kinds.__getitem__)
        rest = f"; the others most often {_ANSWER_ERRORS_IN_A_SENTENCE[most]}" if kinds[most] else ""
        found[variant] = (
            f"{each.errors.exact / total:.1%} of {count(total, 'answer')} are exactly an accepted one{rest}."
        )
    return _for_each(found)


def _of_texts(details: Mapping[str, TextDetails]) -> list[str]:
    if not details:
        return []
    medians = spread([each.length_ratio[2] for each in details.values()], ".2f")
    sentences = [f"The texts that were written have {medians} times as many words as their references (median)."]
    empty = {variant: each.empty for variant, each in details.items() if each.empty}
    if empty:
        sentences.append(f"Empty texts: {', '.join(f'{variant} {number:,}' for variant, number in empty.items())}.")
    return sentences


def _of_numbers(details: Mapping[str, NumberDetails]) -> list[str]:
    return _for_each({
        variant: f"the numbers are off by {each.error:.3g} on average, and their mean is {abs(each.bias):.3g} too "
        f"{'high' if each.bias > 0 else 'low'}."
        for variant, each in details.items()
    })  # fmt: skip


def _of_tokens(details: Mapping[str, TokenDetails]) -> list[str]:
    found = {}
    for variant, each in details.items():
        sentence = (
            f"the loss of half of the examples is between {each.percentiles[1]:.2f} and {each.percentiles[3]:.2f} nats "
            "a token"
        )
        if len(each.positions) > 1:
            first, last = each.positions[0], each.positions[-1]
            sentence += (
                f"; at the first position of a row it is {first.loss:.2f} on average, from position {last.first} on "
                f"{last.loss:.2f}"
            )
        found[variant] = f"{sentence}."
    return _for_each(found)
