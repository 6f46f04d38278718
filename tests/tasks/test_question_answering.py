"""Question answering: windows over contexts, the spans of answers, and how an answer is chosen."""

import numpy as np
import pytest

from pipeline import UserError
from tests.helpers.families import of_rows, prepared, recipe_of, rows_of


def test_every_answer_is_found_again_in_the_windows_of_its_context(tmp_path):
    experiment, task, examples = prepared(recipe_of("question-answering", tmp_path, num_rows=40))
    rows = rows_of("question-answering", 40, 0)
    assert examples.counts["windows"] > 40 and examples.counts["answers cut by every window"] == 0
    for window, owner in enumerate(examples.questions):
        start, end = examples.spans[window]
        if start == 0:
            continue
        first, last = examples.context_ranges[window]
        assert first <= start <= end < last
        begin, finish = examples.token_starts[window][start], examples.token_ends[window][end]
        answer = rows[owner]["answers"]["text"][0]
        # A word's punctuation can be a piece of its own, so the span is the answer to the letter.
        assert rows[owner]["context"][begin:finish] == answer


def test_an_answer_never_crosses_into_the_question_nor_runs_backwards(tmp_path):
    _, task, examples = prepared(recipe_of("question-answering", tmp_path, num_rows=8))
    rng = np.random.default_rng(0)
    rows, width = np.arange(len(examples.lengths)), int(examples.lengths.max())
    logits = rng.normal(size=(len(rows), 2, width))
    logits[:, 0, 1:4] += 50  # the question begins here, and the likeliest start with it
    contexts = examples.contexts
    for answer, context in zip(
        task.format_predictions(examples, task.decode_batch(logits, examples, rows)), contexts, strict=True
    ):
        assert answer["answer"] and answer["answer"] in context
        assert len(answer["answer"].split()) <= 30
        scores = [each["score"] for each in answer["n_best"]]
        assert scores == sorted(scores, reverse=True) and 0 < sum(scores) <= 1.0001


def test_a_question_without_answer_is_answered_by_nothing(tmp_path):
    rows = rows_of("question-answering", 4, 0)
    rows[0]["answers"] = {"text": [], "answer_start": []}
    with pytest.raises(UserError, match="row 1: answers is empty; set options.unanswerable=true"):
        prepared(of_rows("question-answering", tmp_path, rows))
    recipe = of_rows("question-answering", tmp_path, rows, **{"options.unanswerable": True})
    _, task, examples = prepared(recipe)
    spans_of_first = examples.spans[examples.questions == 0]
    assert (spans_of_first == 0).all()
    width = int(examples.lengths.max())
    sure = np.zeros((len(examples.lengths), 2, width))
    sure[:, :, 0] = 9.0
    rows_all = np.arange(len(examples.lengths))
    assert [a["answer"] for a in task.format_predictions(examples, task.decode_batch(sure, examples, rows_all))] == [
        ""
    ] * 4


def test_answers_with_white_space_around_them_do_not_cover_the_next_word(tmp_path):
    row = {
        "id": "1",
        "question": "Whom?",
        "context": "Ann saw Bob today",
        "answers": {"text": [" Bob "], "answer_start": [7]},
    }
    _, _, examples = prepared(of_rows("question-answering", tmp_path, [row]))
    start, end = examples.spans[0]
    assert row["context"][examples.token_starts[0][start] : examples.token_ends[0][end]] == "Bob"
