"""`init`: the recipe that is written for a file of each format and kind can be loaded and prepared as it is."""

import csv
import json

import datasets
import pytest

from pipeline import UserError, draft_recipe, load_recipe
from pipeline.cli.main import execute
from pipeline.recipe.overrides import RECIPES
from pipeline.training.experiment import prepare
from tests.helpers.families import rows_of

BUNDLED = {
    "sequence-classification": "sentiment/bert", "token-classification": "sentiment/bert",
    "question-answering": "sentiment/bert", "causal-language-modeling": "stories/gpt2",
    "sequence-to-sequence": "dates/t5",
}  # fmt: skip
SUGGESTED = {"bert": "google-bert/", "gpt2": "openai-community/gpt2", "t5": "google-t5/t5-small"}


def drafted(file, folder):
    """The recipe of a draft, with a bundled checkpoint in place of the suggested one, and the draft's text."""
    path = draft_recipe(file, folder / "draft.yaml")
    recipe = load_recipe(path)
    checkpoint = BUNDLED[recipe.task]
    assert recipe.checkpoint.startswith(SUGGESTED[checkpoint.partition("/")[2]])
    changes = {"checkpoint": str(RECIPES / "bundled" / checkpoint), "data.max_length": min(64, recipe.data.max_length)}
    return recipe.override(changes), path.read_text()


def write_csv(path, rows, header=True, **options):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        if header:
            writer.writeheader()
        writer.writerows(rows)
    return path


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


