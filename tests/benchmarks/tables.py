"""The tables of `make bench`, from its results: medians, ranges, and ratios to Trainer with its defaults."""

import statistics

BASELINES = ("trainer-fp32", "trainer-bf16")


def baseline_of(runs):
    """The contestant that speeds are set in relation to: Trainer in fp32, or in bf16 where only that ran."""
    names = {run["contestant"] for run in runs}
    return next((name for name in BASELINES if name in names), BASELINES[0])


def rows(runs, workload, ceilings):
    """A dict for each contestant, in order of appearance.

    `runs` are the runs of the workload: contestant, repeat, and either the measurements or "failed". The ratio of
    speeds is taken within each repeat, because the speed of the machine drifts; the median ratio counts. `ceilings` are
    GFLOP/s by precision.
    """
    baseline = baseline_of(runs)
    names = list(dict.fromkeys(run["contestant"] for run in runs))
    speeds = {(run["contestant"], run["repeat"]): _speed(run, workload) for run in runs if "failed" not in run}
    return [_row(name, runs, workload, ceilings, speeds, baseline) for name in names]


def _row(name, runs, workload, ceilings, speeds, baseline):
    whole = [run for run in runs if run["contestant"] == name and "failed" not in run]
    row = {"contestant": name, "runs": len(whole), "failed": sum(r["contestant"] == name for r in runs) - len(whole)}
    if not whole:
        return row
    pairs = [(speeds[name, r["repeat"]], speeds.get((baseline, r["repeat"]))) for r in whole]
    ratios = [mine / theirs for mine, theirs in pairs if theirs]
    ceiling = ceilings.get(name.rpartition("-")[2])
    seconds = statistics.median(run["seconds"] for run in whole)
    return row | {
        "examples_per_second": spread([mine for mine, _ in pairs]),
        "later_examples_per_second": spread([_later_speed(run, workload) for run in whole]),
        "ratio": spread(ratios) if ratios else None,
        "score": spread([run["score"] for run in whole]),
        "real_token_share": statistics.median(run["real_token_share"] for run in whole),
        "peak_memory_bytes": spread([run["peak_memory_bytes"] for run in whole]),
        "startup_seconds": spread([run["startup_seconds"] for run in whole]),
        "steps": sorted({run["steps"] for run in whole}),
        "share_of_ceiling": workload["training_flops"] / seconds / 1e9 / ceiling if ceiling else None,
    }


def _speed(run, workload):
    return workload["rows"] * workload["epochs"] / run["seconds"]


def _later_speed(run, workload):
    """Examples a second in the later half of the steps; 0 where there are too few."""
    seconds = run["seconds_of_later_half"]
    return workload["batch_size"] * run["steps_of_later_half"] / seconds if seconds > 0 else 0.0


def spread(values):
    """Median and range of values."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def report(results):
    """The text of report.md."""
    settings, machine = results["settings"], results["machine"]
    at_once = settings["at_once"]
    lines = [
        "# This pipeline beside Trainer and Keras",
        "",
        f"{machine['processor']}, {machine['threads']} threads, device {machine['device']}, Python "
        f"{machine['python']}; {results['began']}. Repeats: {settings['repeats']}, repeat r with seed r; each run has "
        "its own process.",
        "Training time is from the first batch to the end of the last step, without evaluation. Ratios are to "
        f"{baseline_of(results['runs'])} in the same repeat. Each cell has the median and, in parentheses, the range "
        "over repeats. Peak memory is that of the process from its launch to the last step, on a GPU what PyTorch "
        "reserved there. The share of the ceiling is the time that the matrix products on real tokens need at the "
        "ceiling of their precision, over the training time.",
        *([f"{at_once} runs at a time: only the scores mean something, the speeds do not."] if at_once > 1 else []),
        "",
    ]
    for name, workload in results["workloads"].items():
        lines += _section(name, workload, [run for run in results["runs"] if run["workload"] == name])
    failures = [run for run in results["runs"] if "failed" in run]
    if failures:
        lines += ["## Failed", ""]
        for run in failures:
            lines += [f"{run['workload']} {run['contestant']} repeat {run['repeat']}:", "", "```"]
            lines += [*run["failed"].splitlines(), "```", ""]
    return "\n".join(lines)


def _section(name, workload, runs):
    ceilings = ceiling_of(runs)
    shown = ", ".join(f"{precision} {gflops:.0f} GFLOP/s" for precision, gflops in ceilings.items())
    score = {"accuracy": "accuracy", "loss": "validation loss, nats per token"}[workload["score"]]
    lines = [
        f"## {name}: {workload['source']}",
        "",
        f"{workload['rows']} examples of {workload['tokens'] / workload['rows']:.1f} real tokens, "
        f"{workload['steps']} steps of {workload['batch_size']}, learning rate {workload['learning_rate']:g}, "
        f"vocabulary {workload['vocabulary']}. The ceiling, matrix products of these shapes: {shown or 'unknown'}.",
        "",
        f"| who | runs | examples/s | to {baseline_of(runs)} | in the later half | {score} | real tokens "
        "| of the ceiling | peak memory, MB | launch to first step, s | steps |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows([run for run in runs if run["contestant"] != "ceiling"], workload, ceilings):
        lines.append("| " + " | ".join(_cells(row)) + " |")
    return [*lines, ""]


def ceiling_of(runs):
    """GFLOP/s by precision, the highest of all repeats."""
    ceilings = {}
    for run in runs:
        for precision, gflops in run.get("gflops", {}).items():
            ceilings[precision] = max(gflops, ceilings.get(precision, 0.0))
    return ceilings


def _cells(row):
    runs = f"{row['runs']}" + (f", {row['failed']} failed" if row["failed"] else "")
    if not row["runs"]:
        return [row["contestant"], runs, *["failed"] * 9]
    memory = {key: value / 1e6 for key, value in row["peak_memory_bytes"].items()}
    return [
        row["contestant"],
        runs,
        _median_and_range(row["examples_per_second"], 0),
        _median_and_range(row["ratio"], 2) if row["ratio"] else "",
        _median_and_range(row["later_examples_per_second"], 0),
        _median_and_range(row["score"], 3),
        f"{row['real_token_share']:.0%}",
        f"{row['share_of_ceiling']:.0%}" if row["share_of_ceiling"] else "",
        _median_and_range(memory, 0),
        _median_and_range(row["startup_seconds"], 1),
        " or ".join(map(str, row["steps"])),
    ]


def _median_and_range(values, digits):
    low, median, high = (f"{values[key]:.{digits}f}" for key in ("low", "median", "high"))
    return median if low == high else f"{median} ({low} to {high})"
