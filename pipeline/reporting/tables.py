"""The tables of a comparison's report, as words: the HTML and the Markdown write the same cells."""

from __future__ import annotations

from typing import Any

from pipeline.reporting.findings import WORDS, Finding, Table, finding
from pipeline.reporting.formatting import MINUS, NOTHING, interval, measured, probability, ratio, score, small, value
from pipeline.utils.text import count

Results = dict[str, Any]


def scores(results: Results) -> Table:
    """Mean, deviation, interval and the value of each seed, by metric."""
    seeds = list(dict.fromkeys(str(seed) for variant in results["variants"] for seed in variant["seeds"]))
    groups = {}
    for metric, found in results["metrics"].items():
        scale, better = found["scale"], "lower" if found["lower_is_better"] else "higher"
        groups[f"{metric} ({better} is better)"] = [
            [
                variant,
                score(summary["mean"], scale),
                score(summary["sd"], scale),
                interval(summary["low"], summary["high"], scale),
                str(summary["n"]),
                *(score(summary["values"].get(seed), scale) for seed in seeds),
            ]
            for variant, summary in found["variants"].items()
        ]
    return Table(
        "Scores on the validation split",
        ["Variant", "Mean", "SD", "95% interval", "Seeds", *(f"Seed {seed}" for seed in seeds)],
        groups,
        "SD is the sample standard deviation over seeds; the interval is Student's t of the mean. "
        "Both need at least two seeds.",
    )


def verdicts(results: Results) -> Table:
    """What is to be said of each pair, by metric."""
    groups: dict[str, list] = {}
    for pair in results["comparisons"]:
        for metric, found in pair["metrics"].items():
            groups.setdefault(metric, []).append([pair_name(pair), finding("verdict", found["verdict"])])
    return Table("What can be said of each pair", ["Pair", "Verdict"], groups, texts=2)


def differences(results: Results) -> Table:
    """The numbers behind the verdicts."""
    groups: dict[str, list] = {}
    for pair in results["comparisons"]:
        for metric, found in pair["metrics"].items():
            scale = results["metrics"][metric]["scale"]
            seeds, equivalence, bootstrap = found["seeds"], found["equivalence"], found["bootstrap"]
            groups.setdefault(metric, []).append([
                pair_name(pair),
                score(seeds["mean_difference"], scale, signed=True),
                interval(seeds["low"], seeds["high"], scale, signed=True),
                interval(equivalence["low"], equivalence["high"], scale, signed=True),
                "±" + score(equivalence["margin"], scale),
                probability(equivalence["p"]),
                equivalence["basis"] or NOTHING,
                interval(bootstrap["low"], bootstrap["high"], scale, signed=True) if bootstrap else NOTHING,
            ])  # fmt: skip
    heads = ["Difference", "95% over seeds", "90% for equivalence", "Margin", "p", "Basis", "95% over examples"]
    return Table(
        "Differences, first minus second",
        ["Pair", *heads],
        groups,
        "Equivalent means that the 90% interval lies inside the margin (two one-sided tests at 5%).",
    )


def agreement(results: Results) -> Table:
    """How often two variants predict the same, for classification."""
    rows = [
        [
            pair_name(pair),
            f"{found['agree']:.1%}" if found["agree"] is not None else NOTHING,
            NOTHING if found["kappa"] is None else f"{found['kappa']:.3f}".replace("-", MINUS),
            f"{found['first_only_right']:,}",
            f"{found['second_only_right']:,}",
            probability(found["mcnemar_p"]),
            f"{found['n']:,}",
        ]
        for pair in results["comparisons"]
        if (found := pair["agreement"])
    ]
    heads = ["Agree", "Cohen's κ", "Only first right", "Only second right", "McNemar p", "Predictions"]
    return Table("Agreement of the predictions", ["Pair", *heads], {"": rows})


def evidence(results: Results) -> Table:
    """Start, batches and optimisation of each pair, all seeds together."""
    found = results["sameness"]
    rows = []
    for pair in results["comparisons"]:
        probe, batches, optimisation = (
            [row for row in found[kind] if (row["first"], row["second"]) == (pair["first"], pair["second"])]
            for kind in ("probe", "batches", "optimisation")
        )
        rates = [row["learning_rate_max_difference"] for row in optimisation]
        ratios = [row["grad_norm_median_ratio"] for row in optimisation if row["grad_norm_median_ratio"] is not None]
        rows.append([
            pair_name(pair),
            _start(probe),
            _batches(batches),
            small(_largest(rates)),
            f"{min(ratios):.3f} to {max(ratios):.3f}" if ratios else NOTHING,
        ])  # fmt: skip
    tolerances = sorted({f"{row['tolerance']:.0e}" for row in found["probe"]})
    return Table(
        "The same start, the same batches, the same rates",
        ["Pair", "Logits before training", "Batches", "Learning rate, largest difference", "Gradient norm, ratio"],
        {"": rows},
        "Logits: the largest difference on the probe rows, relative to the largest logit, over all seeds "
        f"(tolerance {' or '.join(tolerances)}). Batches: the number of examples and tokens of every update. "
        "Gradient norm: the median over updates of first divided by second, lowest to highest seed.",
        texts=3,
    )


def _start(rows: list[dict]) -> Finding | str:
    if not rows:
        return NOTHING
    far = [row["seed"] for row in rows if not row["ok"]]
    largest = small(_largest(row["max_difference"] for row in rows))
    where = f", over it in seed {', '.join(map(str, far))}" if far else ""
    return Finding("bad" if far else "good", WORDS["check"]["bad" if far else "good"], largest + where)


