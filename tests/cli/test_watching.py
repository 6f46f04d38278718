"""`watch`: a run in progress, finished, ended or missing; on a terminal and elsewhere."""

import io
import json
import shutil
import threading

import pytest
from rich.console import Console

from pipeline import UserError, finetune
from pipeline.cli.main import execute
from pipeline.cli.watching import chart, watch
from pipeline.runs.following import FollowedRun
from pipeline.training.callbacks import TrainingCallback
from pipeline.utils.files import writer_mark
from tests.helpers.families import recipe_of
from tests.helpers.run_writer import write_run


@pytest.fixture
def live(tmp_path):
    """A run that this process writes: its first two steps, while it trains. Returns its steps and its hidden folder."""
    finished = write_run(tmp_path / "finished")
    lines = (finished / "history.jsonl").read_text().splitlines(keepends=True)
    folder = tmp_path / f".run.partial-{writer_mark()}"
    folder.mkdir()
    (folder / "history.jsonl").write_text("".join(lines[:2]))
    progress = {"steps": len(lines), "epochs": 1, "evaluations": []}
    (folder / "progress.json").write_text(json.dumps(progress))
    return lines, folder


def complete(folder, run):
    """What a training does at its end."""
    shutil.copytree(run.parent / "finished", folder, dirs_exist_ok=True)
    (folder / "progress.json").unlink()
    folder.rename(run)


def shown(path, is_terminal=False, encoding="utf-8", during=lambda: None):
    """What `watch` prints of a run, and what it returns; `during` is done meanwhile."""
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    console = Console(file=output, force_terminal=is_terminal, width=80, highlight=False)
    doing = threading.Timer(0.2, during)
    doing.start()
    try:
        result = watch(path, console, seconds=0.05)
    finally:
        doing.join()
    return output.buffer.getvalue().decode(encoding), result


def test_a_finished_run_is_drawn_once(tmp_path):
    run = write_run(tmp_path / "run")
    text, completed = shown(run)
    assert completed and "\x1b" not in text
    assert "step 4/4  epoch 1/1  loss 0.5500" in text and "accuracy" in text
    assert "0.7 │" in text and "0.55 │" in text and "step 1 to 4: loss" in text


def test_a_run_in_progress_is_followed_until_it_is_complete(live, tmp_path):
    lines, folder = live

    def go_on():
        with open(folder / "history.jsonl", "a") as file:
            file.write(lines[2])
        complete(folder, tmp_path / "run")

    text, completed = shown(tmp_path / "run", during=go_on)
    assert completed
    assert "step 2/4  epoch 1/1  loss 0.6500" in text.splitlines()[0] and "s left" in text.splitlines()[0]
    assert "step 4/4  epoch 1/1  loss 0.5500" in text and "0.9" in text


def test_on_a_terminal_the_picture_is_drawn_anew(live, tmp_path):
    text, completed = shown(tmp_path / "run", is_terminal=True, during=lambda: complete(live[1], tmp_path / "run"))
    assert completed and text.count("step 2/4") > 1 and "\x1b[2K" in text and "step 4/4" in text


def test_a_run_that_ends_before_it_is_complete_is_not_waited_for(live, tmp_path):
    text, completed = shown(tmp_path / "run", during=lambda: shutil.rmtree(live[1]))
    assert not completed and "ended before it was complete" in text


def test_a_line_that_is_being_written_is_read_when_it_is_whole(live, tmp_path):
    lines, folder = live
    followed = FollowedRun(tmp_path / "run")
    for text, known in ((lines[2][:20], 2), (lines[2][20:], 3), (lines[3], 4)):
        with open(folder / "history.jsonl", "a") as file:
            file.write(text)
        followed.read()
        assert [step.step for step in followed.steps] == list(range(1, known + 1))


class Watching(TrainingCallback):
    """Reads a run after each of its steps and evaluations."""

    def __init__(self, path):
        self.followed, self.seen = FollowedRun(path), []

    def look(self):
        self.followed.read()
        run = self.followed
        self.seen.append((run.state, len(run.steps), run.num_steps, len(run.evaluations), run.num_epochs))

    def on_step_end(self, record):
        self.look()

    def on_evaluate_end(self, epoch, metrics):
        self.look()
        assert self.followed.evaluations[-1].metrics == metrics


def test_steps_and_scores_of_a_real_run_are_there_at_once(framework, tmp_path):
    watching = Watching(tmp_path / "run")
    run = finetune(
        recipe_of("single-label", tmp_path), framework, out=tmp_path / "run", callback=watching
    )  # fmt: skip
    assert watching.seen == [("training", step, 3, 0, 1) for step in (1, 2, 3)] + [("training", 3, 3, 1, 1)]
    watching.look()
    assert watching.seen[-1] == ("finished", 3, 3, 1, 1)
    assert not (run.path / "progress.json").exists()


def test_where_no_run_is_the_message_says_so(tmp_path, capsys):
    assert execute(["watch", str(tmp_path / "none")]) == 2
    assert "is not a run, and none is being trained there" in capsys.readouterr().err
    (tmp_path / "run.checkpoints").mkdir()
    with pytest.raises(UserError, match="unfinished run that no process trains"):
        watch(tmp_path / "run")


def test_the_command_shows_a_finished_run(tmp_path, capsys):
    assert execute(["watch", str(write_run(tmp_path / "run"))]) == 0
    assert "step 4/4" in capsys.readouterr().out


def test_a_terminal_without_braille_gets_stars(tmp_path):
    text, _ = shown(write_run(tmp_path / "run"), encoding="ascii")
    assert text.isascii() and "*" in text


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ([4, 3, 2, 1], ["*", " *", "  *", "   *"]),
        # A mean of two values in each of four columns.
        ([5, 3, 4, 2, 3, 1, 2, 0], ["*", " *", "  *", "   *"]),
        # The line has no gaps.
        ([4, 1, 1, 1], ["*", " *", " *", " ***"]),
        ([2, 2, 2], ["", "***", "", ""]),
    ],
)
def test_a_chart_goes_through_the_values(values, lines):
    assert chart(values, width=4, height=4, unicode=False) == lines


def test_a_chart_of_braille_has_eight_dots_in_a_character():
    # From the top left dot to the bottom right one.
    assert chart([7, 6, 5, 4, 3, 2, 1, 0], width=4, height=2) == ["⠑⢄", "  ⠑⢄"]
