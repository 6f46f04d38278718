"""A model as the server asks it: every kind of task answers rows and token ids, and texts come piece by piece."""

import json

import numpy as np
import pytest

from pipeline.backend import load_backend
from pipeline.deploy.serving.served_model import ServedModel
from pipeline.runs.prediction import TrainedModel, predict_rows
from pipeline.tasks.base import load_task
from pipeline.training.experiment import start
from tests.helpers.families import KINDS, prepared, recipe_of, rows_of

# The other kinds differ from these only in training.
SERVED = [kind for kind in KINDS if kind not in ("masked words", "causal blocks")]


def opened(kind, folder, framework="torch"):
    """A model that is not trained yet, of a kind of task."""
    recipe = recipe_of(kind, folder, num_rows=16)
    experiment, training, _ = prepared(recipe)
    backend = load_backend(framework)
    model = start(experiment, backend, seed=0).model
    task = load_task(recipe.override(training.prediction_changes(model.config)))
    task.labels = training.labels
    task.setup(model.config, training.tokenizer)
    return TrainedModel(backend, model, task, training.tokenizer)


def served(trained):
    return ServedModel(trained.task, trained.predictor(), "tiny", "twinstep")


def asked(kind):
    """Rows to predict."""
    if kind.startswith("masked"):
        return [{"text": "The film was [MASK]."}, {"text": "The [MASK] was not [MASK]."}]
    rows = rows_of(kind.removeprefix("gpt2 "), 3, 1)
    if kind.startswith("causal"):  # the beginnings of stories
        return [{"text": " ".join(row["text"].split()[:4])} for row in rows]
    return rows


@pytest.mark.parametrize("kind", SERVED)
def test_every_kind_of_task_answers_rows_as_predict_does_and_has_the_outputs_that_it_promises(kind, tmp_path):
    trained = opened(kind, tmp_path)
    model = served(trained)
    rows = [model.checked(row, "row") for row in asked(kind)]
    answers = model.answer(rows)
    assert [answer.prediction for answer in answers] == list(predict_rows(trained, asked(kind)))
    outputs = model.text_outputs(answers[0])
    assert {name: value.shape for name, value in outputs.items()} == {
        name: shape for name, (_, shape) in model.description.text_outputs.items()
    }


@pytest.mark.parametrize("kind", SERVED)
def test_every_kind_of_task_answers_token_ids_with_the_outputs_that_it_promises(kind, tmp_path):
    model = served(opened(kind, tmp_path))
    ids = np.arange(5, 12)
    row = {name: np.zeros(7, np.int64) for name in model.description.token_inputs}
    row |= {"input_ids": ids, "attention_mask": np.ones(7, np.int64)}
    one, other = model.run_tokens([row, row | {"input_ids": ids + 9}])
    assert list(one) == list(model.description.token_outputs)
    kinds = {"FP32": np.float32, "INT64": np.int64, "BYTES": object}
    for name, (datatype, shape) in model.description.token_outputs.items():
        assert one[name].dtype == kinds[datatype] and len(one[name].shape) == len(shape)
        assert all(size in (-1, found) for size, found in zip(shape, one[name].shape, strict=True))
    if kind != "translation":  # a new Marian model writes the same text for whatever it reads
        assert any(one[name].tolist() != other[name].tolist() for name in one)


def test_token_ids_of_a_text_get_the_label_of_the_text(tmp_path):
    model = served(opened("single-label", tmp_path))
    for row in asked("single-label"):
        (answer,) = model.answer([{"text": row["text"]}])
        encoded = model.task.tokenizer(row["text"], truncation=True, max_length=32, return_tensors="np")
        (outputs,) = model.run_tokens([{name: values[0] for name, values in encoded.items()}])
        assert outputs["label"].item() == answer.prediction["prediction"]
        np.testing.assert_allclose(outputs["logits"], answer.output, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal rows", "sequence-to-sequence"])
def test_a_text_that_is_written_piece_by_piece_is_the_one_of_the_prediction(kind, framework, tmp_path):
    model = served(opened(kind, tmp_path, framework))
    for row in asked(kind):
        row, pieces = model.checked(row, "row"), []
        prediction = model.stream(row, pieces.append)
        assert [prediction] == [answer.prediction for answer in model.answer([row])]
        assert "".join(pieces) == prediction[model.task.written_field]
        assert sum(map(bool, pieces)) > 2, json.dumps(pieces)


def test_a_text_that_nobody_waits_for_is_not_written_to_its_end(framework, tmp_path):
    model, pieces = served(opened("causal rows", tmp_path, framework)), []

    def stop(piece):
        pieces.append(piece)
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        model.stream(model.checked(asked("causal rows")[0], "row"), stop)
    assert len(pieces) == 1


def test_beams_do_not_stream(tmp_path):
    trained = opened("sequence-to-sequence", tmp_path)
    assert served(trained).description.streams
    beams = load_task(trained.task.recipe.override({"options.num_beams": 2}))
    beams.setup(trained.task.config, trained.tokenizer)
    assert not ServedModel(beams, trained.predictor(), "tiny", "twinstep").description.streams