REVIEWS, PAIRS = rows_of("single-label", 60, 0), rows_of("pairs", 60, 0)
# Each kind of file, and the task, columns and options that its draft must have.
FILES = {
    "csv": (lambda f: write_csv(f / "a.csv", REVIEWS), "sequence-classification", {"text": "text", "label": "label"}),
    "csv with other names": (
        lambda f: write_csv(f / "a.csv", [{"id": i, "body": r["text"], "stars": i % 5} for i, r in enumerate(REVIEWS)]),
        "sequence-classification",
        {"text": "body", "label": "stars"},
    ),
    "csv without a header": (
        lambda f: write_csv(f / "a.csv", [{"l": i % 2, "t": r["text"]} for i, r in enumerate(REVIEWS)], header=False),
        "sequence-classification",
        {"text": 1, "label": 0},
    ),
    "csv with semicolons": (
        lambda f: write_csv(f / "a.csv", REVIEWS, delimiter=";"),
        "sequence-classification",
        {"text": "text", "label": "label"},
    ),
    "tsv of pairs": (
        lambda f: write_csv(
            f / "a.tsv",
            [
                {"sentence2": r["text_pair"], "sentence1": r["text"], "label": r["label"]}
                for r in rows_of("pairs", 60, 0)
            ],
            delimiter="\t",
            quoting=csv.QUOTE_NONE,
            quotechar=None,
        ),
        "sequence-classification",
        {"text": "sentence1", "text_pair": "sentence2", "label": "label"},
    ),
    "jsonl with numbers": (
        lambda f: write_lines(f / "a.jsonl", rows_of("regression", 60, 0)),
        "sequence-classification",
        {"text": "text", "label": "label"},
    ),
    "jsonl with several labels": (
        lambda f: write_lines(f / "a.jsonl", rows_of("multi-label", 60, 0)),
        "sequence-classification",
        {"text": "text", "label": "label"},
    ),
    "json list of words and tags": (
        lambda f: write_json(f / "a.json", rows_of("token-classification", 60, 0)),
        "token-classification",
        {"tokens": "tokens", "tags": "tags"},
    ),
    "json object": (
        lambda f: write_json(f / "a.json", {"version": 1, "of": {"rows": REVIEWS}}),
        "sequence-classification",
        {"text": "text", "label": "label"},
    ),
    "squad": (
        lambda f: write_json(f / "a.json", {"data": [article(row) for row in rows_of("question-answering", 40, 0)]}),
        "question-answering",
        {"question": "question", "context": "context", "answers": "answers", "id": "id"},
    ),
    "parquet": (
        lambda f: datasets.Dataset.from_list(REVIEWS).to_parquet(f / "a.parquet") and f / "a.parquet",
        "sequence-classification",
        {"text": "text", "label": "label"},
    ),
    "conll": (
        lambda f: write_conll(f / "a.conll", rows_of("token-classification", 60, 0)),
        "token-classification",
        {"tokens": 0, "tags": 2},
    ),
    "txt": (lambda f: write_text(f / "a.txt", [row["text"] for row in REVIEWS]), "causal-language-modeling", {}),
    "jsonl of sources and targets": (
        lambda f: write_lines(f / "a.jsonl", rows_of("sequence-to-sequence", 60, 0)),
        "sequence-to-sequence",
        {"source": "source", "target": "target"},
    ),
    "jsonl of translations": (
        lambda f: write_lines(
            f / "a.jsonl",
            [{"translation": {"en": r["source"], "fr": r["target"]}} for r in rows_of("sequence-to-sequence", 60, 0)],
        ),
        "sequence-to-sequence",
        {"source": "translation.en", "target": "translation.fr"},
    ),
}
OPTIONS = {
    "jsonl with numbers": {"problem_type": "regression"},
    "jsonl with several labels": {"problem_type": "multi_label_classification"},
}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_text(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_conll(path, rows):
    sentences = ["".join(f"{w} X {t}\n" for w, t in zip(r["tokens"], r["tags"], strict=True)) for r in rows]
    path.write_text("\n".join(sentences), encoding="utf-8")
    return path


def article(row):
    question = {
        "id": row["id"], "question": row["question"],
        "answers": [
            {"text": t, "answer_start": s}
            for t, s in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        ],
    }  # fmt: skip
    return {"title": "x", "paragraphs": [{"context": row["context"], "qas": [question]}]}


@pytest.mark.parametrize("kind", FILES)
def test_the_draft_of_a_file_is_a_recipe_that_can_be_trained(kind, tmp_path):
    write, task, columns = FILES[kind]
    recipe, text = drafted(write(tmp_path), tmp_path)
    assert (recipe.task, recipe.data.columns) == (task, columns)
    for name, value in OPTIONS.get(kind, {}).items():
        assert getattr(recipe.options, name) == value
    experiment = prepare(recipe)
    assert len(experiment.examples["train"].lengths) > len(experiment.examples["validation"].lengths) > 0
    assert len([line for line in text.splitlines() if line.strip().startswith("#")]) >= 4


def test_files_of_the_other_splits_are_found_by_their_names(tmp_path):
    for name in ("train", "dev", "test"):
        write_csv(tmp_path / f"{name}.csv", REVIEWS)
    recipe, _ = drafted(tmp_path / "train.csv", tmp_path)
    assert (recipe.data.files.validation, recipe.data.files.test) == (
        str(tmp_path / "dev.csv"),
        str(tmp_path / "test.csv"),
    )
    assert recipe.data.split is None


@pytest.mark.parametrize(
    ("words", "length", "batch_size"), [(5, 32, 32), (60, 128, 32), (150, 256, 16), (2000, 512, 8)]
)
def test_lengths_and_the_batch_size_suit_the_texts(words, length, batch_size, tmp_path):
    rows = [{"text": "word " * (words - 1) + str(i), "label": i % 2} for i in range(50)]
    recipe = load_recipe(draft_recipe(write_csv(tmp_path / "a.csv", rows), tmp_path / "draft.yaml"))
    assert (recipe.data.max_length, recipe.train.batch_size) == (length, batch_size)


def test_texts_that_are_not_english_get_a_checkpoint_of_many_languages(tmp_path):
    rows = [{"text": f"Das Frühstück war schön, Zimmer {i} kühl.", "label": i % 2} for i in range(50)]
    recipe = load_recipe(draft_recipe(write_csv(tmp_path / "a.csv", rows), tmp_path / "draft.yaml"))
    assert recipe.checkpoint == "google-bert/bert-base-multilingual-cased"


def test_rare_labels_are_pointed_out(tmp_path):
    rows = [{"text": f"a good room {i}", "label": "rare" if i < 3 else "usual"} for i in range(50)]
    text = draft_recipe(write_csv(tmp_path / "a.csv", rows), tmp_path / "draft.yaml").read_text()
    assert "# Rows of each label: usual 47, rare 3." in text and "# class_weights: balanced" in text


def test_names_and_labels_cannot_break_the_yaml(tmp_path):
    labels = ["on # x: y", "off"]
    rows = [{"no": "yes: [x", "a: b #": f"a good room # {i}", "label": labels[i % 2]} for i in range(50)]
    recipe, _ = drafted(write_csv(tmp_path / "odd: [na#me.csv", rows), tmp_path)
    assert recipe.data.columns == {"text": "a: b #", "label": "label"}
    assert recipe.name == "odd_na_me"


def test_a_recipe_that_is_there_is_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "reviews.csv", REVIEWS)
    assert execute(["init", "reviews.csv"]) == 0
    assert "make check RECIPE=reviews.yaml" in capsys.readouterr().err
    (tmp_path / "reviews.yaml").write_text("mine")
    assert execute(["init", "reviews.csv"]) == 2
    assert "reviews.yaml is there already" in capsys.readouterr().err
    assert (tmp_path / "reviews.yaml").read_text() == "mine"
    assert execute(["init", "reviews.csv", "--overwrite"]) == 0
    assert load_recipe("reviews.yaml").data.files.train == str(tmp_path / "reviews.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "is not a file"),
        ("a.docx", "x", "no suffix that says how it is read; known are: csv"),
        ("a.csv", "", "is empty"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.jsonl", "{not json\n", "line 1"),
        ("a.csv", "a,b\n1,2\n3,4\n5,6\n", "fit none of the tasks"),
    ],
)
def test_a_file_for_which_there_is_no_recipe_is_one_message(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        draft_recipe(tmp_path / name, tmp_path / "draft.yaml")
    assert not (tmp_path / "draft.yaml").exists()


HINTS = {
    "task: text-classification": 'which is called "sequence-classification" here',
    "train: {lr: 1e-4}": 'Did you mean "train.learning_rate"',
    "train: {num_train_epochs: 3}": 'Did you mean "train.epochs"',
    "train: {per_device_train_batch_size: 8}": 'Did you mean "train.batch_size"',
    "model_name_or_path: x": 'Did you mean "checkpoint"',
}


@pytest.mark.parametrize("line", HINTS)
def test_names_of_hugging_face_are_answered_with_ours(line, tmp_path):
    path = draft_recipe(write_csv(tmp_path / "a.csv", REVIEWS), tmp_path / "draft.yaml")
    key = line.partition(":")[0]
    kept, skipping = [], False
    for each in path.read_text().splitlines():
        skipping = each.startswith(f"{key}:") or (skipping and each.startswith(" "))
        kept += [] if skipping else [each]
    path.write_text("\n".join([*kept, line]))
    with pytest.raises(UserError) as raised:
        load_recipe(path)
    assert HINTS[line] in str(raised.value)
