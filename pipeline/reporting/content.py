"""The sections of a comparison's report below its first screen, for HTML and Markdown alike."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from pydantic import JsonValue

from pipeline.comparison.results import Disagreement, Results
from pipeline.reporting import tables
from pipeline.reporting.formatting import date, value
from pipeline.reporting.sentences import Finding
from pipeline.reporting.tables import Table
from pipeline.utils.text import count, shorten

MAX_TEXT = 600  # characters of an example's field; the whole is in results.json


@dataclass(frozen=True)
class Example:
    """An example on which variants disagree."""

    fields: dict[str, str]
    reference: str
    predictions: dict[str, Finding | str]
    where: str


@dataclass(frozen=True)
class Log:
    """The end of a failed run's log."""

    title: str
    path: str
    text: str


@dataclass(frozen=True)
class Section:
    """A heading with its tables, figures (by the section's name), examples, logs, commands and notes."""

    name: str
    title: str
    lead: str = ""
    tables: list[Table] = field(default_factory=list)
    figures_first: bool = False
    examples: list[Example] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    points: dict[str, str] = field(default_factory=dict)


def sections(results: Results) -> list[Section]:
    """The report's sections; those without content are left out."""
    failed = failures(results)
    all_sections = [
        Section("scores", "Scores", tables=[tables.scores(results)], figures_first=True),
        Section("verdicts", "Verdicts", tables=[tables.verdicts(results), tables.differences(results)])
        if results.comparisons
        else None,
        _sameness(results),
        _agreement(results),
        Section("cost", "Cost", tables=[tables.costs(results)], figures_first=True) if results.costs else None,
        _attention(results),
        Section("failed", "Failed runs", logs=failed) if failed else None,
        Section("machine", "Runs and machine", tables=[tables.variants(results), tables.machines(results)]),
        Section(
            "reproduce",
            "How to reproduce it",
            "The same command on the same kind of machine with the same versions gives the same scores; speeds vary.",
            code=[shlex.join(results.command)],
            points={
                "Data": f"{value(results.data.source)}, fingerprint {value(results.data.fingerprint)}",
                "To cite": f"twinstep, comparison of {results.recipe}, {date(results.created)}, "
                f"data {value(results.data.fingerprint)}",
            },
        ),
        Section("method", "How it was computed", points=_METHOD),
        Section("limits", "What this does not show", points=_limits(results)),
    ]
    return [section for section in all_sections if section]


def facts(results: Results) -> str:
    """The line under the title: task, checkpoint, data, seeds."""
    seeds = {seed for variant in results.variants for seed in variant.seeds}
    rows = ", ".join(
        f"{counts['rows']:,} {split}" for split, counts in results.data.splits.items() if counts.get("rows")
    )
    start = "" if results.weights == "pretrained" else f" ({results.weights} weights)"
    facts = [
        results.task,
        f"{results.checkpoint}{start}",
        f"{rows} rows" if rows else results.data.source,
        count(len(results.variants), "variant"),
        count(len(seeds), "seed"),
    ]
    return " · ".join(facts)


def examples(results: Results) -> list[Example]:
    """The examples on which variants disagree, with predictions marked right or wrong."""
    return [
        Example(
            {name: shorten(value(text), MAX_TEXT) for name, text in row.fields.items()},
            shorten(_reference(row), MAX_TEXT),
            {name: _marked(prediction, row.reference) for name, prediction in row.predictions.items()},
            f"validation row {row.index}, seed {row.seed}",
        )
        for row in results.disagreements
    ]


def failures(results: Results) -> list[Log]:
    """Failed runs with the end of their logs."""
    return [
        Log(f"{run.variant}, seed {run.seed}", run.path, run.log_tail or "There is no log.")
        for run in results.runs
        if not run.completed
    ]


def _reference(row: Disagreement) -> str:
    reference = row.reference
    if isinstance(reference, list) and reference and all(isinstance(text, str) for text in row.predictions.values()):
        return " / ".join(map(value, reference))
    return value(reference)


