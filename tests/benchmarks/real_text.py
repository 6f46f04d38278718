"""Runs every task on real text in both frameworks with both attentions: scores, speeds, and lock-step differences.

    python -m tests.benchmarks.real_text --data ../shared [--only "sst2 mrpc"] [--out reports/real_text]
        [--small] [--no-lockstep] [--proofs]

`--data` names a folder with data/ and tokenizers/. Each run is a finetune command in its own process. Finished runs are
reused, so nothing is lost when it is stopped; report.md and results.json are written after every run. `--proofs` also
compares our BLEU and SQuAD F1 with independent programs, and the texts that both frameworks generate with one model; it
needs the sets tatoeba and xquad.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.utils.environment import configure_process
from tests.benchmarks import real_proofs
from tests.benchmarks.real_sets import as_arguments, overrides, sets, write_starts

VARIANTS = [(framework, attention) for framework in ("torch", "tensorflow") for attention in ("stock", "handwritten")]
STEPS, SMALL_STEPS, LOG_LINES = 50, 3, 10


def parsed(arguments):
    """The settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with data/ and tokenizers/")
    parser.add_argument("--only", default="", help="sets; by default all")
    parser.add_argument("--out", type=Path, default=Path("reports/real_text"))
    parser.add_argument("--small", action="store_true", help="a few rows and steps, to see that all sets run")
    parser.add_argument("--no-lockstep", action="store_true")
    parser.add_argument("--proofs", action="store_true")
    return parser.parse_args(arguments)


def main(arguments):
    """Run what is missing and print the table; returns 1 if something failed."""
    settings = parsed(arguments)
    settings.data, work = settings.data.resolve(), settings.out.resolve() / "work"
    work.mkdir(parents=True, exist_ok=True)
    write_starts(settings.data, work)
    every = sets(settings.data, work)
    names = settings.only.split() or list(every)
    if unknown := set(names) - set(every):
        sys.exit(f"--only: unknown set {', '.join(sorted(unknown))}; the sets are {', '.join(every)}")
    results = {name: {} for name in names}
    for name in names:
        changes = overrides(every[name], work, settings.small)
        for framework, attention in VARIANTS:
            variant = f"{framework}/{attention}"
            out = settings.out.resolve() / "runs" / name / f"{framework}-{attention}"
            results[name][variant] = trained(every[name][0], changes, framework, attention, out)
            show(results, name, variant, settings.out)
        if not settings.no_lockstep:
            steps = SMALL_STEPS if settings.small else STEPS
            results[name]["lockstep"] = compared(every[name][0], changes, steps, work / f"{name}.lockstep.json")
            show(results, name, "lockstep", settings.out)
    if settings.proofs:
        results["proofs"] = proofs(settings.out.resolve() / "runs", work, settings.data)
        write(results, settings.out)
    print((settings.out / "report.md").read_text(encoding="utf-8"))
    return int("failed" in json.dumps(results))


def trained(recipe, changes, framework, attention, out, seed=0):
    """Run the finetune command once: its metrics, speed and wall time, or how it failed."""
    began = time.time()
    command = [sys.executable, "-m", "pipeline", "finetune", recipe, "--framework", framework, "--attention", attention]
    command += ["--seed", str(seed), "--out", str(out)]
    error = run_child([*command, *as_arguments(changes)], out.with_suffix(".log"))
    if error:
        return {"failed": error}
    report = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return {
        "metrics": report["metrics"],
        "examples_per_second": report["train"]["examples_per_second"],
        "train_seconds": report["train"]["seconds"],
        "wall_seconds": round(time.time() - began, 1),
    }


