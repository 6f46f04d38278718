"""history.jsonl while a run trains: a line per step, from the first one on, also after a resumption."""

import json
import tracemalloc

import pytest
from pydantic import ValidationError

from pipeline import finetune
from pipeline.runs.directory import RunDirectory
from pipeline.runs.history import HistoryFile, Steps
from pipeline.runs.record import StepRecord
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.state import TrainingState
from tests.helpers.families import recipe_of
from tests.helpers.interruption import kill_at, read_lines


def record(step):
    return StepRecord(
        step=step, epoch=1, loss=0.5, learning_rate=0.1, grad_norm=1.0, examples=16, tokens=90, seconds=float(step)
    )


class Reader(TrainingCallback):
    """Reads the history of the run in `folder` after each step."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def on_step_end(self, record):
        (live,) = self.folder.glob(".run.partial-*/history.jsonl")
        self.seen.append(read_lines(live))


def test_each_step_can_be_read_as_soon_as_it_is_over(framework, tmp_path):
    reader = Reader(tmp_path)
    run = finetune(recipe_of("single-label", tmp_path), framework, out=tmp_path / "run", callback=reader)
    whole = read_lines(run.path / "history.jsonl")
    assert [len(lines) for lines in reader.seen] == [1, 2, 3]
    assert reader.seen[-1] == whole and [line["step"] for line in whole] == [1, 2, 3]


def test_a_resumed_run_begins_with_the_steps_of_its_checkpoint(tmp_path):
    recipe = recipe_of("single-label", tmp_path, changes={"train.save_every": 1})
    kill_at(("step", 3), recipe, out=tmp_path / "run")
    reader = Reader(tmp_path)
    run = finetune(recipe, out=tmp_path / "run", resume=True, callback=reader)
    assert [[line["step"] for line in lines] for lines in reader.seen] == [[1, 2, 3]]
    assert reader.seen[-1] == read_lines(run.path / "history.jsonl")


def test_a_full_disk_does_not_end_the_training(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.history_file.symlink_to("/dev/full")  # every write to it fails with "no space left on device"
    with HistoryFile(directory, [record(1)]) as history:
        history.append(record(2))


def test_steps_are_kept_as_they_were_in_64_bytes_each():
    records = [record(step) for step in range(1, 4)]
    steps = Steps(records)
    assert list(steps) == records and steps[-1] == records[-1] and steps[1:] == records[1:] and len(steps) == 3
    tracemalloc.start()
    try:
        for step in range(4, 20_004):
            steps.append(record(step))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Arrays grow ahead of what they hold.
    assert taken / 20_000 < 1.3 * 64


def test_steps_are_saved_and_read_as_a_list_of_records():
    lines = [record(step).model_dump() for step in (1, 2)]
    state = TrainingState(history=Steps([record(1), record(2)]))
    saved = json.loads(json.dumps(state.model_dump(by_alias=True)))
    assert saved["history"] == lines
    assert list(TrainingState.model_validate(saved).history) == list(state.history)
    for wrong in ([lines[0] | {"loss": "low"}], [lines[0] | {"tokens": 10**30}], {"step": 1}, [None]):
        with pytest.raises(ValidationError, match="history"):
            TrainingState.model_validate(saved | {"history": wrong})