def _marked(prediction: JsonValue, reference: JsonValue) -> Finding | str:
    """A prediction marked right or wrong; a number is only near or far, and several references are alternatives."""
    shown = shorten(value(prediction), MAX_TEXT)
    if reference is None or isinstance(reference, float | dict):
        return shown
    if isinstance(reference, list) and isinstance(prediction, str):
        right = prediction in reference
    else:
        right = prediction == reference
    return Finding("good" if right else "bad", shown)


def _sameness(results: Results) -> Section:
    evidence = [
        tables.sameness(results),
        tables.lockstep(results),
        tables.control(results),
        tables.recipe_differences(results),
    ]
    compared = "the start and the batches of every step were compared"
    if results.sameness.lockstep:
        compared += ", and the steps themselves one by one"
    lead = f"Scores alone cannot tell: two different trainings can score alike. So {compared}."
    if not results.comparisons:
        lead = "There are no two variants to compare."
    return Section("sameness", "Is it the same experiment?", lead, tables=evidence)


def _agreement(results: Results) -> Section | None:
    table, disagreeing = tables.agreement(results), examples(results)
    if not table and not disagreeing:
        return None
    lead = "Two variants can score alike and still be right on different examples." if table else ""
    return Section("agreement", "Do they predict the same?", lead, tables=[table], examples=disagreeing)


def _attention(results: Results) -> Section | None:
    maps = results.attention_maps
    if not maps:
        return None
    lead = f"The attention weights after training for one text: “{shorten(maps[0].text, MAX_TEXT)}”"
    return Section("attention", "Attention maps", lead, tables=[tables.map_differences(results)], figures_first=True)


_METHOD = {
    "Scores": "Mean and sample standard deviation over seeds of the validation metric; 95% interval of the mean by "
    "Student's t.",
    "Equivalence": "Two one-sided paired t tests over seeds (TOST), each at 5%, against the recipe's margin: "
    "equivalent if the 90% interval lies inside it. Below three seeds nothing is concluded. With one seed the 90% "
    "interval is that of the bootstrap over examples, and the column “Basis” says so.",
    "Difference": "Called different only if the 95% intervals over seeds and over examples both leave out zero.",
    "Over examples": "Percentiles of a paired bootstrap: the same resampled validation examples for both variants and "
    "all seeds.",
    "Agreement": "Counted over all seeds together: the share of examples on which both predict the same, Cohen's κ, "
    "and those that only one gets right. McNemar's exact test is made for each seed; p is the smallest of them times "
    "the number of seeds.",
    "Same experiment": "Logits of the same probe rows before training, relative to the largest; the rows of each "
    "epoch; the number of examples and tokens of every step; learning rates as applied; and, step by step, loss, "
    "gradient norm and every parameter, beside the differences of two PyTorch trainings whose first weights differ by "
    "one rounding.",
    "Cost": "Each run is a process of its own. Throughput counts training examples over the wall time from the first "
    "batch to the last step, first step included, evaluation and saving excluded. Memory is the process's peak. "
    "Ratios are of medians.",
}


def _limits(results: Results) -> dict[str, str]:
    seeds = max((len(variant.seeds) for variant in results.variants), default=0)
    few = "; with so few, intervals are wide and “not settled” is the honest answer to much" if seeds < 5 else ""
    limits = {
        "Seeds": f"{count(seeds, 'seed')} a variant{few}.",
        "Dropout": "If a recipe leaves dropout to the frameworks, each draws from its own generator. Runs of one seed "
        "then share start and batches, but not these draws, so their scores may differ as much as those of two seeds.",
        "Many tests": "The intervals and p values are those of each comparison alone, not corrected for their number.",
        "Not settled": "If equivalence could not be shown, a difference has not been shown either.",
        "Machine": "Speed and memory hold for this machine, these versions and this size of model.",
    }
    if len(results.machines) > 1:
        limits["Machine"] = "The runs come from different machines, so their speed and memory cannot be compared."
    return limits
