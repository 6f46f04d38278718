"""The tables of a comparison's report, as text: the HTML and the Markdown show the same cells.

Those of what was the same are in `sameness/tables.py`, those of predictions in `details/tables.py`.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import replace

from pydantic import JsonValue

from pipeline.comparison.records.costs import Cost
from pipeline.comparison.records.scores import MetricComparison
from pipeline.comparison.results import Results, RunSummary
from pipeline.comparison.statistics.power import POWER
from pipeline.reporting.elements import Cell, Finding, Table, finding
from pipeline.reporting.formatting import (
    MINUS,
    UNDEFINED,
    interval,
    maximum,
    measured,
    pair_name,
    probability,
    ratio,
    score,
    seconds_of_parts,
    small,
    value,
)
from pipeline.reporting.sentences import verdict, versions_text
from pipeline.reporting.time_parts import time_parts
from pipeline.runs.machine import as_typed
from pipeline.utils.text import count

COST_TITLES = {
    "total_seconds": "From launch to the last step",
    "examples_per_second": "Training speed",
    "steady_examples_per_second": "Training speed after the first step",
    "tokens_per_second": "Training speed in tokens",
    "first_step_seconds": "First step",
    "launch_seconds": "From launch to the first batch",
    "startup_seconds": "From the call to the first batch",
    "train_seconds": "Training",
    "peak_memory_bytes": "Peak memory of the process",
    "trainable_parameters": "Trained weights",
}
# The settings that are seen without opening the table of all.
HYPERPARAMETERS = (
    "train.epochs", "train.batch_size", "train.gradient_accumulation", "train.learning_rate", "train.schedule",
    "train.warmup_ratio", "train.weight_decay", "train.max_grad_norm", "train.dropout", "train.label_smoothing",
    "train.precision", "train.lora", "train.attention_implementation", "data.max_length", "data.batching", "weights",
)  # fmt: skip


def scores(results: Results) -> Table:
    """Mean, deviation, interval and the value of each seed, by metric."""
    seeds = list(dict.fromkeys(seed for variant in results.variants for seed in variant.seeds))
    groups: dict[str, list[list[Cell]]] = {}
    for name, metric in results.metrics.items():
        better = "lower" if metric.lower_is_better else "higher"
        groups[f"{name} ({better} is better)"] = [
            [
                variant,
                score(summary.mean, metric.scale),
                score(summary.sd, metric.scale),
                interval(summary.low, summary.high, metric.scale),
                str(summary.n),
                *(score(summary.values.get(seed), metric.scale) for seed in seeds),
            ]
            for variant, summary in metric.variants.items()
        ]
    return Table(
        "Scores on the validation split",
        ["Variant", "Mean", "SD", "95% interval", "Seeds", *(f"Seed {seed}" for seed in seeds)],
        groups,
        "SD is the sample standard deviation over seeds; the interval is Student's t of the mean, from three seeds on, "
        "cut at the ends of the metric's range.",
    )


def verdicts(results: Results) -> Table:
    """What can be claimed about each pair, by metric."""
    groups: dict[str, list[list[Cell]]] = defaultdict(list)
    for pair in results.comparisons:
        for metric in pair.metrics:
            found = finding("verdict", verdict(pair, metric))
            # The word stands before the sentence, which need not say it again.
            sentence = found.sentence.removeprefix(found.word.lower()).lstrip(": ")
            groups[metric].append([pair_name(pair), Finding(found.state, found.word, sentence)])
    asked = any(
        each.verdict.code == "inconclusive" and each.equivalence.seeds_needed is not None
        for pair in results.comparisons
        for each in pair.metrics.values()
    )
    note = (
        f"About so many seeds: with them the test would show equivalence within the margin in {POWER:.0%} of "
        "repetitions, if the true means are equal and differences vary from seed to seed as much as here. If the true "
        "means differ it takes more, or cannot be shown."
    )
    title = "What can be said of each pair"
    return Table(title, ["Pair", "Verdict"], groups, note if asked else "", num_texts=2)


def differences(results: Results) -> Table:
    """The numbers behind the verdicts."""
    groups: dict[str, list[list[Cell]]] = defaultdict(list)
    for pair in results.comparisons:
        for metric, comparison in pair.metrics.items():
            cells = _difference_cells(comparison, results.metrics[metric].scale)
            groups[metric].append([pair_name(pair), *cells])
    heads = [
        "Difference",
        "95% over seeds",
        "90% for equivalence",
        "Margin",
        "p",
        "90% interval is over",
        "95% over examples",
    ]
    return Table(
        "Differences, first minus second",
        ["Pair", *heads],
        groups,
        "Equivalent means that the 90% interval lies inside the margin (two one-sided tests at 5%, whose p is shown). "
        "The 90% interval is over seeds; with a single seed it is over resampled validation examples, and then nothing "
        "is concluded from it.",
    )


def _difference_cells(comparison: MetricComparison, scale: int | None) -> list[Cell]:
    seeds, tested, examples = comparison.seeds, comparison.equivalence, comparison.bootstrap
    return [
        score(seeds.mean_difference, scale, signed=True),
        interval(seeds.low, seeds.high, scale, signed=True),
        interval(tested.low, tested.high, scale, signed=True),
        "±" + score(comparison.margin.value, scale),
        probability(tested.p),
        tested.basis or UNDEFINED,
        interval(examples.low, examples.high, scale, signed=True) if examples else UNDEFINED,
    ]


def parts_folded(results: Results, table: Table) -> list[Table]:
    """A table with a group for each metric, and a folded one with those of one type or label (seqeval_f1.person)."""
    names = main_metrics(results)
    groups = {heading: rows for heading, rows in table.groups.items() if heading.partition(" (")[0] in names}
    parts = {heading: rows for heading, rows in table.groups.items() if heading not in groups}
    folded = replace(table, title=f"{table.title}, type by type", groups=parts, note="", is_folded=True)
    return [replace(table, groups=groups), folded]


def main_metrics(results: Results) -> list[str]:
    """The metrics without those of a single type or label."""
    return [name for name in results.metrics if "." not in name or name.partition(".")[0] not in results.metrics]


def agreement(results: Results) -> Table:
    """How often two variants predict the same, for classification."""
    rows: list[list[Cell]] = [
        [
            pair_name(pair),
            f"{pair.agreement.agree:.1%}",
            UNDEFINED if pair.agreement.kappa is None else f"{pair.agreement.kappa:.3f}".replace("-", MINUS),
            f"{pair.agreement.first_only_right:,}",
            f"{pair.agreement.second_only_right:,}",
            probability(pair.agreement.mcnemar_p),
            f"{pair.agreement.num_predictions:,}",
        ]
        for pair in results.comparisons
        if pair.agreement
    ]
    heads = ["Agree", "Cohen's κ", "Only first right", "Only second right", "McNemar p", "Predictions"]
    note = (
        "Cohen's κ (kappa): how much more often both predict the same than two would by chance that predict each class "
        "as often as these do; 1 is always, 0 is as often as by chance. McNemar p: how probable it would be that the "
        "examples that only one gets right are divided at least so unevenly, if both were equally often right; the "
        "smallest p of any seed, times the number of seeds."
    )
    return Table("Agreement of the predictions", ["Pair", *heads], {"": rows}, note if rows else "")


def time_table(results: Results) -> Table:
    """Where the time of each variant goes, in parts that add up to the total of the first screen."""
    parts = time_parts(results)
    rows: list[list[Cell]] = [
        [variant, *seconds_of_parts(each.in_order), f"{each.total:,.1f}"] for variant, each in parts.items()
    ]
    return Table(
        "Where the time goes, in seconds: the run with the median total",
        ["Variant", "Until the first batch", "First step", "Other steps", "From launch to the last step"],
        {"": rows},
        "Of an even number of runs: the mean of the two in the middle. Until the first batch: Python, "
        "imports, data, checks, model. In its first step TensorFlow traces its graph. Evaluation and saving are left "
        "out; a run does not record how long they take.",
    )


def costs(results: Results) -> Table:
    """Median, range over seeds and ratio of every cost that a run recorded."""
    groups: dict[str, list[list[Cell]]] = {}
    known = [cost for cost in results.costs if any(each.median is not None for each in cost.variants.values())]
    # Where PyTorch is imported before the call and TensorFlow after it, times from the call on cannot be compared.
    has_launch = any(cost.name == "launch_seconds" for cost in known)
    for cost in known:
        if has_launch and cost.name == "startup_seconds":
            continue
        better = f" ({'higher' if cost.higher_is_better else 'lower'} is better)"
        rows: list[list[Cell]] = []
        for variant, summary in cost.variants.items():
            median, low, high = (
                measured(number, cost.unit)[0] for number in (summary.median, summary.low, summary.high)
            )
            rows.append([variant, median, low if low == high else f"{low} to {high}", ratio(summary.ratio)])
        unit = measured(None, cost.unit)[1]
        # Fewer trained weights are neither better nor worse.
        groups[COST_TITLES[cost.name] + (f", {unit}{better}" if unit != "parameters" else "")] = rows
    first = results.variants[0].name if results.variants else "the first"
    is_missing = any(row[1] == UNDEFINED for rows in groups.values() for row in rows)
    notes = []
    if has_launch:
        notes.append("Medians of parts need not add up to the median of the total.")
    if is_missing:
        notes.append(
            f"{UNDEFINED}: not recorded. Runs of earlier versions, and runs of a single step, lack some numbers."
        )
    heads = ["Variant", "Median", "Range over seeds", f"Ratio to {first}"]
    return Table("What it took: medians over all runs", heads, groups, " ".join(notes))


def recipe_differences(results: Results) -> Table:
    """Settings that were not the same in all runs."""
    groups: dict[str, list[list[Cell]]] = {}
    for difference in results.recipe_differences:
        runs_by_value: dict[str, list[str]] = defaultdict(list)
        for run, setting in difference.values.items():
            runs_by_value[_written(setting)].append(run)
        groups[difference.key] = [[shown, ", ".join(runs)] for shown, runs in runs_by_value.items()]
    return Table("Settings that differ between the runs", ["Value", "Runs"], groups, num_texts=2)


def summary(results: Results) -> Table:
    """The first metric, time and memory of each variant, and how many weights are trained if recipes are compared.

    It is seen of the Markdown before anything is opened.
    """
    name, metric = next(iter(results.metrics.items()), ("", None))
    if metric is None:
        return Table("", [], {})
    names = {"Time": results.time.cost, "Memory": "peak_memory_bytes"}
    if results.compares_recipes:
        names = {COST_TITLES["trainable_parameters"]: "trainable_parameters"} | names
    costs = [next((cost for cost in results.costs if cost.name == each), None) for each in names.values()]
    rows: list[list[Cell]] = [
        [
            variant,
            score(summary.mean, metric.scale),
            interval(summary.low, summary.high, metric.scale),
            str(summary.n),
            *(_median(cost, variant) for cost in costs),
        ]
        for variant, summary in metric.variants.items()
    ]
    return Table("The variants", ["Variant", name, "95% interval", "Seeds", *names], {"": rows})


def _median(cost: Cost | None, variant: str) -> str:
    """'12.3 s'; of what has no unit the number alone."""
    median = cost.variants[variant].median if cost and variant in cost.variants else None
    if cost is None or median is None:
        return UNDEFINED
    number, unit = measured(median, cost.unit)
    return number if unit == "parameters" else f"{number} {unit}"


def hyperparameters(results: Results) -> Table:
    """The settings that a reader asks for first, and those that differ."""
    different = {difference.key for difference in results.recipe_differences}
    shown = {
        key: setting
        for key, setting in results.settings.items()
        if key in different or (key in HYPERPARAMETERS and setting is not None)
    }
    rows: list[list[Cell]] = [[key, _setting(results, key)] for key in shown]
    return Table("Main settings", ["Setting", "Value"], {"": rows}, num_texts=2)


def settings(results: Results) -> Table:
    """Every setting of the recipe that is set, by its part."""
    groups: dict[str, list[list[Cell]]] = defaultdict(list)
    different = {difference.key for difference in results.recipe_differences}
    for key in (key for key, setting in results.settings.items() if setting is not None or key in different):
        part = key.partition(".")[0] if "." in key else "recipe"
        groups[part].append([key, _setting(results, key)])
    return Table("Every setting", ["Setting", "Value"], groups, "Others are not set.", num_texts=2, is_folded=True)


def _setting(results: Results, key: str) -> Cell:
    """A setting's value; with all of its values if it is not the same in all runs, and marked unless it is compared."""
    for difference in results.recipe_differences:
        if difference.key == key:
            values = "; ".join(dict.fromkeys(map(_written, difference.values.values())))
            return f"compared: {values}" if difference.is_compared else Finding("unknown", "Differs", values)
    return _written(results.settings[key])


