"""The bundled stories: the grammar computes exact probabilities; data and checkpoint are what their README says."""

import json
import math
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from recipes.bundled.stories import grammar
from recipes.bundled.stories.grammar import Grammar, log_probability, render, unrender

FOLDER = Path(grammar.__file__).parent
CHECKPOINT = FOLDER / "gpt2"

# "a b" has three derivations, "a a" two, and an alternative that is written twice adds up.
AMBIGUOUS = """
S: X Y 3/1 | a b 1/2 | X 2/1 | a X 1/0 | A B 1/1
X: a 1/1 | a b 2/1 | a c 1/0 | a c 1/1
Y: a 1/2 | b 2/1 | c Y.deeper 1/1
Y.deeper: b 1/1 | X 1/1
A: a 1/1
B: b 1/1 | b a 1/3
""".splitlines()


def derivations(rules, symbols):
    """Every (words, probability) that a list of symbols derives, by brute force: one entry a derivation."""
    if not symbols:
        return [((), 1.0)]
    first, *rest = symbols
    if first in rules:
        heads = [
            (words, p * probability) for parts, p in rules[first] for words, probability in derivations(rules, parts)
        ]
    else:
        heads = [((first,), 1.0)]
    return [(a + b, p * q) for a, p in heads for b, q in derivations(rules, rest)]


def enumerated(small):
    """Text -> the probabilities of its derivations."""
    probabilities = {}
    for words, probability in derivations(small.rules, [small.start]):
        probabilities.setdefault(words, []).append(probability)
    return probabilities


def read(split):
    lines = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.mark.parametrize("column", [0, 1])
def test_the_inside_algorithm_sums_all_derivations(column):
    small = Grammar(AMBIGUOUS, column, start="S")
    texts = enumerated(small)
    assert max(map(len, texts.values())) >= 3, "the grammar must be ambiguous"
    for words, probabilities in texts.items():
        assert small.log_probability(list(words)) == pytest.approx(math.log(sum(probabilities)), abs=1e-12)
        assert small.log_probability(list(words), best=True) == pytest.approx(math.log(max(probabilities)), abs=1e-12)


def test_a_probability_by_hand():
    """S -> X X, X -> a (2/3) or a a (1/3): "a a a" is a + aa and aa + a, 2/9 each."""
    small = Grammar(["S: X X", "X: a 2/1 | a a 1/1"], 0, start="S")
    assert small.log_probability(["a", "a", "a"]) == pytest.approx(math.log(4 / 9))
    assert small.log_probability(["a", "a", "a"], best=True) == pytest.approx(math.log(2 / 9))


@pytest.mark.parametrize("column", [0, 1])
def test_the_probabilities_of_all_texts_sum_to_one(column):
    small = Grammar(AMBIGUOUS, column, start="S")
    assert sum(math.exp(small.log_probability(list(words))) for words in enumerated(small)) == pytest.approx(1.0)


def test_recursion_to_the_right_is_allowed_and_to_the_left_refused():
    endless = Grammar(["S: a S 1/1 | b 3/1"], 0, start="S")
    assert endless.log_probability(list("aaab")) == pytest.approx(math.log(0.25**3 * 0.75))
    with pytest.raises(ValueError, match="X can begin with itself"):
        Grammar(["S: X a", "X: Y b | b", "Y: X a | a"], 0, start="S")


def test_a_symbol_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="NOUN.queen has no rule"):
        Grammar(["S: the NOUN.queen"], 0, start="S")


def test_sampled_frequencies_agree_with_the_probabilities():
    small, num_draws = Grammar(AMBIGUOUS, 0, start="S"), 20_000
    random = Random(7).random
    counts = Counter(tuple(small.sample(random)[0]) for _ in range(num_draws))
    assert set(counts) <= set(enumerated(small))
    for words in enumerated(small):
        p = math.exp(small.log_probability(list(words)))
        assert abs(counts[words] / num_draws - p) < 4.5 * math.sqrt(p * (1 - p) / num_draws), words


def test_a_sampled_derivation_is_never_more_probable_than_its_text():
    random = Random(11).random
    ambiguous = 0
    for _ in range(100):
        words, log_p = grammar.style().sample(random)
        best, total = grammar.style().log_probability(words, best=True), grammar.style().log_probability(words)
        assert log_p <= best + 1e-9 <= total + 2e-9
        ambiguous += total > best + 1e-6
    assert ambiguous >= 10, "the sum over derivations must matter"


def test_text_and_words_are_one_to_one():
    random, names = Random(13).random, grammar.style().names
    for _ in range(300):
        words, _ = grammar.style().sample(random)
        assert unrender(render(words), names) == words


