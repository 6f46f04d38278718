"""Small data sets and checkpoints where the documented commands look for theirs, so that the commands can be run.

A folder with the name of a Hub id takes the place of the Hub: from there on, everything is as with a download.
"""

import json
import shutil
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining

from pipeline.models.library import read_tokenizer, save_tokenizer
from tests.helpers.marian_checkpoint import write_marian
from tests.helpers.relatives import checkpoint_of

BUNDLED = Path(__file__).resolve().parents[2] / "recipes" / "bundled"
# Hub id: the bundled checkpoint whose tokenizer it has, and what its configuration needs more.
CHECKPOINTS = {
    "google-bert/bert-base-uncased": ("sentiment/bert", {"max_position_embeddings": 512}),
    "google-bert/bert-base-cased": ("sentiment/bert", {"max_position_embeddings": 512}),
    "openai-community/gpt2": ("stories/gpt2", {"n_positions": 1024}),
    "google-t5/t5-small": ("dates/t5", {}),
}
RELATIVES = {"distilbert": "distilbert/distilbert-base-uncased", "roberta": "FacebookAI/roberta-base"}
WORDS = ["good", "bad"] * 8
SENTENCES = [f"the {word} room was {word}" for word in WORDS]
TEXTS = [f"{sentence} and " * 40 for sentence in SENTENCES]
SCORES = [4.5, 0.5] * 8
LABELS = [1, 0] * 8
BINARY = ClassLabel(names=["no", "yes"])
TEXT = Value("string")
ANSWERS = [{"text": [word], "answer_start": [4]} for word in WORDS]
TAGS = [[0, 1, 0, 0, 0]] * 16


def _hub(columns, features):
    return Dataset.from_dict(columns, features=Features(features))


# Hub id, configuration: its rows.
ON_THE_HUB = {
    ("nyu-mll/glue", "cola"): _hub({"sentence": SENTENCES, "label": LABELS}, {"sentence": TEXT, "label": BINARY}),
    ("nyu-mll/glue", "sst2"): _hub({"sentence": SENTENCES, "label": LABELS}, {"sentence": TEXT, "label": BINARY}),
    ("nyu-mll/glue", "mrpc"): _hub(
        {"sentence1": SENTENCES, "sentence2": SENTENCES, "label": LABELS},
        {"sentence1": TEXT, "sentence2": TEXT, "label": BINARY},
    ),
    ("nyu-mll/glue", "stsb"): _hub(
        {"sentence1": SENTENCES, "sentence2": SENTENCES, "label": SCORES},
        {"sentence1": TEXT, "sentence2": TEXT, "label": Value("float32")},
    ),
    ("abisee/cnn_dailymail", "3.0.0"): _hub(
        {"article": SENTENCES, "highlights": WORDS}, {"article": TEXT, "highlights": TEXT}
    ),
    ("tuetschek/e2e_nlg", "default"): _hub(
        {"meaning_representation": SENTENCES, "human_reference": WORDS},
        {"meaning_representation": TEXT, "human_reference": TEXT},
    ),
    ("Helsinki-NLP/opus_books", "en-fr"): _hub(
        {"translation": [{"en": text, "fr": "3"} for text in WORDS * 4]}, {"translation": {"en": TEXT, "fr": TEXT}}
    ),
    ("rajpurkar/squad", "plain_text"): _hub(
        {"id": list(map(str, range(16))), "question": WORDS, "context": SENTENCES, "answers": ANSWERS},
        {
            "id": TEXT, "question": TEXT, "context": TEXT,
            "answers": Sequence({"text": TEXT, "answer_start": Value("int32")}),
        },
    ),
    ("Salesforce/wikitext", "wikitext-2-raw-v1"): _hub({"text": TEXTS}, {"text": TEXT}),
    ("leondz/wnut_17", "default"): _hub(
        {"tokens": [text.split() for text in SENTENCES], "ner_tags": TAGS},
        {"tokens": Sequence(TEXT), "ner_tags": Sequence(ClassLabel(names=["O", "B-x"]))},
    ),
}  # fmt: skip


