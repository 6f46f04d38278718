"""Weights & Biases: the run on its server, or in a folder for `wandb sync` where nobody is logged in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.training.trackers.base import Outcome, Point, TrackedRun, client

PROJECT = "twinstep"
_SECONDS_TO_START = 30


class WandB:
    """A run of Weights & Biases. WANDB_PROJECT, WANDB_MODE, WANDB_DIR and its other variables mean what they always do.

    A resumed run that is offline is written anew with all steps, and the earlier folder of the same run is removed.
    """

    def __init__(self, run: TrackedRun):
        wandb = client("wandb")
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        self._image, self._artifact = wandb.Image, wandb.Artifact
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), group=run.group, name=run.name, id=run.id,
            resume="allow" if mode == "online" else None, mode=mode, config=dict(run.hyperparameters),
            # It would put itself between this process and the terminal, and print beside the progress bar.
            settings=wandb.Settings(console="off", silent=True, init_timeout=_SECONDS_TO_START),
        )  # fmt: skip
        self._last_step = self._run.starting_step - 1 if self._run.resumed else 0
        if mode == "offline":
            own = Path(self._run.dir).parent
            for earlier in own.parent.glob(f"offline-run-*-{run.id}"):
                if earlier != own:
                    shutil.rmtree(earlier)

    def last_step(self, name: str) -> int:
        """The last step on the server, for every name; it takes no earlier one. Offline 0."""
        return self._last_step

    def log(self, points: Sequence[Point]) -> None:
        """Hand the values over to the client's own process."""
        for point in points:
            self._run.log(point.named(), step=point.step)

    def add_files(self, files: Sequence[Path]) -> None:
        """Add PNG files as pictures, and all files as one artifact."""
        pictures = [file for file in files if file.suffix == ".png"]
        if pictures:
            self._run.log({file.stem: self._image(str(file)) for file in pictures})
        artifact = self._artifact(f"run-{self._run.id}", type="run")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, outcome: Outcome) -> None:
        """End the run; waits until everything is written or sent."""
        self._run.finish(exit_code=1 if outcome == "failed" else 0)