def _batches(rows: list[dict]) -> Finding | str:
    if not rows:
        return NOTHING
    apart = [row for row in rows if not row["same"]]
    if not apart:
        return Finding("good", "Same", f"in {count(len(rows), 'seed')}")
    where = ", ".join(
        f"seed {row['seed']}"
        + ("" if row["first_different_step"] is None else f" from step {row['first_different_step']}")
        for row in apart
    )
    return Finding("bad", "Different", where)


def lockstep(results: Results) -> Table:
    """The bounded differences of the lock-step updates."""
    titles = {
        "logits": "Initial logits, largest difference",
        "loss": "Loss, largest difference of an update",
        "grad_norm": "Gradient norm, largest relative difference",
        "parameters": "Parameters at the end, relative to how far they moved",
    }
    groups = {}
    for run in results["sameness"]["lockstep"]:
        rows = []
        for name, difference in run["differences"].items():
            within = difference is not None and difference <= run["bounds"][name]
            check = Finding("good", "Within") if within else Finding("bad", "Over")
            rows.append([titles.get(name, name), check, small(difference), f"{run['bounds'][name]:.0e}"])
        worst = f"; the parameter furthest apart is {run['worst_parameter']}" if run["worst_parameter"] else ""
        groups[f"{run['attention']} attention, {count(run['steps'], 'update')}{worst}"] = rows
    return Table(
        "Update by update, dropout 0, fp32",
        ["Quantity", "Check", "Difference", "Bound"],
        groups,
        "PyTorch against TensorFlow from the same weights over the same batches.",
        texts=2,
    )


def cost(results: Results) -> Table:
    """Median, range over seeds and ratio of every quantity."""
    groups = {}
    for kind in results["cost"]:
        better = "higher" if kind["higher_is_better"] else "lower"
        unit, rows = "", []
        for variant, found in kind["variants"].items():
            median, unit = measured(found["median"], kind["unit"])
            low, high = (measured(found[end], kind["unit"])[0] for end in ("low", "high"))
            rows.append([variant, median, low if low == high else f"{low} to {high}", ratio(found["ratio"])])
        groups[f"{kind['title']}, {unit} ({better} is better)"] = rows
    first = results["variants"][0]["name"] if results["variants"] else "the first"
    return Table("What it took", ["Variant", "Median", "Range over seeds", f"Ratio to {first}"], groups)


def recipe_differences(results: Results) -> Table:
    """Settings that were not the same in all runs."""
    groups = {}
    for difference in results["recipe_differences"]:
        by_value: dict[str, list[str]] = {}
        for run, found in difference["values"].items():
            by_value.setdefault(value(found), []).append(run)
        groups[difference["key"]] = [[shown, ", ".join(runs)] for shown, runs in by_value.items()]
    return Table("Settings that differ between the runs", ["Value", "Runs"], groups, texts=2)


def variants(results: Results) -> Table:
    """Who ran, with how many seeds."""
    rows = [
        [
            variant["name"],
            ", ".join(map(str, variant["seeds"])),
            _sites([run for run in results["runs"] if run["variant"] == variant["name"]]),
            str(variant["completed"]),
            str(variant["failed"]),
        ]
        for variant in results["variants"]
    ]
    return Table(
        "Variants",
        ["Variant", "Seeds", "Attention swapped", "Completed", "Failed"],
        {"": rows},
        "Swapped: attention modules replaced, and the largest difference of the probe's logits that the swap made.",
        texts=3,
    )


def _sites(runs: list[dict]) -> str:
    sites = _largest(run["attention_sites"] for run in runs)
    if not sites:
        return "stock"
    return f"{count(sites, 'module')}, {small(_largest(run['attention_max_difference'] for run in runs))}"


def machines(results: Results) -> Table:
    """Where the runs were made, and with which versions."""
    groups = {}
    for number, machine in enumerate(results["machine"], start=1):
        several = len(results["machine"]) > 1
        name = f"Machine {number}: {', '.join(machine['runs'])}" if several else ""
        versions = [[package, value(version)] for package, version in machine["versions"].items()]
        groups[name] = [
            ["processor", value(machine["processor"])],
            ["cores, threads", f"{value(machine['cores'])}, {value(machine['threads'])}"],
            ["platform", value(machine["platform"])],
            *versions,
        ]
    return Table("Machine and versions", ["What", "Value"], groups, texts=2)


def map_differences(results: Results) -> Table:
    """How far the attention maps of two frameworks are apart, layer by layer; none where their tokens differ."""
    maps = results["attention_maps"]
    if len(maps) < 2 or any(other["tokens"] != maps[0]["tokens"] for other in maps):
        return Table("", [], {})
    groups: dict[str, list] = {}
    for other in maps[1:]:
        rows = groups.setdefault(f"{maps[0]['variant']} and {other['variant']}", [])
        for layer, (ours, theirs) in enumerate(zip(maps[0]["weights"], other["weights"], strict=True), start=1):
            apart = [abs(a - b) for a, b in zip(_flat(ours), _flat(theirs), strict=True)]
            rows.append([str(layer), f"{max(apart):.3f}", f"{sum(apart) / len(apart):.4f}"])
    return Table("How far the maps are apart", ["Layer", "Largest difference of a weight", "Mean difference"], groups)


def pair_name(pair: dict[str, str]) -> str:
    """'torch/stock − tensorflow/stock': the order is that of the subtraction."""
    return f"{pair['first']} {MINUS} {pair['second']}"


def _flat(weights: list) -> list[float]:
    return [number for head in weights for row in head for number in row]


def _largest(numbers: Any) -> Any:
    return max((number for number in numbers if number is not None), default=None)