def write_checkpoints(folder):
    """Checkpoints of random weights under their Hub ids."""
    for name, (bundled, changes) in CHECKPOINTS.items():
        config = AutoConfig.from_pretrained(BUNDLED / bundled, **changes)
        build = AutoModelForMaskedLM if config.model_type == "bert" else AutoModelForPreTraining
        build.from_config(config).save_pretrained(folder / name)
        save_tokenizer(read_tokenizer(str(BUNDLED / bundled)), folder / name)
    for family, name in RELATIVES.items():
        shutil.copytree(checkpoint_of(family, 514), folder / name)
    write_marian(folder / "Helsinki-NLP" / "opus-mt-en-fr", TEXTS, TEXTS, max_position_embeddings=512)


def write_data_of_the_hub(folder):
    """Data sets under their Hub ids, each with a README that lists configurations, as on the Hub."""
    listed = {}
    for (name, configuration), rows in ON_THE_HUB.items():
        files = []
        for split in ("train", "validation", "test"):
            path = folder / name / configuration / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows.to_parquet(path)
            files.append(f"  - split: {split}\n    path: {configuration}/{split}.parquet\n")
        listed.setdefault(name, []).append(f"- config_name: {configuration}\n  data_files:\n{''.join(files)}")
    for name, configurations in listed.items():
        (folder / name / "README.md").write_text(f"---\nconfigs:\n{''.join(configurations)}---\n")


def write_local_data(folder, recipe):
    """The local files that the docstring of a recipe names."""
    for name, text in _LOCAL[recipe]().items():
        (folder / name).write_text(text, encoding="utf-8")


def _delimited(separator, *columns):
    return "".join(separator.join(map(str, row)) + "\n" for row in zip(*columns, strict=True))


def _two(text, train, validation):
    return {train: text, validation: text}


def _cnn_dailymail():
    lines = (json.dumps({"article": a, "highlights": b}) for a, b in zip(SENTENCES, WORDS, strict=True))
    return _two("\n".join(lines) + "\n", "train.jsonl", "validation.jsonl")


def _squad():
    questions = [
        {"id": str(i), "question": word, "answers": [{"text": word, "answer_start": 4}]} for i, word in enumerate(WORDS)
    ]
    paragraphs = [{"context": text, "qas": [question]} for text, question in zip(SENTENCES, questions, strict=True)]
    text = json.dumps({"version": "1.1", "data": [{"title": "rooms", "paragraphs": paragraphs}]})
    return _two(text, "train-v1.1.json", "dev-v1.1.json")


def _mine():
    return _two("review,stars\n" + _delimited(",", SENTENCES, LABELS), "train.csv", "dev.csv")


_LOCAL = {
    "mine": _mine,
    "cnn_dailymail_t5": _cnn_dailymail,
    "cola_bert": lambda: _two(_delimited("\t", WORDS, LABELS, WORDS, SENTENCES), "train.tsv", "dev.tsv"),
    "e2e_t5": lambda: _two("mr,ref\n" + _delimited(",", SENTENCES, WORDS), "trainset.csv", "devset.csv"),
    "mrpc_bert": lambda: _two(
        "Quality\t#1 String\t#2 String\n" + _delimited("\t", LABELS, SENTENCES, SENTENCES), "train.tsv", "dev.tsv"
    ),
    "opus_books_t5": lambda: {"eng-fra.txt": _delimited("\t", WORDS * 4, ["3"] * 64)},
    "squad_bert": _squad,
    "sst2_bert": lambda: _two("sentence\tlabel\n" + _delimited("\t", SENTENCES, LABELS), "train.tsv", "dev.tsv"),
    "stsb_bert": lambda: _two(
        "sentence1\tsentence2\tscore\n" + _delimited("\t", SENTENCES, SENTENCES, SCORES), "train.tsv", "dev.tsv"
    ),
    "wikitext2_bert_mlm": lambda: _two("\n".join(TEXTS), "train.txt", "valid.txt"),
    "wnut17_bert": lambda: _two(
        "\n\n".join("\n".join(f"{w}\t{'B-x' if i == 1 else 'O'}" for i, w in enumerate(s.split())) for s in SENTENCES),
        "wnut17train.conll", "emerging.dev.conll",
    ),
}  # fmt: skip
_LOCAL |= {
    "sst2_gpt2": _LOCAL["sst2_bert"],
    "wikitext2_gpt2": _LOCAL["wikitext2_bert_mlm"],
    "opus_en_fr_marian": _LOCAL["opus_books_t5"],
}