@pytest.mark.parametrize(
    "change", [lambda text: text.lower(), lambda text: text + " ", lambda text: text[:-1], lambda text: f"{text} Soon."]
)
def test_what_the_grammar_cannot_write_has_probability_zero(change):
    text = read("validation")[0]["text"]
    assert log_probability(text) > -math.inf
    assert log_probability(change(text)) == -math.inf


def test_the_hero_the_name_and_the_lost_thing_must_come_back():
    text = (
        "There was once a poor queen named Rosa. Nothing was so dear to her as her crown. "
        "Great was the joy when the queen found the crown."
    )
    assert log_probability(text) > -60
    for other in (
        text.replace("the queen", "the king"),
        text.replace("the queen", "Mara"),
        text.replace("as her crown", "as her ring"),
        text.replace("to her", "to him"),
    ):
        assert log_probability(other) == -math.inf, other


def test_the_committed_files_are_what_the_grammar_writes(tmp_path):
    grammar.write(tmp_path)
    for name in ("train.jsonl", "validation.jsonl"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_sizes_and_lengths_are_as_stated():
    for split, size in (("train", 2000), ("validation", 800)):
        rows = read(split)
        assert len(rows) == size
        assert all(set(row) == {"text", "floor_nats"} for row in rows)
        lengths = [len(row["text"].split()) for row in rows]
        assert min(lengths) >= 15 and max(lengths) <= 55 and 30 <= sum(lengths) / size <= 40


def test_no_story_occurs_twice_in_validation_or_in_both_splits():
    texts = {split: [row["text"] for row in read(split)] for split in ("train", "validation")}
    assert len(set(texts["validation"])) == 800
    assert not set(texts["train"]) & set(texts["validation"])


def test_pretraining_text_shares_no_story_with_validation_but_every_word_with_the_style():
    stories = list(grammar.pretraining_stories(5, 3000))
    assert not {row["text"] for row in read("validation")} & set(stories)
    known = {word for story in stories for word in unrender(story, grammar.general().names)}
    assert {word for row in read("validation") for word in unrender(row["text"], grammar.style().names)} <= known


def test_a_held_out_story_is_left_out_of_the_pretraining_text(monkeypatch):
    first, second = grammar.pretraining_stories(5, 2)
    monkeypatch.setattr(grammar, "rows", lambda split: ((first, 1.0),))
    assert next(grammar.pretraining_stories(5, 1)) == second


def test_the_tokenizer_gives_every_text_back_and_makes_one_token_of_a_word(tokenizer):
    assert tokenizer.is_fast
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.unk_token == "<|endoftext|>"
    for row in read("validation"):
        tokens = tokenizer(row["text"])["input_ids"]
        assert tokenizer.decode(tokens, clean_up_tokenization_spaces=False) == row["text"]
        assert len(tokens) == len(unrender(row["text"], grammar.style().names))


def test_no_story_is_longer_than_the_limit(tokenizer):
    # The end token in front takes one place.
    assert max(grammar.style().longest(), grammar.general().longest()) + 1 <= 64
    lengths = [len(tokenizer(row["text"])["input_ids"]) for split in ("train", "validation") for row in read(split)]
    assert max(lengths) + 1 <= 64


def test_the_checkpoint_is_a_small_stock_gpt2(tokenizer):
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2LMHeadModel"] and config["model_type"] == "gpt2"
    assert config["n_layer"] >= 2 and config["n_positions"] == 64 and config["vocab_size"] == len(tokenizer)
    weights = load_file(CHECKPOINT / "model.safetensors")
    assert weights["transformer.wte.weight"].shape == (len(tokenizer), config["n_embd"])
    assert "lm_head.weight" not in weights, "tied to the embeddings"
    assert all(np.isfinite(array).all() for array in weights.values())
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 4_000_000
    assert "/" not in (CHECKPOINT / "tokenizer_config.json").read_text(encoding="utf-8"), "a local path"


def test_the_documented_floor_is_the_one_of_the_files(tokenizer):
    rows = read("validation")
    num_labels = sum(len(tokenizer(row["text"])["input_ids"]) + 1 for row in rows)
    floor = math.exp(sum(row["floor_nats"] for row in rows) / num_labels)
    assert f"{floor:.3f}" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_checkpoint_loads_and_knows_stories_before_any_fine_tuning(tokenizer):
    import torch
    from transformers import GPT2LMHeadModel

    model, info = GPT2LMHeadModel.from_pretrained(CHECKPOINT, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    text = "Long ago, Nell was a baker near the harbour."
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]])
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    assert 0 < loss < 2.5
