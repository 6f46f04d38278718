"""Predicting with a finished run: texts, files, standard input and Python; what is refused writes nothing."""

import io
import json

import pytest

from pipeline import UserError, finetune, predict
from pipeline.cli.main import execute
from tests.helpers.families import recipe_of, sentences


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prediction")
    return finetune(recipe_of("single-label", folder), out=folder / "run")


def ask(capsys, *arguments):
    code = execute(["predict", *map(str, arguments)])
    out, error = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], error


def test_a_text_a_json_object_a_file_and_standard_input_give_the_same(run, tmp_path, capsys, monkeypatch):
    texts = sentences(70, seed=1)  # more than are read at a time
    written = [json.dumps({"text": text}) if i % 2 else text for i, text in enumerate(texts)]
    (tmp_path / "asked.txt").write_text("\n\n".join(written) + "\n", encoding="utf-8-sig")
    code, found, _ = ask(capsys, run.path, "--input", tmp_path / "asked.txt")
    assert code == 0 and [line["text"] for line in found] == texts
    assert [line["index"] for line in found] == list(range(70))
    assert {"index", "text", "prediction", "score"} <= set(found[0])
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(written)))
    assert ask(capsys, run.path, "--input", "-")[1] == found
    code, nothing, _ = ask(capsys, run.path, "--input", tmp_path / "asked.txt", "--out", tmp_path / "answers.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (code, nothing, answers) == (0, [], found)
    (line,) = ask(capsys, run.path, "--text", texts[3])[1]
    assert line["prediction"] == found[3]["prediction"] and line["score"] == pytest.approx(found[3]["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs either --text or --input"),
        (("--text", "a", "--input", "b"), "needs either --text or --input"),
        (("--text", " {"), "line 1 is not a JSON object"),
        (("--text", '{"txt": "a"}'), 'line 1 has no "text"; sequence-classification needs: text'),
        (("--text", '{"text": [1]}'), "line 1: text is '[1]', but must be text"),
        (("--input", "nowhere.txt"), "--input nowhere.txt is not a file that can be read"),
        (("--text", "a", "--set", "train.epochs=2"), "train.epochs would be ignored"),
        (("--text", "a", "--set", "options.stride=2"), 'options: has no key "stride"'),
        (("--text", "a", "--out", "nowhere/answers.jsonl"), "cannot be written"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_one_message(run, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, found, error = ask(capsys, run.path, *arguments)
    assert (code, found) == (2, []) and message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_a_wrong_row_leaves_no_answers_behind(run, tmp_path, capsys):
    (tmp_path / "asked.jsonl").write_text('{"text": "good"}\n{"text": null}\n')
    code, _, error = ask(capsys, run.path, "--input", tmp_path / "asked.jsonl", "--out", tmp_path / "answers.jsonl")
    assert code == 2 and "line 2" in error
    assert [entry.name for entry in tmp_path.iterdir()] == ["asked.jsonl"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ('{"text": null}', 'line 70 has no "text"'),
        ('{"txt": "a"}', 'line 70 has no "text"'),
        ("{", "line 70 is not a JSON object"),
        ('{"a":' * 100_000, "line 70 is not a JSON object"),
        ("a " * 600_000, "line 70: text has 1,200,000 characters, but may have 1,000,000"),
        ('{"text": "\\ud800"}', "line 70: text has half of a surrogate pair"),
    ],
)
def test_a_wrong_line_is_named_by_its_place_in_the_file_after_the_answers_before_it(
    run, tmp_path, capsys, wrong, message
):
    """Blank lines count; so do those before the lines that are predicted together with the wrong one."""
    texts = sentences(67, seed=1)
    lines = [*texts[:65], "", "", "", *texts[65:66], wrong, *texts[66:]]
    (tmp_path / "asked.txt").write_text("\n".join(lines))
    code, found, error = ask(capsys, run.path, "--input", tmp_path / "asked.txt")
    assert code == 2 and message in error and "bug" not in error
    assert [line["text"] for line in found] == texts[:66] and [line["index"] for line in found] == list(range(66))


def test_wrong_lines_are_left_out_and_counted_if_that_is_asked_for(run, tmp_path, capsys):
    texts = sentences(66, seed=1)
    lines = [*texts[:3], "{", *texts[3:], '{"text": 3}']
    (tmp_path / "asked.txt").write_text("\n".join(lines))
    code, found, error = ask(capsys, run.path, "--input", tmp_path / "asked.txt", "--skip-bad")
    assert code == 0 and [line["text"] for line in found] == texts
    assert [line["index"] for line in found] == [0, 1, 2, *range(4, 67)]  # the place among all that were asked
    assert error.startswith("2 lines left out; the first: line 4 is not a JSON object")


def test_standard_input_that_is_no_text_is_one_message(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"good\nbad\n" + b"x" * 9000 + b"\n\xff\n"), "utf-8"))
    code, found, error = ask(capsys, run.path, "--input", "-")
    assert (
        code == 2 and "the byte 0xff, which is not utf-8" in error and [line["text"] for line in found][:1] == ["good"]
    )


def test_a_folder_that_is_not_a_run_is_named(tmp_path, capsys):
    code, _, error = ask(capsys, tmp_path, "--text", "a")
    assert code == 2 and f"{tmp_path} is not a finished run" in error


@pytest.mark.parametrize("rows", ["a fine film", {"text": "a fine film"}])
def test_a_single_row_is_refused_with_the_way_to_give_it(run, rows):
    with pytest.raises(UserError, match=r"put a single one into a list: predict\(run, \[row\]\)"):
        predict(run, rows)


def test_predictions_from_python_are_those_of_the_command_line(run, capsys):
    texts = sentences(3, seed=1)
    _, written, _ = ask(capsys, run.path, "--input", write_lines(run.path.parent / "three.txt", texts))
    predicted = list(predict(str(run.path), texts))
    assert predicted == list(predict(run, [{"text": text} for text in texts]))
    assert [{k: v for k, v in line.items() if k != "score"} for line in predicted] == [
        {k: v for k, v in line.items() if k != "score"} for line in written
    ]


def write_lines(path, texts):
    path.write_text("\n".join(texts), encoding="utf-8")
    return path
