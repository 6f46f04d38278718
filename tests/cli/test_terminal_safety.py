"""Text from recipes, data and options cannot change the terminal on which it is printed."""

import json
import re
import sys

from pipeline.cli.main import execute
from pipeline.cli.prediction_files import write_prediction
from pipeline.utils.text import escape_controls


def test_no_text_can_change_the_terminal(tmp_path, capsys):
    evil = "\x1b[31m\x07\x9b2J\u202ered\r"
    assert escape_controls(f"a\tb\n{evil}ü\ud800") == "a\tb\n\\u001b[31m\\u0007\\u009b2J\\u202ered\\u000dü\\ud800"
    (tmp_path / "x.jsonl").write_text("{}\n")
    for arguments in (
        ["--set", f"task={json.dumps(evil)}"],
        ["--set", f"{evil}=1"],
        ["--set", f"checkpoint={json.dumps(f'./{evil}')}"],
        ["--set", f"data.columns.text={json.dumps(evil)}"],
        ["--attention", evil],
    ):
        assert execute(["check", "sentiment_bert", *arguments]) == 2
        error = capsys.readouterr().err
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", error), error
        assert "\\u001b[31m" in error or "x1b[31m" in error
    write_prediction(sys.stdout, {"text": evil})
    out = capsys.readouterr().out
    assert json.loads(out) == {"text": evil} and "\x9b" not in out and "\u202e" not in out
