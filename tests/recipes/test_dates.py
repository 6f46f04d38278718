"""The bundled dates and their checkpoint are what their README says."""

import json
import re
from datetime import date, datetime
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from pipeline.models.library import read_tokenizer
from recipes.bundled.dates import grammar

FOLDER = Path(grammar.__file__).parent
CHECKPOINT = FOLDER / "t5"
SPLITS = ("train", "validation")
PRETRAINING_SEED, NUM_PRETRAINING_TEXTS = 303, 60_000

# Written out, not taken from the grammar.
NUMBERS = {
    "oh": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
RANKS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fourteenth": 14, "fifteenth": 15,
    "sixteenth": 16, "seventeenth": 17, "eighteenth": 18, "nineteenth": 19, "twentieth": 20, "thirtieth": 30,
}  # fmt: skip
DIGIT_PATTERNS = ("%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y")
MONTH = re.compile(r"\b(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*")
WEEKDAY = re.compile(r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*")


def read(split):
    lines = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def readings(text):
    """All days that a text of digits alone may mean, each pattern tried."""
    days = set()
    for pattern in DIGIT_PATTERNS:
        try:
            days.add(datetime.strptime(text, pattern).date())
        except ValueError:
            continue
    return days


def parse(source):
    """The one day that a source names, read word by word and not by the grammar's rules."""
    if not MONTH.search(source):
        (day,) = readings(source)
        return day
    month = datetime.strptime(MONTH.search(source)[1], "%b").month
    words = re.findall(r"[a-z]+|\d+", MONTH.sub(" ", WEEKDAY.sub(" ", source)))
    years = [int(word) for word in words if re.fullmatch(r"\d{4}", word)]
    days = [int(word) for word in words if re.fullmatch(r"\d{1,2}", word)]
    ranks = [index for index, word in enumerate(words) if word in RANKS]
    for index in ranks:
        tens = words[index - 1] if index and RANKS[words[index]] < 10 else ""
        # "twenty-first" with the hyphen, unlike "twenty, first".
        joined = f"{tens}-{words[index]}" in source
        days.append(RANKS[words[index]] + (NUMBERS[tens] if joined else 0))
        words[index] = ""
        if joined:
            words[index - 1] = ""
    if not years:
        spoken = [word for word in words if word in NUMBERS]
        if "thousand" in words:
            years = [2000 + sum(NUMBERS[word] for word in spoken[1:])]
        else:
            years = [100 * NUMBERS[spoken[0]] + sum(NUMBERS[word] for word in spoken[1:])]
    (year,), (day,) = years, days
    return date(year, month, day)


@pytest.fixture(scope="module")
def tokenizer():
    return read_tokenizer(str(CHECKPOINT))


def test_the_committed_files_are_what_the_grammar_writes(tmp_path):
    grammar.write(tmp_path)
    for split in SPLITS:
        name = f"{split}.jsonl"
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_sizes_and_columns_are_as_stated_and_no_source_occurs_twice():
    rows = {split: read(split) for split in SPLITS}
    assert {split: len(rows[split]) for split in SPLITS} == {"train": 3000, "validation": 1000}
    assert all(set(row) == {"source", "target"} for split in SPLITS for row in rows[split])
    # Not even in other capitals.
    assert len({row["source"].lower() for split in SPLITS for row in rows[split]}) == 4000


@pytest.mark.parametrize("split", SPLITS)
def test_every_target_is_the_day_that_its_source_names(split):
    for row in read(split):
        assert date.fromisoformat(row["target"]) == parse(row["source"]), row
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["target"])


@pytest.mark.parametrize("split", SPLITS)
def test_a_weekday_in_a_source_is_the_right_one(split):
    named = [(WEEKDAY.search(row["source"]), row) for row in read(split)]
    checked = [match[1] == date.fromisoformat(row["target"]).strftime("%a") for match, row in named if match]
    assert len(checked) > 100 and all(checked)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("the {third} of {March}, {Y}", "the third of March, 1984"),
        ("{Sat}, {Mar} {nth}, {year_in_words}", "Sat, Mar 3rd, nineteen eighty-four"),
        ("{Y}-{mm}-{dd}", "1984-03-03"),
        ("{d}/{m}/{Y}, a {Saturday}", "3/3/1984, a Saturday"),
    ],
)
def test_a_form_says_a_day(form, text):
    assert grammar.write_day(form, date(1984, 3, 3)) == text


