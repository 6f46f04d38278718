"""The sections of a comparison's report below its first screen, for HTML and Markdown alike."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from importlib import resources

from pydantic import JsonValue

from pipeline.comparison.records.costs import Machine
from pipeline.comparison.results import Disagreement, Results
from pipeline.models.attention import HANDWRITTEN, HANDWRITTEN_MODEL, STOCK
from pipeline.reporting import tables
from pipeline.reporting.details.sentences import predictions_lead
from pipeline.reporting.details.tables import prediction_tables
from pipeline.reporting.elements import Finding, Table
from pipeline.reporting.first_screen import cost_sentence, turning_points
from pipeline.reporting.formatting import date, spread, value
from pipeline.reporting.sameness import tables as sameness_tables
from pipeline.reporting.sameness.sentences import sameness_lead
from pipeline.reporting.sentences import (
    AGREEMENT,
    NO_LOG,
    attention_lead,
    limits,
    machine_text,
    reproducing,
    settings_lead,
)
from pipeline.utils.text import count, shorten

_MEANINGS = {
    STOCK: f"{STOCK}: the attention of the transformers library",
    HANDWRITTEN: f"{HANDWRITTEN}: this project's in its place",
    HANDWRITTEN_MODEL: f"{HANDWRITTEN_MODEL}: this project's whole Transformer in place of the library's",
}
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
class Listing:
    """Texts of a program or printed arrays, side by side, each under its heading."""

    title: str
    panes: dict[str, str]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with its listings, tables, figures (by the section's name), examples, logs, commands and notes.

    `conclusion` says in a sentence what follows from all of it.
    """

    name: str
    title: str
    lead: str = ""
    conclusion: str = ""
    listings: list[Listing] = field(default_factory=list)
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
        Section("scores", "Scores", tables=tables.parts_folded(results, tables.scores(results)), figures_first=True),
        Section(
            "verdicts",
            "Verdicts",
            tables=[
                *tables.parts_folded(results, tables.verdicts(results)),
                *tables.parts_folded(results, tables.differences(results)),
            ],
        )
        if results.comparisons
        else None,
        _sameness(results),
        _agreement(results),
        _predictions(results),
        _cost(results),
        _training(results),
        _settings(results),
        _attention(results),
        Section("failed", "Failed runs", logs=failed) if failed else None,
        Section("machine", "Runs and machine", tables=[tables.variants(results), tables.machines(results)]),
        Section(
            "reproduce",
            "How to reproduce it",
            reproducing(results),
            tables=[tables.runs(results)],
            code=[shlex.join(results.command)],
            points={
                "Data": f"{value(results.data.source)}, fingerprint {value(results.data.fingerprint)}",
                "Checkpoint": f"{results.checkpoint}, fingerprint {value(results.checkpoint_fingerprint)}",
                "To cite": f"twinstep, comparison of {results.recipe}, {date(results.created)}, "
                f"data {value(results.data.fingerprint)}",
            },
        ),
        Section("method", "How it was computed", points=_method(results)),
        Section("limits", "What this does not show", points=limits(results)),
    ]
    return [section for section in all_sections if section]


def facts(results: Results) -> str:
    """The line under the title: task, checkpoint with its size, data, seeds, machine."""
    seeds = {seed for variant in results.variants for seed in variant.seeds}
    rows = ", ".join(
        f"{counts['rows']:,} {split}" for split, counts in results.data.splits.items() if counts.get("rows")
    )
    start = "" if results.weights == "pretrained" else f" ({results.weights} weights)"
    facts = [
        results.task,
        f"{results.checkpoint}{start}{_size(results)}",
        f"{rows} rows of {results.data.source}" if rows else results.data.source,
        count(len(results.variants), "variant"),
        count(len(seeds), "seed"),
        *dict.fromkeys(f"{machine_text(machine)}{_devices(results, machine)}" for machine in results.machines),
    ]
    return " · ".join(facts)


def _size(results: Results) -> str:
    """', 689,666 parameters', from the fewest to the most of any run; empty if no run recorded them."""
    numbers = [run.train.parameters for run in results.runs if run.train and run.train.parameters is not None]
    return f", {spread(numbers, ',d')} parameters" if numbers else ""


def _devices(results: Results, machine: Machine) -> str:
    """', NVIDIA A100', if the machine's runs computed on anything but its processor."""
    runs = [run.environment for run in results.runs if run.environment and run.label in machine.runs]
    devices = dict.fromkeys(environment.framework.get("device", "cpu") for environment in runs)
    return "".join(f", {device}" for device in devices if device != "cpu")


def variant_terms(results: Results) -> str:
    """What the attentions in the names of the variants are."""
    names = dict.fromkeys(variant.attention for variant in results.variants)
    meanings = [_MEANINGS.get(name, f"{name}: this class in its place") for name in names]
    return f"{'; '.join(meanings)}." if meanings else ""


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
        Log(f"{run.variant}, seed {run.seed}", run.path, run.log_tail or NO_LOG)
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
    alike = results.of_one_recipe()
    evidence = [
        sameness_tables.sameness(alike),
        sameness_tables.lockstep(results.sameness.lockstep),
        sameness_tables.control(alike),
        tables.recipe_differences(results),
    ]
    return Section("sameness", "Is it the same experiment?", sameness_lead(results), tables=evidence)


def _agreement(results: Results) -> Section | None:
    table, disagreeing = tables.agreement(results), examples(results)
    if not table and not disagreeing:
        return None
    lead = AGREEMENT if table else ""
    return Section("agreement", "Do they predict the same?", lead, tables=[table], examples=disagreeing)


def _predictions(results: Results) -> Section | None:
    """What the predictions show; None if there are none, as in results of earlier schemas."""
    found = prediction_tables(results)
    if not any(found):
        return None
    lead = predictions_lead(results.predictions)
    return Section("predictions", "What do they get right and wrong?", lead, tables=found, figures_first=True)


def _training(results: Results) -> Section | None:
    if not results.sameness.curves:
        return None
    return Section("training", "How training went", figures_first=True)


def _settings(results: Results) -> Section | None:
    if not results.settings:
        return None
    shown = [tables.hyperparameters(results), tables.settings(results)]
    return Section("settings", "Hyperparameters", settings_lead(results), tables=shown)


def _cost(results: Results) -> Section | None:
    """What each pair took, in words, and the table and figures with the same numbers."""
    if not results.costs:
        return None
    compared = {"Time": results.time, "Memory": results.memory}
    points = {
        name: " ".join(cost_sentence(results, comparison, pair) for pair in comparison.pairs)
        for name, comparison in compared.items()
        if comparison.pairs
    }
    return Section(
        "cost", "Cost", tables=[tables.time_table(results), tables.costs(results)], figures_first=True, points=points
    )


def _attention(results: Results) -> Section | None:
    maps = results.attention_maps
    if not maps:
        return None
    lead = attention_lead(shorten(maps[0].text, MAX_TEXT), is_cross=maps[0].written is not None)
    return Section(
        "attention", "Attention maps", lead, tables=[sameness_tables.map_differences(results)], figures_first=True
    )


def _method(results: Results) -> dict[str, str]:
    """How each number was computed, by subject; only of what the report has."""
    text = (resources.files("pipeline.reporting") / "templates" / "method.txt").read_text(encoding="utf-8")
    found = dict(line.split(": ", 1) for line in text.splitlines())
    if not turning_points(results):
        del found["Longer trainings"]
    return found
