"""TensorBoard: event files beside the run, written with the package's own records and without TensorFlow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.training.trackers.base import Outcome, Point, TrackedRun, client

_OUR_FILES = "events.out.tfevents.*.twinstep"
# What a tab of TensorBoard wants to read begins with.
_FILE_VERSION = "brain.Event:2"


class TensorBoard:
    """Writes curves, hyperparameters, texts and pictures into one event file in the run's folder for TensorBoard.

    A resumed run writes a new file with all steps, and removes the earlier one: its last steps came after the training
    checkpoint, and it may end within a record.
    """

    def __init__(self, run: TrackedRun):
        events = client("tensorboard.compat.proto.event_pb2")
        self._summaries = client("tensorboard.compat.proto.summary_pb2")
        records = client("tensorboard.summary.writer.record_writer")
        self._hparams = client("tensorboard.plugins.hparams.plugin_data_pb2")
        self._event = events.Event
        run.folder.mkdir(parents=True, exist_ok=True)
        for earlier in run.folder.glob(_OUR_FILES):
            earlier.unlink()
        path = run.folder / f"events.out.tfevents.{time.time():.0f}.twinstep"
        self._file = open(path, "wb")  # noqa: SIM115 (closed by `close`)
        self._records = records.RecordWriter(self._file)
        self._write(file_version=_FILE_VERSION)
        self._add(0, [self._hyperparameters(run)])
        self._records.flush()

    def last_step(self, name: str) -> int:
        """0: the file is new."""
        return 0

    def log(self, points: Sequence[Point]) -> None:
        """Write the values of each step as scalars; they can be seen at once."""
        for point in points:
            value = self._summaries.Summary.Value
            self._add(point.step, [value(tag=tag, simple_value=each) for tag, each in point.named().items()])
        self._records.flush()

    def add_files(self, files: Sequence[Path]) -> None:
        """Write PNG files as pictures and other files as texts."""
        for file in files:
            if file.suffix == ".png":
                image = self._summaries.Summary.Image(encoded_image_string=file.read_bytes(), colorspace=4)
                value = self._summaries.Summary.Value(tag=file.stem, image=image)
            else:
                value = self._text(file.name, "```\n" + file.read_text(encoding="utf-8") + "\n```")
            self._add(0, [value])
        self._records.flush()

    def close(self, outcome: Outcome) -> None:
        """Close the file."""
        with contextlib.closing(self._file):
            self._records.flush()

    def _hyperparameters(self, run: TrackedRun) -> object:
        """What TensorBoard shows under HPARAMS."""
        info = self._hparams.SessionStartInfo(group_name=run.group, start_time_secs=time.time())
        for name, value in run.hyperparameters.items():
            if isinstance(value, bool):
                info.hparams[name].bool_value = value
            elif isinstance(value, str):
                info.hparams[name].string_value = value
            else:
                info.hparams[name].number_value = value
        content = self._hparams.HParamsPluginData(session_start_info=info).SerializeToString()
        return self._of_plugin("_hparams_/session_start_info", "hparams", content)

    def _text(self, tag: str, text: str) -> object:
        tensors = client("tensorboard.compat.proto.tensor_pb2")
        types = client("tensorboard.compat.proto.types_pb2")
        tensor = tensors.TensorProto(dtype=types.DT_STRING, string_val=[text.encode()])
        return self._of_plugin(f"{tag}/text_summary", "text", b"", tensor=tensor)

    def _of_plugin(self, tag: str, plugin: str, content: bytes, **values: object) -> object:
        metadata = self._summaries.SummaryMetadata(
            plugin_data=self._summaries.SummaryMetadata.PluginData(plugin_name=plugin, content=content)
        )
        return self._summaries.Summary.Value(tag=tag, metadata=metadata, **values)

    def _add(self, step: int, values: list[object]) -> None:
        self._write(step=step, summary=self._summaries.Summary(value=values))

    def _write(self, **values: object) -> None:
        self._records.write(self._event(wall_time=time.time(), **values).SerializeToString())
