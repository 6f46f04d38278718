"""The tables of what predictions show, as text."""

from __future__ import annotations

from collections import Counter, defaultdict

from pipeline.comparison.records.predictions import (
    ClassCounts,
    ClassDetails,
    LengthScore,
    PredictionDetails,
)
from pipeline.comparison.results import Results
from pipeline.reporting.details.sentences import ANSWER_ERRORS, ENTITY_ERRORS, curves_shown
from pipeline.reporting.elements import Cell, Table
from pipeline.reporting.formatting import MINUS, UNDEFINED, value
from pipeline.utils.text import shorten

MAX_CLASSES = 30  # in a table
OPEN_CLASSES = 4  # a table of more is folded
MAX_CONFUSIONS = 10
MAX_TEXT = 300
Groups = dict[str, list[list[Cell]]]


def prediction_tables(results: Results) -> list[Table]:
    """Every table that the predictions of the task give, empty ones too."""
    details = results.predictions
    return [
        _classes({name: each.classes.classes for name, each in details.items() if each.classes}, "class"),
        _confusions({name: each.classes for name, each in details.items() if each.classes}),
        _calibration({name: each.classes for name, each in details.items() if each.classes}),
        _calibration_by_class({name: each.classes for name, each in details.items() if each.classes}),
        _thresholds({name: each.classes for name, each in details.items() if each.classes}),
        _classes({name: each.tags.entities for name, each in details.items() if each.tags}, "type of entity"),
        _entity_errors(details),
        _answer_errors(details),
        _lengths(details),
        _length_ratios(details),
        _worst_texts(details),
        _numbers(details),
        _row_losses(details),
        _positions(details),
        _frequencies(details),
    ]


def _classes(by_variant: dict[str, list[ClassCounts]], noun: str) -> Table:
    """Precision, recall and F1 of each class or type of entity; of many the hardest."""
    first = next(iter(by_variant.values()), [])
    chosen = first
    if len(first) > MAX_CLASSES:
        chosen = sorted((each for each in first if each.true), key=lambda each: each.f1)[:MAX_CLASSES]
    groups: Groups = defaultdict(list)
    for each in chosen:
        for variant, counts in by_variant.items():
            own = next((other for other in counts if other.name == each.name), None)
            if own is not None:
                cells = [_share(own.precision), _share(own.recall), _share(own.f1)]
                groups[value(each.name)].append([variant, *cells, f"{own.predicted:,}", f"{own.true:,}"])
    left_out = len(first) - len(chosen)
    note = f"The {len(chosen)} with the lowest F1; {left_out} more are in results.json." if left_out else ""
    return Table(
        f"Scores of each {noun}",
        ["Variant", "Precision", "Recall", "F1", "Predicted", "True"],
        groups,
        note,
        is_folded=len(chosen) > OPEN_CLASSES,
    )


