"""The first screen: did they do the same thing, which was faster, what did it cost, and what spoils the answers."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import Any

from pipeline.comparison import costs as cost
from pipeline.comparison import same_experiment as evidence
from pipeline.comparison.run_set import Outcome
from pipeline.utils.text import join_names

Said = dict[str, str]
MOST_NAMED = 3


def headline(results: dict[str, Any], runs: list[Outcome], notes: list[Said]) -> dict[str, Any]:
    """The answers and notices; `notes` are notices found elsewhere."""
    faults = [
        *_recipe_faults(results["recipe_differences"]),
        *_probe_faults(results["sameness"]["probe"]),
        *_batch_faults(results["sameness"]["batches"], runs),
        *_rate_faults(results["sameness"]["optimisation"]),
        *_lockstep_faults(results["sameness"]["lockstep"]),
    ]
    notices = [_said("bad", fault) for fault in faults] + _failures(runs) + notes
    notices += _doubts(results, runs) + _machine_notices(results["machine"], runs)
    notices = [_said(notice["state"], _capital(notice["sentence"])) for notice in notices]
    return {
        "same": _same(results, runs, faults),
        "speed": cost.speed(results["cost"], runs),
        "memory": cost.memory(results["cost"], runs),
        "notices": notices,
    }


def _same(results: dict[str, Any], runs: list[Outcome], faults: list[str]) -> Said:
    """Bad where a record says that it was another experiment, whatever the scores."""
    if faults:
        more = f"; and {len(faults) - MOST_NAMED} more below" if len(faults) > MOST_NAMED else ""
        named = "; ".join(fault.rstrip(".") for fault in faults[:MOST_NAMED])
        return _said("bad", f"Not the same experiment: {named}{more}.")
    if not results["comparisons"]:
        return _said("unknown", "Fewer than two variants finished, so there is nothing to compare.")
    metric = next(iter(results["metrics"]))
    widest_first = sorted(results["comparisons"], key=lambda pair: -_apart(pair["metrics"][metric]))
    verdicts = [(pair["first"], pair["second"], pair["metrics"][metric]["verdict"]) for pair in widest_first]
    records = _records(results)
    for state, opening in (("bad", f"{records}. But the {metric} differs"), ("unknown", f"{records}. The {metric} is")):
        found = [verdict for verdict in verdicts if verdict[2]["state"] == state]
        if found:
            return _said(state, opening + _of_one_pair(found, len(verdicts)))
    sentence = verdicts[0][2]["sentence"]
    if len(verdicts) > 1:
        text = f"{records}. In all {len(verdicts)} pairs the {metric} is {sentence.partition(' (')[0]}."
    else:
        text = f"{records}. The {metric} is {sentence}."
    if any(not run.completed for run in runs):
        return _said("unknown", f"{text} But some runs failed.")
    return _said("good", text)


def _of_one_pair(found: list[tuple[str, str, Said]], num_pairs: int) -> str:
    """The verdict of the pair that is widest apart, in how many pairs it is such, and which pair it is."""
    first, second, verdict = found[0]
    said, _, why = verdict["sentence"].partition(": ")
    said = "" if said == "different" else f" {said}"
    where = f" in {len(found)} of {num_pairs} pairs, such as {first} and {second}" if num_pairs > 1 else ""
    return f"{said}{where}: {why}."


def _apart(found: dict[str, Any]) -> float:
    return abs(found["seeds"]["mean_difference"] or 0.0)


def _records(results: dict[str, Any]) -> str:
    """What the records were found to agree in; only what was looked at."""
    found, sameness = [], results["sameness"]
    largest = [row["max_difference"] for row in sameness["probe"]]
    if largest:
        found.append(f"same start (logits within {max(largest):.0e})")
    if sameness["batches"]:
        by_rows = all(row["basis"] == "rows" for row in sameness["batches"])
        found.append(("same batches" if by_rows else "batches of the same sizes") + ", same learning rates")
    if sameness["lockstep"]:
        steps = min(run["steps"] for run in sameness["lockstep"])
        names = [run["attention"] for run in sameness["lockstep"]]
        of = "" if {run["attention"] for run in results["variants"]} <= set(names) else f" ({' and '.join(names)})"
        found.append(f"{steps} updates in lock-step within bounds{of}")
    return _capital(", ".join(found))


def _recipe_faults(differences: list[dict[str, Any]]) -> list[str]:
    faults = []
    for difference in differences:
        by_value = defaultdict(list)
        for label, value in difference["values"].items():
            by_value[json.dumps(value, ensure_ascii=False)].append(label)
        values = "; ".join(f"{value} in {join_names(labels, MOST_NAMED)}" for value, labels in by_value.items())
        faults.append(f"the setting {difference['key']} differs: {values}")
    return faults


def _probe_faults(rows: list[dict[str, Any]]) -> list[str]:
    faults = []
    for (first, second), several in _by_pair(row for row in rows if not row["ok"]).items():
        sizes = [row["max_difference"] for row in several]
        size = "have other shapes" if None in sizes else f"differ by up to {_number(max(sizes))}"
        seeds = f"seed {', '.join(str(row['seed']) for row in several)}"
        tolerance = f"{several[0]['tolerance']:.0e}"
        faults.append(
            f"the start of {first} and {second} is not the same function: the logits before training {size} "
            f"(tolerance {tolerance}, {seeds})"
        )
    return faults


def _batch_faults(rows: list[dict[str, Any]], runs: list[Outcome]) -> list[str]:
    faults = []
    by_label = {(run.variant, run.seed): run for run in runs if run.completed}
    for (first, second), several in _by_pair(row for row in rows if not row["same"]).items():
        seeds = ", ".join(f"seed {row['seed']}{_since(row['first_different_step'])}" for row in several)
        text = f"the batches of {first} and {second} are not the same: {seeds}"
        for row in several:
            for variant in (first, second):
                other = evidence.order_of_another_seed(by_label[variant, row["seed"]], runs)
                if other is not None:
                    text += f"; the batches of {variant} seed {row['seed']} are those of seed {other}"
        faults.append(text)
    return faults


def _since(step: int | None) -> str:
    return ", of equal sizes but other rows" if step is None else f" from update {step} on"


def _rate_faults(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"the learning rates of {first} and {second} differ by up to "
        f"{_number(max(row['learning_rate_max_difference'] for row in several))}"
        for (first, second), several in _by_pair(
            row for row in rows if not row["learning_rate_max_difference"] <= 1e-12
        ).items()
    ]


def _lockstep_faults(rows: list[dict[str, Any]]) -> list[str]:
    faults = []
    for row in (row for row in rows if not row["same"]):
        over = [
            f"{name} {_number(value)} (bound {row['bounds'][name]:.0e})"
            for name, value in row["differences"].items()
            if value is None or not value <= row["bounds"][name]
        ]
        faults.append(f"in lock-step with {row['attention']} attention PyTorch and TensorFlow part: {', '.join(over)}")
    return faults


def _failures(runs: list[Outcome]) -> list[Said]:
    return [
        _said("bad", f"the run {run.label} failed; the end of its log is below") for run in runs if not run.completed
    ]


def _doubts(results: dict[str, Any], runs: list[Outcome]) -> list[Said]:
    """What is no fault yet, but keeps a careful reader from being sure."""
    found = []
    low, high = evidence.USUAL_GRAD_NORM_RATIO
    for row in results["sameness"]["optimisation"]:
        ratio = row["grad_norm_median_ratio"]
        if ratio is not None and not low <= ratio <= high:
            names = f"{row['first']} and {row['second']} seed {row['seed']}"
            found.append(f"the gradient norms of {names} are {ratio:.2f} of each other, far from 1")
    for run in runs:
        undefined = [name for name, value in run.metrics.items() if value is None or not math.isfinite(value)]
        if undefined:
            found.append(f"undefined in {run.label}: {', '.join(undefined)}; the run may have diverged")
    resumed = [run.label for run in runs if run.completed and run.report["train"].get("resumed_at")]
    if resumed:
        found.append(f"resumed on their way, which their speeds and first steps show: {', '.join(resumed)}")
    by_size = any(row["basis"] == "sizes" for row in results["sameness"]["batches"])
    if by_size and not evidence.telling_sizes(runs):
        found.append(
            "all updates have about the same size, and not all runs say which rows they had, so the order of the data "
            "is not shown to be the same"
        )
    return [_said("unknown", text) for text in found]


def _machine_notices(machines: list[dict[str, Any]], runs: list[Outcome]) -> list[Said]:
    found = []
    if len(machines) > 1:
        names = "; ".join(f"{machine['processor']}, {machine['cores']} cores" for machine in machines)
        found.append(f"the runs were made on different machines, so their speeds do not compare: {names}")
    for machine in machines:
        mixed = [f"{name} {version}" for name, version in machine["versions"].items() if " and " in version]
        if mixed:
            found.append(f"versions differ between the runs: {', '.join(mixed)}")
    # So older runs recorded TensorFlow's own choice, which was one for each core.
    threads = {
        str(
            run.environment.get("cores")
            if run.environment.get("threads") == "default"
            else run.environment.get("threads")
        )
        for run in runs
        if run.completed
    }
    if len(threads) > 1:
        found.append(f"the runs had different numbers of threads ({', '.join(sorted(threads))}), which changes speed")
    return [_said("unknown", text) for text in found]


def _by_pair(rows: Any) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in rows:
        found[row["first"], row["second"]].append(row)
    return found


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.2g}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _said(state: str, sentence: str) -> Said:
    return {"state": state, "sentence": sentence}