def _written(setting: JsonValue) -> str:
    if setting is None:
        return "not set"
    return value(setting) if setting != {} else "(none)"


def variants(results: Results) -> Table:
    """The variants with their seeds, their attention, and how many runs were completed."""
    rows: list[list[Cell]] = [
        [
            variant.name,
            ", ".join(map(str, variant.seeds)),
            _swapped([run for run in results.runs if run.variant == variant.name]),
            str(variant.completed),
            str(variant.failed),
        ]
        for variant in results.variants
    ]
    return Table(
        "Variants",
        ["Variant", "Seeds", "Attention swapped", "Completed", "Failed"],
        {"": rows},
        "Swapped: attention modules replaced, and the largest difference of the probe's logits that the swap made.",
        num_texts=3,
    )


def _swapped(runs: list[RunSummary]) -> str:
    sites = max((run.attention_sites for run in runs if run.attention_sites is not None), default=0)
    if not sites:
        return "stock"
    return f"{count(sites, 'module')}, {small(maximum(run.attention_max_difference for run in runs))}"


def machines(results: Results) -> Table:
    """The machines on which the runs were made, and the versions there."""
    groups: dict[str, list[list[Cell]]] = {}
    several = len(results.machines) > 1
    for number, machine in enumerate(results.machines, start=1):
        name = f"Machine {number}: {', '.join(machine.runs)}" if several else ""
        groups[name] = [
            ["processor", value(machine.processor)],
            ["cores, threads", f"{value(machine.cores)}, {_threads(machine.threads)}"],
            ["platform", value(machine.platform)],
            *([package, versions_text(results, machine, package)] for package in machine.versions),
        ]
    return Table("Machine and versions", ["What", "Value"], groups, num_texts=2)


def _threads(by_framework: dict[str, str]) -> str:
    """One number, or each framework's."""
    if len(set(by_framework.values())) == 1:
        return next(iter(by_framework.values()))
    return ", ".join(f"{framework} {threads}" for framework, threads in by_framework.items())


def runs(results: Results) -> Table:
    """How each run was made, and what came of it."""
    groups: dict[str, list[list[Cell]]] = {
        run.label: [
            ["command", shlex.join(as_typed(run.environment.command)) if run.environment else UNDEFINED],
            ["folder", run.path],
            ["SHA-256 of the trained weights", run.weights_sha256 or UNDEFINED],
        ]
        for run in results.runs
        if run.completed
    }
    return Table("Every run", ["What", "Value"], groups, num_texts=2, is_folded=True)