@pytest.mark.parametrize(
    ("year", "text"),
    [
        (1900, "nineteen hundred"),
        (1904, "nineteen oh four"),
        (1984, "nineteen eighty-four"),
        (2000, "two thousand"),
        (2004, "two thousand and four"),
        (2014, "twenty fourteen"),
    ],
)
def test_years_are_written_as_they_are_spoken(year, text):
    assert grammar.year_in_words(year) == text


def test_ranks_end_as_they_should():
    written = ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "20th", "21st", "22nd", "23rd", "30th", "31st"]
    assert [grammar.nth(int(rank[:-2])) for rank in written] == written


def test_pretraining_text_holds_no_source_of_validation_and_no_free_form_beside_iso():
    held_out = {row["source"] for row in read("validation")}
    texts = list(grammar.pretraining_texts(PRETRAINING_SEED, NUM_PRETRAINING_TEXTS))
    assert len(set(texts)) == len(texts) == NUM_PRETRAINING_TEXTS
    assert held_out.isdisjoint(texts)
    assert held_out.isdisjoint(part for text in texts for part in re.split(r"; | or |, that is ", text))
    iso = re.compile(r"\d{4}-\d\d-\d\d")
    with_iso = [text for text in texts if iso.search(text)]
    assert len(with_iso) > NUM_PRETRAINING_TEXTS / 5
    assert all(iso.sub("", text).strip(", ") == "" for text in with_iso)


def test_pretraining_text_would_meet_sources_of_validation_if_they_were_not_excluded():
    held_out = {row["source"] for row in read("validation")}
    writer = grammar.Writer(PRETRAINING_SEED)
    assert any(held_out & set(writer.unlabeled()[1]) for _ in range(NUM_PRETRAINING_TEXTS))


def test_the_tokenizer_gives_every_text_back(tokenizer):
    texts = [row[column] for split in SPLITS for row in read(split) for column in ("source", "target")]
    rows = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(rows, skip_special_tokens=True) == texts
    assert all(row[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in row for row in rows)
    # Sources fit the recipe's max_length, targets its max_target_length.
    assert max(map(len, rows[::2])) <= 48 and max(map(len, rows[1::2])) <= 16


def test_the_tokenizer_is_laid_out_as_a_t5_expects(tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "</s>", "<unk>"]
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]
    assert "<extra_id_0>" in tokenizer.all_special_tokens
    assert tokenizer.tokenize("1984-03-03") == ["▁", *"1984-03-03"]


def test_the_checkpoint_is_a_small_stock_t5_of_finite_weights(tokenizer):
    model = AutoModelForSeq2SeqLM.from_pretrained(CHECKPOINT)
    config = model.config
    assert config.architectures == ["T5ForConditionalGeneration"]
    assert config.vocab_size == len(tokenizer) and config.tie_word_embeddings
    assert config.decoder_start_token_id == tokenizer.pad_token_id == 0
    assert min(config.num_layers, config.num_decoder_layers) >= 2 and config.feed_forward_proj == "relu"
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())
    assert (CHECKPOINT / "generation_config.json").is_file()


def test_all_of_it_is_under_five_megabytes_and_names_no_local_path():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 5_000_000
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        assert "/" not in (CHECKPOINT / name).read_text(encoding="utf-8").replace("</s>", ""), name


def test_the_checkpoint_copies_a_year_from_elsewhere_in_the_text(tokenizer):
    """What pretraining taught: 0.73 of these gaps; a guess among the years would fill one in 140."""
    model = AutoModelForSeq2SeqLM.from_pretrained(CHECKPOINT)
    days = [date.fromisoformat(row["target"]) for row in read("validation")[:200]]
    texts = [grammar.write_day("{March} {d}, <extra_id_0>; the {nth} of {March}, {Y}", day) for day in days]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    filled = tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=12, num_beams=1), skip_special_tokens=True)
    copied = sum(text.startswith(str(day.year)) for text, day in zip(filled, days, strict=True))
    assert copied / len(days) > 0.5
