"""What the runs cost: speed, start-up, time and memory, on which machine; never more precise than the runs allow."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from pipeline.outcomes import Outcome, variants

# name, title, unit, whether more is better
KINDS = (
    ("examples_per_second", "Training speed", "examples/s", True),
    ("tokens_per_second", "Training speed in tokens", "tokens/s", True),
    ("first_step_seconds", "First update", "s", False),
    ("startup_seconds", "Start-up until training", "s", False),
    ("train_seconds", "Training", "s", False),
    ("peak_memory_bytes", "Peak memory of the process", "bytes", False),
)
FEWEST_RUNS = 3
# From here on the first update, in which TensorFlow traces its graph, is worth a word beside the speed.
MUCH_OF_TRAINING = 0.1


def costs(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Median and range of each kind over the runs of a variant, and the ratio of medians to the first variant."""
    found = []
    for name, title, unit, higher_is_better in KINDS:
        rows: dict[str, dict[str, float | None]] = {}
        for variant, group in variants(outcomes).items():
            values = [value for run in group if (value := cost_of(run, name)) is not None]
            keys = ("median", "low", "high")
            numbers = (float(np.median(values)), min(values), max(values)) if values else (None,) * 3
            rows[variant] = dict(zip(keys, numbers, strict=True))
        first = next(iter(rows.values()))["median"]
        for row in rows.values():
            row["ratio"] = row["median"] / first if first and row["median"] is not None else None
        found.append(
            {"name": name, "title": title, "unit": unit, "higher_is_better": higher_is_better, "variants": rows}
        )
    return found


def cost_of(run: Outcome, name: str) -> float | None:
    """One figure of one run; None where it failed or does not say."""
    if name == "startup_seconds":
        return run.environment.get(name)
    return run.report.get("train", {}).get("seconds" if name == "train_seconds" else name)


def machines(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """The machines, with the runs that each made and the versions it had."""
    groups = defaultdict(list)
    for run in outcomes:
        if run.completed:
            groups[tuple(run.environment.get(key) for key in ("processor", "cores", "platform"))].append(run)
    found = []
    for (processor, cores, platform), group in groups.items():
        versions: dict[str, list[str]] = {}
        for run in group:
            framework = run.environment.get("framework", {})
            own = {key: value for key, value in framework.items() if key not in ("threads", "device")}
            for package, version in (run.environment.get("versions", {}) | own).items():
                versions.setdefault(package, [])
                versions[package] += [version] if version not in versions[package] else []
        found.append({
            "runs": [run.label for run in group],
            "processor": processor,
            "cores": cores,
            "threads": _threads(group),
            "platform": platform,
            "versions": {package: " and ".join(several) for package, several in versions.items()},
        })  # fmt: skip
    return found


def _threads(group: list[Outcome]) -> str:
    """One number, or each framework's."""
    by_framework = {run.framework: str(run.environment.get("threads")) for run in group}
    if len(set(by_framework.values())) == 1:
        return next(iter(by_framework.values()))
    return ", ".join(f"{framework} {threads}" for framework, threads in by_framework.items())


def speed(found: list[dict[str, Any]], outcomes: list[Outcome]) -> dict[str, str]:
    """Which variant was faster, and by how much."""
    best, other = "the fastest with {:,.0f} examples/s", "ran at {:.2f} of it"
    return _headline(found, outcomes, "examples_per_second", best, other)


def memory(found: list[dict[str, Any]], outcomes: list[Outcome]) -> dict[str, str]:
    """What it cost in memory."""
    best, other = "the smallest with {:,.0f} MiB at its peak", "took {:.2f} times that"
    return _headline(found, outcomes, "peak_memory_bytes", best, other, 2**20)


def _headline(
    found: list[dict[str, Any]], outcomes: list[Outcome], name: str, best_is: str, other_is: str, unit: int = 1
) -> dict[str, str]:
    (kind,) = (each for each in found if each["name"] == name)
    rows = {variant: row for variant, row in kind["variants"].items() if row["median"] is not None}
    if len(rows) < 2:
        return {"state": "unknown", "sentence": "Fewer than two variants finished, so there is nothing to compare."}
    sign = -1 if kind["higher_is_better"] else 1
    best, *others = sorted(rows, key=lambda variant: sign * rows[variant]["median"])
    top = rows[best]
    sentence = f"{best} was {best_is.format(top['median'] / unit)}; "
    sentence += ", ".join(f"{other} {other_is.format(rows[other]['median'] / top['median'])}" for other in others)
    if len(machines(outcomes)) > 1:
        return {
            "state": "bad",
            "sentence": f"The runs were made on different machines, so this compares those: {sentence}.",
        }
    notes = _notes(rows, best, outcomes, is_speed=kind["higher_is_better"])
    fewest = min(
        sum(run.completed for run in group) for group in variants(outcomes).values() if group[0].variant in rows
    )
    if fewest < FEWEST_RUNS:
        notes.append(f"with {fewest} run{'' if fewest == 1 else 's'} of a variant, chance is not ruled out")
    level = [other for other in others if _overlap(top, rows[other])]
    if level:
        notes.append(f"ranges overlap, so no order is shown between {best} and {' or '.join(level)}")
    is_settled = fewest >= FEWEST_RUNS and len(level) < len(others)
    return {"state": "good" if is_settled else "unknown", "sentence": "; ".join([sentence, *notes]) + "."}


def _notes(rows: dict[str, Any], best: str, outcomes: list[Outcome], is_speed: bool) -> list[str]:
    """How much of the time the first update was."""
    if not is_speed:
        return []
    shares = {}
    for variant, group in variants(run for run in outcomes if run.completed).items():
        shares[variant] = float(
            np.median([cost_of(r, "first_step_seconds") / cost_of(r, "train_seconds") for r in group])
        )
    largest = max(shares, key=shares.get)
    if shares[largest] < MUCH_OF_TRAINING:
        return []
    return [f"the first update is {shares[largest]:.0%} of {largest}'s training, which a longer one would dilute"]


def _overlap(a: dict[str, float], b: dict[str, float]) -> bool:
    return a["low"] <= b["high"] and b["low"] <= a["high"]
