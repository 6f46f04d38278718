"""`make bench`: measures this pipeline beside the Trainer and the Keras training of Hugging Face, in one run.

    python -m tests.benchmarks.bench [--data ../shared/data] [--repeats 3] [--only classification]
        [--contestants "trainer-fp32 ours-torch-fp32"] [--rows 8192] [--shape small] [--batch-size 32] [--at-once 1]
        [--quick] [--out reports/bench]

Writes results.json and report.md after every run, so that nothing is lost when it is stopped. The contestants take
turns: all of them run repeat r, with seed r, before any runs repeat r + 1, and every other repeat reverses the order.
All have the same random weights, rows, batch size and number of steps, and each runs in a fresh process with the same
number of threads.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.benchmarks.contestants import CONTESTANTS
from tests.benchmarks.tables import report
from tests.benchmarks.workloads import SETTINGS, SHAPES

# Those that run only if they are asked for.
ON_REQUEST = (
    "handwritten-bf16",
    "-sorted-",
    "-padded-",
    "-framework-masks-",
    "-deterministic-",
    "-compiled-",
    "-unrecorded-",
)
UNASKED = [name for name in CONTESTANTS if not any(part in name for part in ON_REQUEST)]
ROOT = Path(__file__).resolve().parents[2]
LOG_LINES = 12


def parsed(arguments):
    """The settings of the command line; a wrong name gives an error that lists the known ones."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with glue/SST-2, wikitext2 and tatoeba_eng_fra")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=" ".join(SETTINGS), help="workloads")
    parser.add_argument("--contestants", default=" ".join(UNASKED))
    parser.add_argument("--rows", type=int, default=8192, help="the largest number of training rows")
    parser.add_argument("--shape", choices=list(SHAPES), default="small", help="small: 4 layers of width 256")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--at-once", type=int, default=1, help="runs at a time; with several only scores mean something"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: 64 rows, one repeat")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "bench")
    settings = parser.parse_args(arguments)
    for chosen, known in ((settings.only, SETTINGS), (settings.contestants, CONTESTANTS)):
        if unknown := set(chosen.split()) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; the names are {', '.join(known)}")
    if settings.data is not None and not settings.data.is_dir():
        parser.error(f"--data {settings.data}: no such folder")
    if settings.quick:
        settings.rows, settings.repeats = min(settings.rows, 64), 1
    if settings.quick:
        settings.batch_size = min(settings.batch_size, 32)
    if not 1 <= settings.batch_size <= settings.rows or min(settings.repeats, settings.at_once) < 1:
        parser.error("--rows must be at least one batch; --batch-size, --repeats and --at-once at least 1")
    return settings


def main(arguments):
    """Measure, printing a line for each run; returns 1 if a contestant failed."""
    settings = parsed(arguments)
    work, num_threads = settings.out / "work", max(1, (os.cpu_count() or 1) // settings.at_once)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    environment = os.environ | {
        "OMP_NUM_THREADS": str(num_threads), "TF_NUM_INTRAOP_THREADS": str(num_threads), "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(work.resolve() / "cache"), "TF_USE_LEGACY_KERAS": "1",
    }  # fmt: skip
    results = {
        "began": time.strftime("%Y-%m-%d %H:%M"),
        "settings": {
            "data": str(settings.data or "bundled"),
            "repeats": settings.repeats,
            "rows": settings.rows,
            "at_once": settings.at_once,
        },
        "machine": {
            "processor": _processor(),
            "device": _device(),
            "threads": num_threads,
            "python": platform.python_version(),
        },
        "workloads": {},
        "runs": [],
    }
    for name in settings.only.split():
        arguments = [str(work / name), name, str(settings.rows), settings.shape, str(settings.batch_size)]
        arguments += [str(settings.data)] if settings.data else []
        error = run_child("workloads", arguments, environment, work / f"{name}.log")
        if error:
            sys.exit(f"{name} could not be prepared:\n{error}")
        results["workloads"][name] = json.loads((work / name / "workload.json").read_text(encoding="utf-8"))
    plan = turns(settings)
    with ThreadPoolExecutor(settings.at_once) as pool:
        runs = pool.map(lambda turn: measured(work, *turn, environment), plan)
        for number, ((repeat, name, contestant), measurements) in enumerate(zip(plan, runs, strict=True), start=1):
            run = {"workload": name, "contestant": contestant, "repeat": repeat} | measurements
            results["runs"].append(run)
            write(results, settings.out)
            print(f"{number}/{len(plan)} {name} {contestant} repeat {repeat}: {summary(run, results)}", flush=True)
    print(f"{settings.out / 'report.md'}, {settings.out / 'results.json'}")
    return int(any("failed" in run for run in results["runs"]))


def turns(settings):
    """(repeat, workload, contestant) in the order in which they run."""
    plan = []
    for repeat in range(settings.repeats):
        for name in settings.only.split():
            chosen = [c for c in settings.contestants.split() if not (name == "causal" and "grouped" in c)]
            # All blocks have the same length, so there is nothing to group by.
            plan += [(repeat, name, c) for c in ["ceiling", *chosen[:: -1 if repeat % 2 else 1]]]
    return plan


def measured(work, repeat, name, contestant, environment):
    """The measurements of a contestant in its own process, or {"failed": the end of its log}."""
    own = work / f"{name}-{contestant}-{repeat}"
    own.mkdir()
    spec, result = own / "spec.json", own / "result.json"
    content = {"folder": str(work / name), "contestant": contestant, "seed": repeat}
    content |= {"out": str(own / "run"), "result": str(result), "launched": time.time()}
    spec.write_text(json.dumps(content), encoding="utf-8")
    module, load = "ceiling" if contestant == "ceiling" else "contestants", os.getloadavg()[0]
    error = run_child(module, [str(spec)], environment, own / "log")
    shutil.rmtree(own / "run", ignore_errors=True)
    return {"load": load} | ({"failed": error} if error else json.loads(result.read_text(encoding="utf-8")))


def run_child(module, arguments, environment, log):
    """Run a module of this folder; returns the end of its log if it failed, else None."""
    with open(log, "w", encoding="utf-8") as file:
        command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    if done.returncode == 0:
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([*lines[-LOG_LINES:], f"exit code {done.returncode}; the whole log: {log}"])


def write(results, folder):
    """Write results.json and report.md; each appears complete or not at all."""
    for file, text in (("results.json", json.dumps(results, indent=2) + "\n"), ("report.md", report(results))):
        partial = folder / f".{file}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / file)


def summary(run, results):
    """A run in a few words."""
    if "failed" in run:
        return "FAILED: " + next((line for line in reversed(run["failed"].splitlines()[:-1]) if line.strip()), "")
    if "gflops" in run:
        return ", ".join(f"{precision} {gflops:.0f} GFLOP/s" for precision, gflops in run["gflops"].items())
    workload = results["workloads"][run["workload"]]
    speed = workload["rows"] * workload["epochs"] / run["seconds"]
    return f"{speed:.0f} examples/s, {workload['score']} {run['score']:.3f}"


def _device():
    """The GPU that PyTorch computes on, or "cpu"; asked in another process, so that this one holds nothing of it."""
    question = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu')"
    return subprocess.run([sys.executable, "-c", question], capture_output=True, text=True).stdout.strip()


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
