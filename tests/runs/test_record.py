"""The typed record of a run: what it writes, what it reads of older versions, and what it says of a broken one."""

import json

import pytest

from pipeline import UserError, load_run
from pipeline.runs.record import SCHEMA_FILE, RunRecord, StepRecord, parse_record, schema_text
from tests.helpers.run_writer import write_run

OLD = {
    "recipe": "sentiment_bert", "framework": "torch", "attention": "stock", "seed": 0, "status": "completed",
    "metrics": {"accuracy": 0.5, "f1": None}, "kept_epoch": 1, "evaluations": [{"epoch": 1, "accuracy": 0.5}],
    "train": {
        "steps": 3, "seconds": 1.5, "examples_per_second": 64.0, "tokens_per_second": 900.0, "padding_fraction": 0.1,
        "first_step_seconds": 0.2, "peak_memory_bytes": 7,
    },
    "data": {"fingerprint": "0123456789abcdef", "train": {"rows": 96}, "validation": {"rows": 40, "truncated": 1}},
    "attention_sites": 0, "attention_max_difference": 0.0,
}  # fmt: skip


def test_a_record_is_written_with_its_keys_in_the_order_of_the_contract():
    now = {
        **{key: OLD[key] for key in ("recipe", "framework", "attention", "seed", "status", "metrics", "kept_epoch")},
        "test": {"accuracy": 0.25},
        "evaluations": [{"epoch": 1, "accuracy": 0.5, "loss": 0.7}],
        "train": OLD["train"]
        | {
            "resumed_at": [2],
            "gradient_accumulation": 4,
            "batching": "packed",
            "dropout_masks": "shared",
            "processes": 2,
            "attention_implementation": "eager",
            "compilations": 3,
            "parameters": 700,
            "trainable_parameters": 70,
        },
        "batches": ["fedcba9876543210"],
        "data": OLD["data"]
        | {"test": {"rows": 24}, "observed": {"train": {"unknown tokens": 3}}, "labels": {"train": {"bad": 96}}},
        "checkpoint_fingerprint": None,
        "weights": {"kept": 51, "new": ["classifier.bias"], "dropped": ["cls.predictions.bias"]},
        "attention_sites": 2,
        "attention_max_difference": 1e-7,
        "model_files": {"config.json": {"bytes": 577, "sha256": "0a" * 32}},
    }
    assert json.dumps(RunRecord.model_validate(now).model_dump()) == json.dumps(now)


def test_a_recipe_without_a_test_split_leaves_no_key_for_it():
    written = RunRecord.model_validate(OLD).model_dump()
    assert "test" not in written and "test" not in written["data"]


def test_a_run_of_an_older_version_takes_defaults_for_keys_that_did_not_exist_yet():
    record = RunRecord.model_validate(OLD)
    assert (record.batches, record.checkpoint_fingerprint, record.test, record.weights) == ([], None, None, None)
    assert record.model_files == {}
    assert (record.train.resumed_at, record.train.gradient_accumulation) == ([], None)
    assert record.train.dropout_masks is None
    assert record.metrics == {"accuracy": 0.5, "f1": None}
    assert record.evaluations[0].metrics == {"accuracy": 0.5}
    assert (record.data.observed, record.data.labels) == ({}, {})
    assert record.data.splits == {"train": {"rows": 96}, "validation": {"rows": 40, "truncated": 1}}


def test_a_key_of_a_newer_version_is_kept():
    record = RunRecord.model_validate(OLD | {"carbon_grams": 1.5})
    assert record.model_dump()["carbon_grams"] == 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "0"}, 'seed is "0", but must be a valid integer'),
        ({"train": {"steps": 3}}, "train.seconds is missing"),
        ({"status": "failed"}, "status is \"failed\", but must be 'completed'"),
        ({"model_files": {"a/b": {"bytes": 1, "sha256": "0a" * 32}}}, 'is "a/b", but must match pattern'),
        ({"model_files": {"a": {"bytes": 1, "sha256": "0"}}}, 'model_files.a.sha256 is "0", but must match pattern'),
        ({"metrics": {"accuracy": "high"}}, 'metrics.accuracy is "high", but must be a valid number'),
    ],
)
def test_a_broken_record_is_reported_with_its_file_and_field(tmp_path, changes, message):
    folder = write_run(tmp_path / "run")
    (folder / "metrics.json").write_text(json.dumps(OLD | changes))
    with pytest.raises(UserError) as error:
        load_run(folder)
    assert str(error.value).startswith(f"{folder / 'metrics.json'} is not what a run writes: ")
    assert message in str(error.value)


def test_a_torn_record_is_reported_with_its_file(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "metrics.json").write_text('{"recipe": "sent')
    with pytest.raises(UserError, match="metrics.json cannot be read as JSON: "):
        load_run(folder)


def test_a_line_of_the_history_reads_as_it_was_written():
    line = {
        "step": 1, "epoch": 1, "loss": 8.921218872070312, "learning_rate": 0.0, "grad_norm": 16.40762710571289,
        "examples": 32, "tokens": 722, "seconds": 0.034706,
    }  # fmt: skip
    assert json.dumps(parse_record(StepRecord, json.dumps(line), "here").model_dump()) == json.dumps(line)


def test_the_published_schema_is_that_of_the_models():
    message = "python -m pipeline.runs.record > pipeline/runs/run.schema.json"
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), message
    schema = json.loads(schema_text())
    described = schema["$defs"]["TrainRecord"]["properties"]["seconds"]["description"]
    assert "without evaluation and saving" in described
