"""The bundled reviews and their checkpoint are what their README says; needs neither framework."""

import json
from collections import Counter
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer

from recipes.bundled.sentiment import grammar
from recipes.bundled.sentiment.grammar import Clause, join, make_clause

FOLDER = Path(grammar.__file__).parent
CHECKPOINT = FOLDER / "bert"

SOUP = make_clause(("{s} was {w}", +1), "the soup", "superb", +1)
WAITER = make_clause(("{s} was {w}", +1), "the waiter", "rude", -1)


def read(split):
    lines = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def rule(table, template):
    return next(entry for entry in table if entry[0] == template)


def test_the_committed_files_are_what_the_grammar_writes(tmp_path):
    grammar.write(tmp_path)
    for name in ("train.jsonl", "validation.jsonl"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_sizes_labels_and_lengths_are_as_stated():
    for split, size in (("train", 4000), ("validation", 1000)):
        rows = read(split)
        assert len(rows) == size
        assert all(set(row) == {"text", "label"} for row in rows)
        counts = Counter(row["label"] for row in rows)
        assert set(counts) == {"negative", "positive"}
        assert 0.45 < counts["positive"] / size < 0.55
        lengths = sorted(len(row["text"].split()) for row in rows)
        assert lengths[0] <= 5 and 10 <= lengths[size // 2] <= 20 and 30 <= lengths[-1] <= 40


def test_no_text_occurs_twice_in_a_split_or_across_both():
    # A lowercase tokenizer sees no capitals, so neither does the comparison.
    texts = [row["text"].lower() for split in ("train", "validation") for row in read(split)]
    assert len(set(texts)) == len(texts) == 5000


@pytest.mark.parametrize("split", ["train", "validation"])
def test_one_label_in_twenty_is_flipped_and_the_ceiling_is_what_is_left(split):
    rows, written = grammar.rows(split), read(split)
    flipped = sum(row.clean_label != line["label"] for row, line in zip(rows, written, strict=True))
    assert 0.035 <= flipped / len(rows) <= 0.065
    assert grammar.noise_ceiling(split) == pytest.approx(1 - flipped / len(rows))


def test_the_documented_ceiling_is_the_one_of_the_files():
    assert f"{grammar.noise_ceiling():.3f}" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_noise_falls_on_both_labels_alike():
    flipped = Counter(row.clean_label for row in grammar.rows("train") if row.label != row.clean_label)
    assert 0.35 < flipped["positive"] / sum(flipped.values()) < 0.65


@pytest.mark.parametrize("seed", [303, 5])
def test_pretraining_text_shares_no_sentence_with_validation(seed):
    held_out = {row["text"].lower() for row in read("validation")}
    sentences = list(grammar.pretraining_sentences(seed, 20_000))
    assert len(sentences) == len(set(sentences)) == 20_000
    assert not held_out & {sentence.lower() for sentence in sentences}


def test_pretraining_text_would_meet_validation_sentences_if_they_were_not_excluded():
    held_out = {row.text for row in grammar.rows("validation")}
    writer = grammar.Writer(303, grammar.GENERAL)
    assert held_out & {writer.review()[0] for _ in range(20_000)}


@pytest.mark.parametrize(
    ("template", "word", "polarity", "text", "verdict"),
    [
        ("{s} was {w}", "dull", -1, "the plot was dull", -1),
        ("{s} was not {w}", "dull", -1, "the plot was not dull", +1),
        ("{s} was hardly {w}", "great", +1, "the plot was hardly great", -1),
        ("{s} was never less than {w}", "great", +1, "the plot was never less than great", +1),
        ("{s} was anything but {w}", "dull", -1, "the plot was anything but dull", +1),
        ("I did not find {s} {w}", "great", +1, "I did not find the plot great", -1),
    ],
)
def test_a_frame_keeps_or_turns_its_word(template, word, polarity, text, verdict):
    clause = make_clause(rule(grammar.FRAMES, template), "the plot", word, polarity)
    assert clause == Clause(text, verdict)


@pytest.mark.parametrize(
    ("template", "text", "verdict"),
    [
        ("{a}, but {b}", "the soup was superb, but the waiter was rude", -1),
        ("{a}, although {b}", "the soup was superb, although the waiter was rude", +1),
        ("although {a}, {b}", "although the soup was superb, the waiter was rude", -1),
    ],
)
def test_the_conjunction_and_the_order_decide_which_clause_carries_the_verdict(template, text, verdict):
    contrast = rule(grammar.CONTRASTS, template)
    assert join(contrast, SOUP, WAITER) == Clause(text, verdict)
    assert join(contrast, WAITER, SOUP).polarity == -verdict


def test_the_stronger_degree_wins_in_either_order():
    weigh = rule(grammar.WEIGHINGS, "{a}, whereas {b}")
    praise = make_clause(("{s} was {w}", +1), "the soup", "slightly salty", -1, strength=1)
    blame = make_clause(("{s} was {w}", +1), "the bread", "truly fresh", +1, strength=3)
    assert join(weigh, praise, blame).polarity == join(weigh, blame, praise).polarity == +1


def test_joins_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="agree"):
        join(rule(grammar.AGREEMENTS, "{a} and {b}"), SOUP, WAITER)
    with pytest.raises(ValueError, match="oppose"):
        join(rule(grammar.CONTRASTS, "{a}, but {b}"), SOUP, SOUP)
    with pytest.raises(ValueError, match="stronger"):
        join(rule(grammar.WEIGHINGS, "{a}, whereas {b}"), SOUP, WAITER)


def test_words_alone_stay_far_below_the_recipe():
    # The recipe's own test holds it within 6 points of the ceiling; 8 below that is 14 below the ceiling.
    train, validation = read("train"), read("validation")
    vectorizer = TfidfVectorizer()
    features = vectorizer.fit_transform([row["text"] for row in train])
    held_out = vectorizer.transform([row["text"] for row in validation])
    for inverse_penalty in (0.3, 1.0, 10.0):
        model = LogisticRegression(C=inverse_penalty, max_iter=2000)
        model.fit(features, [row["label"] for row in train])
        accuracy = model.score(held_out, [row["label"] for row in validation])
        assert accuracy <= grammar.noise_ceiling() - 0.06 - 0.08, f"C={inverse_penalty}"


def test_the_checkpoint_is_a_small_stock_bert_for_masked_language_modeling():
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["BertForMaskedLM"] and config["model_type"] == "bert"
    assert config["num_hidden_layers"] >= 2
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 4_000_000
    assert "/" not in (CHECKPOINT / "tokenizer_config.json").read_text(encoding="utf-8"), "a local path"


def test_the_tokenizer_knows_every_letter_and_cuts_no_review():
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    encodings = tokenizer.encode_batch([row["text"] for split in ("train", "validation") for row in read(split)])
    assert max(len(encoding.ids) for encoding in encodings) <= config["max_position_embeddings"]
    unknown = tokenizer.token_to_id("[UNK]")
    assert not any(unknown in encoding.ids for encoding in encodings)
