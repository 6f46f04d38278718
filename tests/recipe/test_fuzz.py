"""Anything may be thrown at `check`: it says yes, or names what is wrong; it never breaks."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.cli.main import execute
from pipeline.recipe.schema import Data, Recipe, Train

KEYS = [
    *Recipe.model_fields,
    *(f"data.{key}" for key in Data.model_fields),
    *(f"train.{key}" for key in Train.model_fields),
    "data.files.train", "data.limit.train", "data.columns.text", "options.problem_type", "data.files.train.x", "a.b.c",
]  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 2**70), st.floats(), st.text(max_size=12))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
FUZZ = settings(
    max_examples=40, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working directory of its own, and no model built: what is checked before that is what can break here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.training.experiment.start", lambda *arguments: None)
    return tmp_path


def refused_or_fine(capsys, *arguments):
    code = execute(["check", *arguments])
    error = capsys.readouterr().err
    assert code in (0, 2), error
    assert (code == 2) == bool(error.strip()), error


@FUZZ
@given(st.sampled_from(KEYS), VALUES)
@example("options", {"": {}})
@example("data.files", {"train": 1})
@example("name", "\x1b[31m")
def test_any_override(capsys, key, value):
    small = ("--set", "data.limit.train=16", "--set", "data.limit.validation=8")
    refused_or_fine(capsys, "sentiment_bert", *small, "--set", f"{key}={json.dumps(value)}")


@FUZZ
@given(st.one_of(st.text(max_size=40), st.text("a:{}[]&*!<>|-'\"#%@` \n\t0.e,?", max_size=60)))
@example("\x00")
@example("data: {files: [1]}")
def test_any_yaml_file(capsys, elsewhere, text):
    (elsewhere / "any.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    refused_or_fine(capsys, "any.yaml")
    refused_or_fine(capsys, "sentiment_bert", "--set", text)


ROWS = st.lists(st.dictionaries(st.sampled_from(["text", "label", "x"]), VALUES, max_size=3), max_size=4)


@FUZZ
@given(st.sampled_from(["json", "csv", "tsv", "text", "squad", "conll", "parquet"]), st.binary(max_size=60) | ROWS)
@example("json", [{"text": "a", "label": 1}, {"text": "b", "label": 2}])
def test_any_data_file(capsys, elsewhere, kind, content):
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content).encode()
    (elsewhere / "any.data").write_bytes(content)
    files = [f"data.path={kind}", "data.files.train=any.data", "data.files.validation=any.data"]
    refused_or_fine(capsys, "sentiment_bert", *(part for setting in files for part in ("--set", setting)))
