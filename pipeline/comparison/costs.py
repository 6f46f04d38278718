"""What the runs cost: speed, start-up, time and memory, on which machine; never more precise than the runs allow."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from pipeline.comparison.run_set import Outcome, variants

# name, title, unit, whether more is better
KINDS = (
    ("examples_per_second", "Training speed", "examples/s", True),
    ("steady_examples_per_second", "Training speed after the first update", "examples/s", True),
    ("tokens_per_second", "Training speed in tokens", "tokens/s", True),
    ("first_step_seconds", "First update", "s", False),
    ("startup_seconds", "Start-up until training", "s", False),
    ("train_seconds", "Training", "s", False),
    ("peak_memory_bytes", "Peak memory of the process", "bytes", False),
)
FEWEST_RUNS = 3
# Where the first update, in which TensorFlow traces its graph, took more of the training than this, speeds are compared
# without it: a longer training would dilute it.
MUCH_OF_TRAINING = 0.2


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
    if name == "steady_examples_per_second":
        return _steady(run)
    return run.report.get("train", {}).get("seconds" if name == "train_seconds" else name)


def _steady(run: Outcome) -> float | None:
    """Examples a second in all updates but the first."""
    seconds, examples = run.column("seconds"), run.column("examples")
    if len(seconds) < 2 or not seconds[-1] > seconds[0]:
        return None
    return float(examples[1:].sum() / (seconds[-1] - seconds[0]))


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
    """Which variant was faster, and by how much; without the first update where that was much of the training."""
    who, share = _first_update(outcomes)
    if share <= MUCH_OF_TRAINING or not _enough(found, "steady_examples_per_second"):
        return _headline(found, outcomes, "examples_per_second", "fastest was {} with {:,.0f} examples/s")
    best = "after the first update, fastest was {} with {:,.0f} examples/s"
    note = f"The first update took {share:.0%} of {who}'s training."
    return _headline(found, outcomes, "steady_examples_per_second", best, note=note)


def memory(found: list[dict[str, Any]], outcomes: list[Outcome]) -> dict[str, str]:
    """What it cost in memory."""
    return _headline(found, outcomes, "peak_memory_bytes", "smallest was {} with {:,.0f} MiB at its peak", 2**20)


def _headline(
    found: list[dict[str, Any]], outcomes: list[Outcome], name: str, best_is: str, unit: int = 1, note: str = ""
) -> dict[str, str]:
    if not _enough(found, name):
        return {"state": "unknown", "sentence": "Fewer than two variants finished, so there is nothing to compare."}
    rows, sign = _measured(found, name)
    best, *others = sorted(rows, key=lambda variant: sign * rows[variant]["median"])
    top = rows[best]
    ratios = ", ".join(f"{other} {rows[other]['median'] / top['median']:.2f} × that" for other in others)
    sentence = f"{best_is.format(best, top['median'] / unit)}; {ratios}."
    if len(machines(outcomes)) > 1:
        different = "The runs were made on different machines, so this compares those"
        return {"state": "bad", "sentence": " ".join([f"{different}: {sentence}", note]).strip()}
    notes = [note] if note else []
    fewest = min(
        sum(run.completed for run in group) for group in variants(outcomes).values() if group[0].variant in rows
    )
    if fewest < FEWEST_RUNS:
        notes.append(f"With {fewest} run{'' if fewest == 1 else 's'} of a variant, chance is not ruled out.")
    level = [other for other in others if _overlap(top, rows[other])]
    if level:
        notes.append(f"The ranges of {best} and {' and '.join(level)} overlap, so their order is not shown.")
    is_settled = fewest >= FEWEST_RUNS and len(level) < len(others)
    sentence = sentence[0].upper() + sentence[1:]
    return {"state": "good" if is_settled else "unknown", "sentence": " ".join([sentence, *notes])}


def _measured(found: list[dict[str, Any]], name: str) -> tuple[dict[str, Any], int]:
    """The variants that have a figure of this kind, and the sign that brings the best to the front."""
    (kind,) = (each for each in found if each["name"] == name)
    rows = {variant: row for variant, row in kind["variants"].items() if row["median"] is not None}
    return rows, -1 if kind["higher_is_better"] else 1


def _enough(found: list[dict[str, Any]], name: str) -> bool:
    return len(_measured(found, name)[0]) > 1


def _first_update(outcomes: list[Outcome]) -> tuple[str, float]:
    """The variant in whose training the first update was most of the time, and how much."""
    shares = {
        variant: float(np.median([cost_of(r, "first_step_seconds") / cost_of(r, "train_seconds") for r in group]))
        for variant, group in variants(run for run in outcomes if run.completed).items()
    }
    return max(shares.items(), key=lambda item: item[1], default=("", 0.0))


def _overlap(a: dict[str, float], b: dict[str, float]) -> bool:
    return a["low"] <= b["high"] and b["low"] <= a["high"]
