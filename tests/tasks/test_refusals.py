"""Rows and settings that do not fit a task are refused, with the row's number or the setting's name."""

import pytest

from pipeline import UserError, finetune
from pipeline.runs.prediction import open_run, predict
from pipeline.training.experiment import prepare
from tests.helpers.families import recipe_of, rows_of


def answers(text, *starts):
    return {"text": [text], "answer_start": list(starts)}


QA = {"question": "Who?", "context": "Ann saw Bob.", "answers": answers("Bob", 8)}
REFUSED = [
    ("question-answering", QA | {"answers": answers("Bob", 0)}, "row 2: .*not in the context.*it is at 8"),
    ("question-answering", QA | {"answers": answers("Eve", 0)}, "row 2: .*the context does not have it"),
    ("question-answering", QA | {"answers": answers("Bob")}, "row 2: .*lists of the same length"),
    ("question-answering", QA | {"question": " "}, "row 2: question is empty"),
    ("question-answering", QA | {"question": "why " * 40}, "question of row 2 has 80 tokens"),
    ("token-classification", {"tokens": ["a", "b"], "tags": ["O"]}, "row 2: tokens has 2 words, but tags has 1"),
    ("token-classification", {"tokens": [], "tags": []}, "row 2: tokens is empty"),
    ("sequence-to-sequence", {"source": "a", "target": " "}, "row 2: target is empty"),
    ("sequence-to-sequence", {"source": None, "target": "a"}, "row 2: source is null"),
    ("pairs", {"text": "a", "text_pair": None, "label": 1}, "row 2: text_pair is null"),
    ("question-answering", QA | {"answers": answers("Bob", None)}, "row 2: .*needs a text and a whole number"),
    ("token-classification", {"tokens": ["a"], "tags": ["PER"]}, "tags must be .* but train has: PER"),
    ("multi-label", {"text": "a", "label": ["0", "1", "1"]}, "row 2: label is .* names a label twice"),
    ("regression", {"text": "a", "label": None}, "row 2: label is None, but must be a number"),
    ("multi-label", {"text": "a", "label": None}, "row 2: label is None, but must be a list of labels"),
    ("causal rows", {"text": None, "floor_nats": 1.0}, "row 2: text is null"),
    ("causal rows", {"text": "a", "floor_nats": -1.0}, "row 2: floor must be a number"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "message"), REFUSED, ids=[f"{k}: {m}" for k, _, m in REFUSED])
def test_a_wrong_row_is_refused_by_its_number(kind, row, message, tmp_path):
    good = rows_of(kind, 4, 0)
    with pytest.raises(UserError, match=message):
        prepare(recipe_of(kind, tmp_path, [good[0], row, *good[1:]], validation=good))


def test_a_tag_or_label_unknown_to_training_is_refused(tmp_path):
    good, strange = (
        [{"tokens": ["a"], "tags": ["B-X"]}, {"tokens": ["a"], "tags": ["O"]}],
        [{"tokens": ["a"], "tags": ["B-Y"]}],
    )
    with pytest.raises(UserError, match='validation row 1: the tag "B-Y" is not in the training split'):
        prepare(recipe_of("token-classification", tmp_path, good, strange))
    good, strange = rows_of("multi-label", 4, 0), [{"text": "a", "label": ["new"]}]
    with pytest.raises(UserError, match='validation row 1: label is "new", which the training split does not have'):
        prepare(recipe_of("multi-label", tmp_path, good, strange))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("regression", {"metrics": ["accuracy"]}, "accuracy does not fit this sequence-classification"),
        ("regression", {"train.label_smoothing": 0.1}, "train.label_smoothing does not apply"),
        ("question-answering", {"train.class_weights": "balanced"}, "train.class_weights does not apply"),
        ("question-answering", {"options.strid": 3}, 'options: has no key "strid".*Did you mean "stride"'),
        ("sequence-to-sequence", {"train.precision": "fp16"}, "use that"),
        ("causal rows", {"options.separator": "none"}, "separator would be ignored with packing=rows"),
        ("causal rows", {"data.max_length": 16}, "floor is of whole texts, but 48 are longer than data.max_length=16"),
        ("sequence-to-sequence", {"options.length_penalty": 2.0}, "length_penalty would be ignored with num_beams=1"),
        ("question-answering", {"options.null_threshold": 2.0}, "null_threshold would be ignored"),
        ("causal blocks", {"metrics": ["perplexity_floor"]}, "perplexity_floor needs data.columns.floor"),
        ("causal blocks", {"data.columns": {"text": "text", "floor": "floor_nats"}}, "options.packing must be rows"),
    ],
)  # fmt: skip
def test_a_setting_that_would_be_ignored_is_refused(kind, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        prepare(recipe_of(kind, tmp_path, changes=changes))


def test_a_prediction_names_the_row_that_is_wrong(tmp_path):
    recipe = recipe_of("masked words", tmp_path)
    run = finetune(recipe, out=tmp_path / "run")
    good = {"text": "The [MASK] was good."}
    for rows, message in (
        ([good, {"text": " "}], "row 2: text is empty"),
        ([good, {"text": "\u200b"}, good], "row 2 has no text that the tokenizer knows"),
        ([{"txt": "a"}], 'row 1 has no "text"'),
        ([good, {"text": 3}], "row 2: text is '3', but must be text"),
    ):
        with pytest.raises(UserError, match=message):
            list(predict(run, rows))
    (answer,) = predict(run, [{"text": "good " * 60 + "[MASK]"}])
    assert answer["truncated"] is True and answer["masks"] == []
    with pytest.raises(UserError, match="train.epochs would be ignored"):
        open_run(run, changes={"train.epochs": 3})