def compared(recipe, changes, steps, path):
    """The lock-step differences of a recipe, cached in `path` with the digest of the recipe."""
    from pipeline import load_recipe
    from pipeline.comparison.lockstep import compare_frameworks

    resolved = load_recipe(recipe, changes)
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if (record.get("digest"), record.get("steps")) != (resolved.digest(), steps):
        try:
            report = compare_frameworks(resolved, steps)
        except Exception as error:  # a set that fails is shown as failed, and the others continue
            return {"failed": f"{type(error).__name__}: {error}"}
        record = {"digest": resolved.digest(), "steps": report.steps, "same": report.same, "bounds": report.allowed}
        record |= {
            "differences": report.differences,
            "control": report.control,
            "worst_parameter": report.worst_parameter,
        }
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def proofs(runs, work, shared):
    """A line for each proof, or how it failed."""
    lines = (shared / "data" / "tatoeba_eng_fra" / "eng-fra.txt").read_text(encoding="utf-8").splitlines()
    asked = [{"source": line.split("\t")[0]} for line in lines[-real_proofs.ROWS :]]
    translated, answered = runs / "tatoeba" / "torch-stock", runs / "xquad" / "torch-stock"
    results = []
    for proof in (
        lambda: real_proofs.sacrebleu(translated, work),
        lambda: real_proofs.squad(answered, work),
        lambda: real_proofs.generators(translated, work, asked, environment()),
    ):
        try:
            results.append(proof())
        except (OSError, subprocess.CalledProcessError) as error:
            results.append(f"failed: {type(error).__name__}: {error}")
    return results


def environment():
    return os.environ | {"HF_HUB_OFFLINE": "1"}


def run_child(command, log):
    """Run a command; returns the end of its log if it failed, else None."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment())
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return None if done.returncode == 0 else "\n".join([*lines[-LOG_LINES:], f"exit code {done.returncode}"])


def show(results, name, variant, folder):
    """Print one line and write the report so far."""
    write(results, folder)
    print(f"{name} {variant}: {cell(results[name][variant])}", flush=True)


def write(results, folder):
    """Write results.json and report.md; each appears complete or not at all."""
    for file, text in (("results.json", json.dumps(results, indent=2) + "\n"), ("report.md", table(results))):
        partial = folder / f".{file}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / file)


def table(results):
    """Markdown: a row for each set, then failures and proofs."""
    columns = [f"{framework}/{attention}" for framework, attention in VARIANTS]
    lines = [
        "| set | metric | " + " | ".join(columns) + " | lock-step: loss | gradient norm | parameters | same |",
        "|---" * (len(columns) + 6) + "|",
    ]
    failures = []
    for name, variants in results.items():
        if name == "proofs":
            continue
        metric = next((next(iter(variants[c]["metrics"])) for c in columns if "metrics" in variants.get(c, {})), "")
        lockstep = variants.get("lockstep", {})
        values = lockstep.get("differences", {})
        shown = [f"{values[key]:.1e}" if values else "" for key in ("loss", "grad_norm", "parameters")]
        verdict = {True: "yes", False: "NO"}.get(lockstep.get("same"), "failed" if lockstep else "")
        cells = [name, metric, *(cell(variants.get(column, {})) for column in columns), *shown, verdict]
        lines.append("| " + " | ".join(cells) + " |")
        failures += [f"{name} {key}:\n\n```\n{v['failed']}\n```\n" for key, v in variants.items() if "failed" in v]
    lines += ["", "Each cell: the metric (loss in nats per target), training examples per second."]
    for title, entries in (("Failed", failures), ("Proofs", [f"- {text}" for text in results.get("proofs", [])])):
        lines += ["", f"## {title}", "", *entries] if entries else []
    return "\n".join(lines) + "\n"


def cell(result):
    """A run or a comparison in a few words."""
    if "failed" in result:
        return "failed"
    if "differences" in result:
        shown = ", ".join(f"{key} {value:.1e}" for key, value in result["differences"].items())
        return f"{shown} ({'the same' if result['same'] else 'NOT the same'} over {result['steps']} steps)"
    if not result:
        return ""
    metrics = {key: value if value is not None else float("nan") for key, value in result["metrics"].items()}
    return f"{next(iter(metrics.values())):.3f} ({metrics['loss']:.3f}), {result['examples_per_second']:.0f}/s"


if __name__ == "__main__":
    configure_process()
    sys.exit(main(sys.argv[1:]))
