"""What a person sees: one progress line, then a short table; plain lines where the output is not a terminal."""

from __future__ import annotations

import os

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from pipeline.runs.directory import Run
from pipeline.runs.record import RunIdentity, StepRecord
from pipeline.training.callbacks import TrainingCallback
from pipeline.utils.text import escape_controls

# Without a terminal: a line after the first update, then every tenth of the way and every ten seconds.
PLAIN_LINES = 10
PLAIN_SECONDS = 10.0


class TerminalProgress(TrainingCallback):
    """Progress on the terminal, the same for both frameworks."""

    def __init__(self, title: str, console: Console | None = None):
        self.title, self.console = escape_controls(title), console or Console(highlight=False)
        self.bar: Bar | None = None
        self.task: TaskID | None = None
        self.num_updates = self.num_epochs = 0
        self.examples = self.last_part = 0
        self.last_seconds = 0.0
        self.first: StepRecord | None = None

    def on_train_begin(self, num_updates: int, num_epochs: int) -> None:
        self.num_updates, self.num_epochs, self.examples, self.first = num_updates, num_epochs, 0, None
        if not self.console.is_terminal:
            self._say(f"{self.title}: {num_updates} updates in {num_epochs} epochs")
            return
        self.bar = Bar(
            TextColumn(self.title, markup=False), BarColumn(bar_width=20), TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=self.console, transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task("train", total=num_updates, note="first step ...")
        self.bar.start()

    def on_resume(self, step: int, notes: list[str]) -> None:
        for note in notes:
            self._say(note)
        self._say(f"Going on after update {step}." if step else "There is no whole checkpoint: from the beginning.")

    def on_step_end(self, record: StepRecord) -> None:
        self.examples += record.examples
        self.first = self.first or record
        note = f"loss {record.loss:.4f}  {self.examples / max(record.seconds, 1e-9):.0f} examples/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=record.step, note=note)
            return
        part = record.step * PLAIN_LINES // self.num_updates
        if record.step == 1 or part > self.last_part or record.seconds > self.last_seconds + PLAIN_SECONDS:
            self.last_part, self.last_seconds = part, record.seconds
            self._say(f"  {record.step}/{self.num_updates}  {note}{self._left(record)}")

    def _left(self, record: StepRecord) -> str:
        """How long the rest takes; nothing after the first update, in which TensorFlow traces its graph."""
        if self.first is None or record.step == self.first.step:
            return ""
        done = record.step - self.first.step
        seconds = (record.seconds - self.first.seconds) / done * (self.num_updates - record.step)
        return f"  {seconds:.0f} s left"

    def on_memory_split(self, step: int, parts: int) -> None:
        self._say(
            f"  memory was short at update {step}: from here on in {parts} micro-batches, the update is the same; "
            f"train.gradient_accumulation={parts} says so from the start"
        )

    def on_evaluate_end(self, epoch: int, metrics: dict[str, float]) -> None:
        scores = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._say(f"  epoch {epoch}/{self.num_epochs}: {scores}")

    def on_stop_requested(self) -> None:
        # Straight to the descriptor: a signal may come while Python is printing.
        os.write(2, b"\nstopping: saving after the present update; once more stops without saving\n")

    def on_train_end(self) -> None:
        self.close()

    def close(self) -> None:
        """Take the progress line away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_run_end(self, run: Run) -> None:
        self._show(run)

    def on_run_found(self, run: Run) -> None:
        self._say("Already done: this is the finished run of the same recipe; --overwrite (OVERWRITE=1) repeats it.")
        self._show(run)

    def _show(self, run: Run) -> None:
        record, train = run.record, run.record.train
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for split, metrics in (("validation", record.metrics), ("test", record.test or {})):
            for name, value in metrics.items():
                table.add_row(
                    Text(escape_controls(f"{split} {name}")), "undefined" if value is None else f"{value:.4f}"
                )
        table.add_row("training", f"{train.seconds:.1f} s, {train.examples_per_second:.0f} examples/s")
        if record.attention_sites:
            away = f"{record.attention_max_difference:.1e} from stock at the start"
            table.add_row("attention", f"{record.attention_sites} sites, {away}")
        table.add_row("padding", f"{train.padding_fraction:.1%} of positions")
        for name, counts in _losses(record.data.splits).items():
            table.add_row(Text(escape_controls(name)), ", ".join(f"{split} {count}" for split, count in counts.items()))
        table.add_row("results", Text(escape_controls(os.path.relpath(run.path))))
        self.console.print(table)
        other = "tensorflow" if record.framework == "torch" else "torch"
        self._say(f"Next: {_command(record, other)}")

    def _say(self, text: str) -> None:
        self.console.print(Text(escape_controls(text)), soft_wrap=True)


def _losses(splits: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """What preparing the data cost, such as truncated rows, by kind and split; kinds that cost nothing left out."""
    found: dict[str, dict[str, int]] = {}
    for split, counts in splits.items():
        for name, count in counts.items():
            if count and name not in ("rows", "windows", "tokens"):
                found.setdefault("truncated rows" if name == "truncated" else name, {})[split] = count
    return found


def _command(identity: RunIdentity, framework: str) -> str:
    seed = f" SEED={identity.seed}" if identity.seed else ""
    return f"make finetune RECIPE={identity.recipe} FRAMEWORK={framework}{seed}"
