"""Every task family: what it makes of rows, what it refuses, and that both frameworks run it from end to end."""

import json
import math

import datasets
import numpy as np
import pytest
import torch
import transformers

from pipeline import UserError, finetune
from pipeline.comparison.lockstep import Bounds, compare_traces, record
from pipeline.data.batches import padded_batch
from pipeline.runs.prediction import open_run, predict
from pipeline.tasks.masked_language_modeling import choose
from pipeline.tasks.token_classification import spans
from pipeline.training.experiment import prepare
from tests.helpers.families import KINDS, recipe_of, rows_of, sentences


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def of_rows(kind, folder, rows, validation=None, **changes):
    return recipe_of(kind, folder, rows, validation, changes=changes)


# What is not here differs from one that is in its rows only, or has tests/test_lockstep.py to itself.
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("single-label", "pairs", "masked words", "causal rows")]
)
def test_both_frameworks_take_the_same_updates(kind, tmp_path):
    recipe = recipe_of(kind, tmp_path, num_rows=64, changes={"train.gradient_accumulation": 2})
    traces = [record(recipe, framework, 4) for framework in ("torch", "tensorflow")]
    report = compare_traces(kind, *traces, Bounds())
    assert report.same, report.as_text()
    assert traces[0].loss.std() > 0


ENDS = [
    ("torch", "pairs"), ("tensorflow", "gpt2 single-label"), ("torch", "regression"), ("tensorflow", "multi-label"),
    ("torch", "token-classification"), ("tensorflow", "token-classification"), ("torch", "question-answering"),
    ("tensorflow", "question-answering"), ("torch", "masked words"), ("tensorflow", "masked blocks"),
    ("torch", "causal rows"), ("tensorflow", "causal rows"), ("torch", "sequence-to-sequence"),
    ("tensorflow", "sequence-to-sequence"),
]  # fmt: skip


@pytest.mark.parametrize(("framework", "kind"), ENDS)
def test_a_run_with_handwritten_attention_scores_saves_and_predicts(kind, framework, tmp_path):
    recipe = recipe_of(kind, tmp_path)
    run = finetune(recipe, framework=framework, attention="handwritten", out=tmp_path / "run")
    assert all(math.isfinite(value) for value in run.metrics.values()) and "loss" in run.metrics
    assert run.record.attention_sites > 0
    found = lines(run.path / "predictions.jsonl")
    assert [line["index"] for line in found] == list(range(len(found)))
    with np.load(run.path / "probe.npz") as probe:
        assert len(probe["logits_before"]) <= 16
        assert probe["logits_before"].shape == probe["logits_after"].shape
    other = {"torch": "tensorflow", "tensorflow": "torch"}[framework]
    asked = rows_of(kind.removeprefix("gpt2 "), 16, 1)[:3]
    if kind.startswith("masked"):
        asked = [{"text": "The film was [MASK]."}, {"text": "The [MASK] was not [MASK]."}]
    here, there = list(predict(run, asked)), list(predict(run, asked, framework=other))
    for one, two in zip(here, there, strict=True):
        assert same(one, two), (one, two)
    if "prediction" in here[0] and kind != "question-answering":
        assert same([line["prediction"] for line in here], [line["prediction"] for line in found[:3]])


