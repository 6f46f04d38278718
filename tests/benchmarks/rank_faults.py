"""Faults of several processes: how soon each ends all of them, with which message, and what is left of the run.

    python -m tests.benchmarks.rank_faults [--frameworks torch tensorflow] [--only NAME ...] [--resume]

Each row is the command `finetune` with two processes on a tiny recipe, a training checkpoint every five steps. After
step 13 the fault is made from outside. A row says how many seconds later the last process had ended, the exit code, the
step of the newest valid training checkpoint, and the last lines that were printed. With --resume the run is continued,
and must end. The exit code is 1 if some process was still there after ten seconds, or if a resumed run did not end.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.training.checkpoints import TrainingCheckpoints
from pipeline.utils.environment import configure_process
from pipeline.utils.processes import is_running
from tests.helpers.families import recipe_of

FRAMEWORKS = ("torch", "tensorflow")
STEP_OF_FAULT = 13
START_SECONDS, MOST_SECONDS = 90.0, 45.0
ALLOWED_SECONDS = 10.0
RECIPE_CHANGES = {"train.epochs": 20, "train.save_every": 5, "train.dropout": 0.1}


@dataclass
class Run:
    """A run of several processes that is under way: that of the command, and those of the ranks."""

    command: subprocess.Popen
    out: Path
    log: Path
    ranks: list[int] = field(default_factory=list)

    @property
    def history(self) -> Path | None:
        """The file that grows by a line for each step."""
        return next(self.out.parent.glob(f".{self.out.name}.partial-*/history.jsonl"), None)

    def num_steps(self) -> int:
        """How many steps are done."""
        history = self.history
        return 0 if history is None else len(history.read_bytes().splitlines())

    def all_ended(self) -> bool:
        """Whether no process of the run is left."""
        return self.command.poll() is not None and not any(map(is_running, self.ranks))


def send(number: signal.Signals, rank: int | None = None) -> Callable[[Run], None]:
    """Sends a signal to a rank, or to the command."""
    return lambda run: os.kill(run.command.pid if rank is None else run.ranks[rank], number)


def fill_disk(bytes_left: int) -> Callable[[Run], None]:
    """Lets rank 0 write no file that is longer than its history and so many bytes."""

    def limit(run: Run) -> None:
        history = run.history
        assert history is not None
        most = history.stat().st_size + bytes_left
        resource.prlimit(run.ranks[0], resource.RLIMIT_FSIZE, (most, most))

    return limit


def stop_twice(run: Run) -> None:
    """Halts rank 1, then asks the command to stop, and a second later to stop at once."""
    os.kill(run.ranks[1], signal.SIGSTOP)
    for _ in range(2):
        time.sleep(1.0)
        run.command.send_signal(signal.SIGTERM)


# What is done to the run, by name; for a run that diverges nothing, but its recipe is another one.
FAULTS: dict[str, Callable[[Run], None]] = {
    "SIGTERM to the command": send(signal.SIGTERM),
    "SIGINT to the command": send(signal.SIGINT),
    "SIGKILL of the command": send(signal.SIGKILL),
    "SIGKILL of rank 0": send(signal.SIGKILL, 0),
    "SIGKILL of rank 1": send(signal.SIGKILL, 1),
    "SIGTERM to rank 1": send(signal.SIGTERM, 1),
    "SIGSTOP to rank 0": send(signal.SIGSTOP, 0),
    "SIGSTOP to rank 1": send(signal.SIGSTOP, 1),
    "loss is NaN": lambda run: None,
    "disk full at a step": fill_disk(100),
    "disk full at a training checkpoint": fill_disk(50_000),
    "rank 1 halted, two SIGTERM": stop_twice,
}
DIVERGES = "loss is NaN"


def started(recipe: Path, framework: str, out: Path, log: Path, *options: str) -> Run:
    """Start the command."""
    words = [sys.executable, "-m", "pipeline", "finetune", str(recipe), "--framework", framework, "--out", str(out)]
    with open(log, "wb") as file:
        command = subprocess.Popen(
            [*words, "--processes", "2", *options], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    return Run(command, out, log)


def wait_for_step(run: Run, step: int) -> None:
    """Wait until a step is done, or the command has ended, and note the processes of the ranks."""
    until = time.monotonic() + START_SECONDS
    while run.num_steps() < step and run.command.poll() is None:
        if time.monotonic() > until:
            run.command.kill()
            raise SystemExit(f"no step {step} within {START_SECONDS:.0f} s: {run.log.read_text()}")
        run.ranks = run.ranks or ranks_of(run.command.pid)
        time.sleep(0.02)


def ranks_of(parent: int) -> list[int]:
    """The processes that the command has started, by rank; none until all of them are there."""
    found: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) != parent:
                continue
            variables = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        found |= {int(each[5:]): int(folder.name) for each in variables if each.startswith(b"RANK=")}
    return [found[rank] for rank in sorted(found)] if len(found) == 2 else []


def drill(fault: str, framework: str, folder: Path, resumes: bool) -> tuple[str, bool]:
    """Make a fault; returns its row of the table, and whether all was as it should be."""
    changes = {"train.learning_rate": 1e30} if fault == DIVERGES else {}
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe_of("single-label", folder, num_rows=96, changes=RECIPE_CHANGES | changes).to_yaml())
    run = started(recipe, framework, folder / "run", folder / "log")
    wait_for_step(run, 1 if fault == DIVERGES else STEP_OF_FAULT)
    began, step = time.monotonic(), run.num_steps()
    FAULTS[fault](run)
    while not run.all_ended() and time.monotonic() < began + MOST_SECONDS:
        time.sleep(0.02)
    seconds, is_good = time.monotonic() - began, run.all_ended()
    for pid in [run.command.pid, *run.ranks]:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
    code = run.command.wait()
    newest, skipped = TrainingCheckpoints(folder / "run.checkpoints", 2).newest()
    saved = "none" if newest is None else f"step {newest.step}"
    saved += f", {len(skipped)} damaged" if skipped else ""
    after = ""
    if resumes and newest is not None:
        short = started(recipe, framework, folder / "run", folder / "second log", "--resume")
        is_good = short.command.wait() == 0 and is_good
        after = "yes | " if is_good else "NO | "
    printed = [line for line in run.log.read_text().splitlines() if line.strip() and not line.startswith("  ")]
    message = " / ".join(line.replace(str(folder), "...") for line in printed[1:])
    row = f"| {fault} | {framework} | {seconds:.1f} | {code} | {step}, {saved} | {after}{message} |"
    return row, is_good and seconds <= ALLOWED_SECONDS


def main(words: list[str] | None = None) -> int:
    """Make all faults and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frameworks", nargs="+", default=list(FRAMEWORKS), choices=FRAMEWORKS)
    parser.add_argument("--only", nargs="+", default=list(FAULTS), choices=list(FAULTS), metavar="NAME")
    parser.add_argument("--resume", action="store_true", help="continue each run to its end")
    arguments = parser.parse_args(words)
    configure_process()
    columns = ["fault", "framework", "seconds", "exit code", "at step, saved"]
    columns += ["resumed", "message"] if arguments.resume else ["message"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    passed = True
    for framework in arguments.frameworks:
        for fault in arguments.only:
            with tempfile.TemporaryDirectory() as folder:
                row, is_good = drill(fault, framework, Path(folder), arguments.resume)
            print(row, flush=True)
            passed = passed and is_good
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