def _confusions(details: dict[str, ClassDetails]) -> Table:
    """The pairs of classes that are mistaken for each other most often."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for variant, each in details.items():
        for true, row in zip(each.classes, each.confusion or [], strict=False):
            for predicted, number in zip(each.classes, row, strict=True):
                if number and predicted is not true:
                    counts[true.name, predicted.name][variant] += number
    most = sorted(counts, key=lambda pair: -counts[pair].total())[:MAX_CONFUSIONS]
    rows: list[list[Cell]] = [
        [f"{value(true)} → {value(predicted)}", *(f"{counts[true, predicted][variant]:,}" for variant in details)]
        for true, predicted in most
    ]
    title = "What is taken for what, most often"
    return Table(title, ["True → predicted", *details], {"": rows}, is_folded=len(rows) > OPEN_CLASSES)


def _calibration(details: dict[str, ClassDetails]) -> Table:
    known = {variant: each.calibration for variant, each in details.items() if each.calibration}
    rows: list[list[Cell]] = [
        [
            variant,
            f"{each.error:.3f}",
            f"{each.probability:.1%}",
            f"{each.right:.1%}",
            _gap(each.probability, each.right),
        ]
        for variant, each in known.items()
    ]
    return Table(
        "Can the probabilities be believed?",
        ["Variant", "Expected calibration error", "Mean probability", "Right", "Probability minus right"],
        {"": rows},
        "Expected calibration error: the mean distance of probability and share of right predictions over ten ranges "
        "of probability, weighted by their predictions (Guo et al. 2017). 0 is best.",
    )


def _calibration_by_class(details: dict[str, ClassDetails]) -> Table:
    groups: Groups = defaultdict(list)
    for variant, own in details.items():
        for curves in own.curves:
            if (each := curves.calibration) is not None:
                cells = [f"{each.error:.3f}", f"{each.probability:.1%}", f"{each.right:.1%}"]
                groups[value(curves.name)].append([variant, *cells, _gap(each.probability, each.right)])
    return Table(
        "The probability of each class",
        ["Variant", "Expected calibration error", "Mean probability", "True", "Probability minus true"],
        groups,
        f"Each class against the others, over all examples.{curves_shown(details) if groups else ''}",
        is_folded=True,
    )


def _gap(probability: float, right: float) -> str:
    return f"{100 * (probability - right):+.1f} points".replace("-", MINUS)


def _thresholds(details: dict[str, ClassDetails]) -> Table:
    groups: Groups = {
        variant: [[_at_least(each.at_least), _percent(each.kept), _percent(each.right)] for each in own.thresholds]
        for variant, own in details.items()
        if own.thresholds
    }
    return Table(
        "If only sure predictions are taken",
        ["Probability", "Taken", "Right of these"],
        groups,
        "What remains may be left to a person.",
        is_folded=True,
    )


def _at_least(threshold: float) -> str:
    return f"at least {threshold:g}" if threshold else "any"


def _entity_errors(details: dict[str, PredictionDetails]) -> Table:
    groups: Groups = defaultdict(list)
    for variant, each in details.items():
        for errors in each.tags.errors if each.tags else ():
            true = errors.right + errors.other_type + errors.other_words + errors.missed
            wrong = [f"{getattr(errors, kind):,}" for kind in ENTITY_ERRORS]
            groups[value(errors.name)].append(
                [variant, f"{true:,}", f"{errors.right:,}", *wrong, f"{errors.invented:,}"]
            )
    return Table(
        "What becomes of the entities",
        ["Variant", "True", "Right", *ENTITY_ERRORS.values(), "Invented"],
        groups,
        "Of the true entities; invented are predicted ones of the type that share no word with a true one.",
        is_folded=len(groups) > OPEN_CLASSES,
    )


def _answer_errors(details: dict[str, PredictionDetails]) -> Table:
    found = {variant: each.answers.errors for variant, each in details.items() if each.answers}
    kinds = {
        "exact": "The accepted answer",
        **ANSWER_ERRORS,
        "starts_wrong": "Of those that share words: begin wrong",
        "ends_wrong": "Of those that share words: end wrong",
    }
    rows: list[list[Cell]] = [
        [title, *(f"{getattr(errors, kind):,}" for errors in found.values())] for kind, title in kinds.items() if found
    ]
    return Table(
        "What the answers are", ["Answer", *found], {"": rows}, "After the normalization of SQuAD, beside the accepted "
        "answer that matches best.",
    )  # fmt: skip


def _lengths(details: dict[str, PredictionDetails]) -> Table:
    groups: Groups = defaultdict(list)
    for variant, each in details.items():
        scored: list[LengthScore] = each.answers.lengths if each.answers else each.texts.lengths if each.texts else []
        for band in scored:
            groups[_words(band.low, band.high)].append(
                [variant, _percent(band.exact), _percent(band.partial), f"{band.count:,}"]
            )
    return Table(
        "Scores by the length of the reference",
        ["Variant", "Exact", "F1 of words", "Predictions"],
        groups,
        is_folded=len(groups) > OPEN_CLASSES,
    )


def _words(low: int, high: int | None) -> str:
    if (low, high) == (0, 0):
        return "no words"
    if high is None:
        return f"{low} words and more"
    return f"{low} word{'s' if low > 1 else ''}" if low == high else f"{low} to {high} words"


def _length_ratios(details: dict[str, PredictionDetails]) -> Table:
    rows: list[list[Cell]] = [
        [variant, *(f"{ratio:.2f}" for ratio in each.texts.length_ratio), f"{each.texts.empty:,}"]
        for variant, each in details.items()
        if each.texts
    ]
    heads = ["10% are below", "25% are below", "Median", "75% are below", "90% are below", "Empty texts"]
    return Table("Words written, over words of the reference", ["Variant", *heads], {"": rows})


def _worst_texts(details: dict[str, PredictionDetails]) -> Table:
    groups: Groups = {}
    for variant, each in details.items():
        for example in each.texts.worst if each.texts else ():
            heading = f"{variant}, validation row {example.index}, seed {example.seed}, chrF {example.score:.1f}"
            rows: list[list[Cell]] = [[name, shorten(value(text), MAX_TEXT)] for name, text in example.fields.items()]
            rows.append(["reference", shorten(example.reference, MAX_TEXT)])
            rows.append(["written", shorten(example.prediction, MAX_TEXT) or "(nothing)"])
            groups[heading] = rows
    return Table("The worst texts", ["What", "Text"], groups, num_texts=2, is_folded=True)


def _numbers(details: dict[str, PredictionDetails]) -> Table:
    groups: Groups = {
        variant: [
            [f"{band.low:.4g} to {band.high:.4g}", f"{band.true:.4g}", f"{band.predicted:.4g}", f"{band.error:.3g}",
             f"{band.count:,}"]
            for band in each.numbers.bands
        ]
        for variant, each in details.items()
        if each.numbers
    }  # fmt: skip
    return Table(
        "Small and large numbers",
        ["True number", "Mean, true", "Mean, predicted", "Mean distance", "Predictions"],
        groups,
        "The examples in five groups of equal size, by their true number.",
    )


def _row_losses(details: dict[str, PredictionDetails]) -> Table:
    rows: list[list[Cell]] = [
        [variant, *(f"{loss:.3f}" for loss in each.tokens.percentiles)]
        for variant, each in details.items()
        if each.tokens
    ]
    heads = ["5% are below", "25% are below", "Median", "75% are below", "95% are below"]
    return Table("Loss of an example in nats a token", ["Variant", *heads], {"": rows})


def _positions(details: dict[str, PredictionDetails]) -> Table:
    groups: Groups = defaultdict(list)
    for variant, each in details.items():
        for band in each.tokens.positions if each.tokens else ():
            name = f"position {band.first}" + (f" to {band.last}" if band.last > band.first else "")
            groups[name].append([variant, f"{band.loss:.3f}", f"{band.tokens:,}"])
    title = "Loss by the position of the token in its row"
    return Table(title, ["Variant", "Nats a token", "Tokens"], groups, is_folded=True)


def _frequencies(details: dict[str, PredictionDetails]) -> Table:
    groups: Groups = defaultdict(list)
    for variant, each in details.items():
        for band in each.tokens.frequencies if each.tokens else ():
            groups[_times(band.low, band.high)].append(
                [variant, _percent(band.right / band.tokens), f"{band.tokens:,}"]
            )
    return Table(
        "Rare and frequent hidden tokens",
        ["Variant", "Right", "Hidden tokens"],
        groups,
        "By how often a token is hidden in the validation split.",
        is_folded=len(groups) > OPEN_CLASSES,
    )


def _times(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} times and more"
    return "once" if high == 1 else f"{low} to {high} times"


def _share(number: float | None) -> str:
    return UNDEFINED if number is None else f"{number:.3f}"


def _percent(number: float | None) -> str:
    return UNDEFINED if number is None else f"{number:.1%}"