def same(one, two):
    """Equal but for the last digits of scores."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == pytest.approx(two, abs=2e-5) if isinstance(one, float) else one == two


def prepared(recipe, split="train"):
    experiment = prepare(recipe)
    return experiment, experiment.task, experiment.examples[split]


# Regression and multi-label


def test_the_losses_of_numbers_and_of_label_sets_are_the_usual_ones(framework, tmp_path):
    from pipeline.backend import load_backend

    module = load_backend(framework).Learner.__module__
    weighted_loss = __import__(module, fromlist=["weighted_loss"]).weighted_loss
    logits, weights = np.array([[0.3], [-1.2]], np.float32), np.array([0.5, 0.5], np.float32)
    found = float(
        weighted_loss(*map(as_tensor(framework), (logits, np.float32([1, -1]), weights)), 0.0, "squared_error")
    )
    assert found == pytest.approx((0.7**2 + 0.2**2) / 2, rel=1e-5)
    labels = np.array([[1.0, 0.0]], np.float32)
    found = float(
        weighted_loss(
            *map(as_tensor(framework), (np.float32([[2, -1]]), labels, np.float32([[0.5, 0.5]]))), 0.0,
            "binary_cross_entropy",
        )
    )  # fmt: skip
    assert found == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2, rel=1e-5)


def as_tensor(framework):
    if framework == "torch":
        return torch.from_numpy
    import tensorflow as tf

    return tf.constant


# Token classification


def test_a_tag_stands_on_the_first_piece_of_its_word_only(tmp_path):
    rows = [{"tokens": ["unwatchablest", "film"], "tags": ["B-X", "O"]}, {"tokens": ["film"], "tags": ["O"]}]
    experiment, task, examples = prepared(of_rows("token-classification", tmp_path, rows))
    batch = padded_batch(np.array([0, 1]), examples.lengths)
    pieces = experiment.tokenizer.convert_ids_to_tokens(examples.features["input_ids"][0].tolist())
    assert pieces[0] == "[CLS]" and pieces[2].startswith("##") and pieces[-2:] == ["film", "[SEP]"]
    targets = task.targets(examples, batch)
    weighted = np.argwhere(targets["loss_weights"] > 0).tolist()
    assert weighted == [[0, 1], [0, len(pieces) - 2], [1, 1]]
    assert targets["loss_weights"].sum() == pytest.approx(1)
    assert [task.labels[targets["labels"][tuple(at)]] for at in weighted] == ["B-X", "O", "O"]


def test_words_and_entities_that_truncation_cuts_are_counted_and_scored_as_missed(tmp_path):
    words = ["film"] * 40
    rows = [{"tokens": words, "tags": ["B-X"] + ["O"] * 28 + ["B-X", "I-X"] + ["O"] * 9}]
    _, task, examples = prepared(of_rows("token-classification", tmp_path, rows))
    assert examples.counts == {"rows": 1, "truncated": 1, "words without label": 10, "entities cut": 1}
    perfect = np.full((1, 32, 3), -9.0)
    ids = {name: i for i, name in enumerate(task.labels)}
    for position, word in enumerate(range(30), start=1):
        perfect[0, position, ids[rows[0]["tags"][word]]] = 9.0
    (judgement,) = task.score_batch(perfect, examples, np.array([0]))
    assert judgement.columns["references"] == rows[0]["tags"]
    assert judgement.columns["predictions"] == ["B-X"] + ["O"] * 28 + ["B-X"] + ["O"] * 10


def test_spans_of_tags():
    assert spans(["B-A", "I-A", "O", "I-B", "B-B", "I-A"]) == [
        ("A", 0, 2), ("B", 3, 4), ("B", 4, 5), ("A", 5, 6),
    ]  # fmt: skip


# Question answering


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


# Masked language modelling


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_chosen_share_of_a_row_is_the_probability_and_never_nothing(whole_word):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 500)
    owners = np.repeat(np.arange(500), lengths + 2)
    words = np.concatenate([[-1, *np.sort(rng.integers(0, max(1, n * 2 // 3), n)), -1] for n in lengths])
    chosen = choose(owners, words, 0.15, whole_word, rng)
    assert not chosen[words < 0].any()
    counts = np.bincount(owners, weights=chosen).astype(int)
    assert counts.min() >= 1
    quota = np.maximum(np.round(0.15 * lengths), 1)
    if not whole_word:
        assert (counts == quota).all()
        return
    for row in range(500):
        mine = owners == row
        fate = {word: set(chosen[mine & (words == word)].tolist()) for word in set(words[mine]) - {-1}}
        assert all(len(values) == 1 for values in fate.values())
    assert (counts[counts > quota] < 20).all() and abs(counts.sum() / lengths.sum() - 0.15) < 0.03


def test_of_the_chosen_tokens_80_percent_are_hidden_10_random_10_kept(tmp_path):
    experiment, task, _ = prepared(recipe_of("masked blocks", tmp_path, num_rows=2000))
    plain = task.encode(datasets.Dataset.from_list([{"text": text} for text in sentences(2000)]))
    masked = task.for_epoch(plain, [0, 0])
    labels, ids = masked.labels.values, masked.features["input_ids"].values
    chosen = labels >= 0
    assert (labels[chosen] == plain.features["input_ids"].values[chosen]).all()
    assert (ids[~chosen] == plain.features["input_ids"].values[~chosen]).all()
    hidden = (ids[chosen] == experiment.tokenizer.mask_token_id).mean()
    kept = (ids[chosen] == labels[chosen]).mean()
    assert hidden == pytest.approx(0.8, abs=0.02) and kept == pytest.approx(0.1, abs=0.02)
    assert not set(ids[chosen & (ids != labels)]) & (set(experiment.tokenizer.all_special_ids) - {4})


def test_masks_are_a_function_of_seed_and_epoch_and_validation_has_its_own(tmp_path):
    recipe = recipe_of("masked blocks", tmp_path)
    one, two = prepare(recipe), prepare(recipe)
    masks = [
        experiment.task.for_epoch(experiment.examples["train"], key).features["input_ids"].values
        for experiment, key in ((one, [0, 0]), (two, [0, 0]), (one, [0, 1]), (one, [1, 0]))
    ]
    assert (masks[0] == masks[1]).all() and (masks[0] != masks[2]).any() and (masks[0] != masks[3]).any()
    validation = [e.examples["validation"].features["input_ids"].values for e in (one, two)]
    assert (validation[0] == validation[1]).all()
    assert (validation[0] == one.tokenizer.mask_token_id).any()


# Causal language modelling


@pytest.mark.parametrize("separator", ["none", "eos"])
def test_blocks_hold_every_token_once_as_input_and_once_as_label(tmp_path, separator):
    rows = [{"text": text} for text in ("Once upon a time\n", "\n", "there lived a queen. Naïve façade – 5 €\n")]
    recipe = of_rows("causal blocks", tmp_path, rows, **{"options.separator": separator, "data.max_length": 7})
    experiment, task, examples = prepared(recipe)
    tokenizer = experiment.tokenizer
    end, kept = [tokenizer.eos_token_id], [tokenizer(row["text"])["input_ids"] for row in rows]
    if separator == "eos":
        kept = [tokenizer(row["text"].rstrip("\n"))["input_ids"] + end for row in (rows[0], rows[2])]
    stream = [token for ids in kept for token in ids]
    assert examples.labels.values.tolist() == stream
    assert examples.features["input_ids"].values.tolist() == end + stream[:-1]
    assert examples.lengths.max() == 7 and (examples.lengths[:-1] == 7).all()
    text = "".join(row["text"] if separator == "none" else row["text"].rstrip("\n") for row in rows)
    assert examples.num_bytes.values.sum() == len(text.encode())


def test_perplexity_is_that_of_the_saved_model_in_float64(tmp_path, framework):
    recipe = recipe_of("causal rows", tmp_path)
    run = finetune(recipe, framework=framework, out=tmp_path / "run")
    model = transformers.AutoModelForCausalLM.from_pretrained(run.path / "model").double().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.path / "model")
    total, tokens, num_bytes, floor = 0.0, 0, 0, 0.0
    for row in rows_of("causal rows", 16, 1):
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id]])
        with torch.inference_mode():
            log_p = torch.log_softmax(model(ids[:, :-1]).logits, -1)
        total -= log_p.gather(-1, ids[:, 1:, None]).sum().item()
        tokens, num_bytes = tokens + ids.shape[1] - 1, num_bytes + len(row["text"].encode())
        floor += row["floor_nats"]
    assert run.metrics["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert run.metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / num_bytes, rel=1e-4)
    found = lines(run.path / "predictions.jsonl")
    assert sum(line["loss_sum"] for line in found) == pytest.approx(total, rel=1e-4)
    assert (sum(line["tokens"] for line in found), sum(line["bytes"] for line in found)) == (tokens, num_bytes)


# Sequence to sequence


def test_the_decoder_reads_the_labels_shifted_and_padding_has_no_weight(tmp_path):
    rows = [{"source": "3 March 1984", "target": "1984-03-03"}, {"source": "5 May 2001 on", "target": "5"}]
    experiment, task, examples = prepared(of_rows("sequence-to-sequence", tmp_path, rows))
    batch = padded_batch(np.array([0, 1]), examples.lengths)
    inputs, targets = task.inputs(examples, batch), task.targets(examples, batch)
    labels = experiment.tokenizer(text_target=[row["target"] for row in rows], padding=True, return_tensors="np")
    assert (targets["labels"] == labels["input_ids"]).all()
    assert ((targets["loss_weights"] > 0) == labels["attention_mask"]).all()
    assert (inputs["decoder_input_ids"][:, 0] == experiment.config.decoder_start_token_id).all()
    assert (inputs["decoder_input_ids"][:, 1:] == labels["input_ids"][:, :-1]).all()
    assert inputs["input_ids"].shape[1] == batch.widths[0] != batch.widths[1]


# What is refused


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


def test_a_split_without_any_target_is_refused(tmp_path):
    good = [{"tokens": ["a"], "tags": ["B-X"]}, {"tokens": ["b"], "tags": ["O"]}]
    dropped = [{"tokens": ["\u0007"], "tags": ["O"]}]  # a control character, of which the tokenizer makes nothing
    with pytest.raises(UserError, match="data.validation: no row has a target that counts"):
        prepare(recipe_of("token-classification", tmp_path, good, dropped))


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


def test_a_pair_for_a_tokenizer_that_puts_nothing_between_is_refused(tmp_path):
    recipe = recipe_of("pairs", tmp_path, changes={"checkpoint": recipe_of("causal rows", tmp_path).checkpoint})
    (tmp_path / "pairs").mkdir()
    recipe = recipe_of("pairs", tmp_path / "pairs", changes={"checkpoint": recipe.checkpoint})
    with pytest.raises(UserError, match="puts nothing between the texts of a pair"):
        prepare(recipe)


def test_generation_follows_the_recipe_and_not_the_checkpoint(framework, tmp_path):
    """The library fills a setting that equals its own default from the checkpoint's config."""
    from pipeline.backend import load_backend
    from pipeline.training.experiment import start

    experiment = prepare(recipe_of("sequence-to-sequence", tmp_path))
    experiment.config.min_length, experiment.config.num_beams = 12, 3
    backend = load_backend(framework)
    learner = backend.Learner(start(experiment, backend, 0)[0], experiment.recipe.train, np.ones(1))
    asked = {key: experiment.probe()[key] for key in ("input_ids", "attention_mask")}
    found = learner.generate(asked, {"max_new_tokens": 13, "num_beams": 1, "length_penalty": 1.0})
    for prompt, mask, written in zip(asked["input_ids"], asked["attention_mask"], found, strict=True):
        read, start_id = prompt[mask != 0][None], experiment.config.decoder_start_token_id
        reading = {"input_ids": read, "attention_mask": np.ones_like(read)}
        ids = [start_id]
        while len(ids) < 14 and ids[-1] != experiment.config.eos_token_id:  # the definition of greedy, without a cache
            logits = learner.logits(reading | {"decoder_input_ids": np.array([ids], np.int32)})
            ids.append(int(logits[0, -1].argmax()))
        assert written[: len(ids)].tolist() == ids
        assert (written[len(ids) :] == experiment.config.pad_token_id).all()


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


def test_special_tokens_spelt_out_in_a_text_are_nothing_to_predict(tmp_path):
    rows = [{"text": "good [SEP] film [MASK] good ☃"}] * 3
    experiment, task, examples = prepared(of_rows("masked words", tmp_path, rows))
    for epoch in range(20):
        labels = task.for_epoch(examples, [0, epoch]).labels.values
        assert not set(labels[labels >= 0]) & set(experiment.tokenizer.all_special_ids)
