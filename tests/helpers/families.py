"""A small recipe for every kind of task, offline, on the bundled checkpoints and rows made here."""

import json

import numpy as np

from pipeline.recipe.overrides import RECIPES
from pipeline.recipe.schema import Recipe
from pipeline.training.experiment import prepare
from tests.helpers.marian_checkpoint import marian_of_dates

CHECKPOINTS = {"bert": "sentiment/bert", "gpt2": "stories/gpt2", "t5": "dates/t5"}


def sentences(count, seed=0):
    """Bundled reviews, in the vocabulary of the bundled BERT."""
    path = RECIPES / "bundled" / "sentiment" / ("train.jsonl" if seed == 0 else "validation.jsonl")
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()[:count]]


def rows_of(kind, count, seed):
    """Rows of a kind of task, as its fields; a function of the seed."""
    rng = np.random.default_rng(seed)
    texts = sentences(count, seed)
    if kind == "single-label":
        return [{"text": text, "label": ("bad", "good")[i % 2]} for i, text in enumerate(texts)]
    if kind == "pairs":
        return [
            {"text": a, "text_pair": b, "label": i % 3} for i, (a, b) in enumerate(zip(texts, texts[::-1], strict=True))
        ]
    if kind == "regression":
        return [{"text": text, "label": round(float(rng.uniform(0, 5)), 2)} for text in texts]
    if kind == "multi-label":
        return [
            {"text": text, "label": [["long"], ["good", "long"], [], ["good"]][i % 4]} for i, text in enumerate(texts)
        ]
    if kind == "token-classification":
        return [_tagged(text.rstrip(".!?").split(), rng) for text in texts]
    if kind == "question-answering":
        return [_question(texts[i], texts[-i - 1], rng, i) for i in range(count)]
    if kind in ("sequence-to-sequence", "translation"):
        path = RECIPES / "bundled" / "dates" / ("train.jsonl" if seed == 0 else "validation.jsonl")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]
    if kind.startswith("causal"):
        path = RECIPES / "bundled" / "stories" / ("train.jsonl" if seed == 0 else "validation.jsonl")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]
    return [{"text": text} for text in texts]


def _tagged(words, rng):
    tags = ["O"] * len(words)
    start = int(rng.integers(len(words) - 1))
    tags[start : start + 2] = ["B-THING", "I-THING"]
    tags[-1] = "B-PLACE" if tags[-1] == "O" else tags[-1]
    return {"tokens": words, "tags": tags}


def _question(first, second, rng, number):
    context = f"{first} {second}"
    words = context.split()
    start = int(rng.integers(len(words) - 2))
    begin = len(" ".join(words[:start])) + (start > 0)
    answer = " ".join(words[start : start + 2])
    assert context[begin : begin + len(answer)] == answer
    return {
        "id": f"q{number}",
        "question": "What is said of the film?",
        "context": context,
        "answers": {"text": [answer], "answer_start": [begin]},
    }


KINDS = {
    "single-label": ("sequence-classification", "bert", {}),
    "pairs": ("sequence-classification", "bert", {}),
    "gpt2 single-label": ("sequence-classification", "gpt2", {}),
    "regression": ("sequence-classification", "bert", {"problem_type": "regression"}),
    "multi-label": ("sequence-classification", "bert", {"problem_type": "multi_label_classification"}),
    "token-classification": ("token-classification", "bert", {}),
    "question-answering": ("question-answering", "bert", {"stride": 8}),
    "masked blocks": ("masked-language-modeling", "bert", {}),
    "masked words": ("masked-language-modeling", "bert", {"whole_word": True, "packing": "rows"}),
    "causal blocks": ("causal-language-modeling", "gpt2", {}),
    "causal rows": ("causal-language-modeling", "gpt2", {"packing": "rows", "max_new_tokens": 5}),
    "sequence-to-sequence": ("sequence-to-sequence", "t5", {"max_target_length": 16, "max_new_tokens": 14}),
    # As the one before, with a tokenizer that has other tokens for targets.
    "translation": ("sequence-to-sequence", "marian", {"max_target_length": 16, "max_new_tokens": 14}),
}
METRICS = {
    "gpt2 single-label": ("accuracy",),
    "sequence-to-sequence": ("exact_match", "chrf", "perplexity"),
    "translation": ("exact_match", "chrf", "perplexity"),
}


def recipe_of(kind, folder, rows=None, validation=None, num_rows=48, changes=None):
    """The recipe of a kind on rows written into `folder`."""
    task, family, options = KINDS[kind]
    for split, given, seed in (("train", rows, 0), ("validation", validation or rows, 1)):
        found = given or rows_of(kind.removeprefix("gpt2 "), num_rows if split == "train" else 16, seed)
        text = "".join(json.dumps(row) + "\n" for row in found)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    columns = {} if kind != "causal rows" else {"text": "text", "floor": "floor_nats"}
    columns |= {"text_pair": "text_pair"} if kind == "pairs" else {}
    columns |= {"id": "id"} if kind == "question-answering" else {}
    recipe = Recipe(
        name="tiny",
        task=task,
        checkpoint=str(marian_of_dates() if family == "marian" else RECIPES / "bundled" / CHECKPOINTS[family]),
        data={
            "path": "jsonl",
            "files": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")},
            "columns": columns,
            "max_length": 32 if kind != "causal rows" else 64,
        },
        train={"epochs": 1, "batch_size": 16, "learning_rate": 5e-4, "warmup_ratio": 0.0},
        metrics=METRICS.get(kind, ()),
        options=options,
    )
    return recipe.override(changes) if changes else recipe


def of_rows(kind, folder, rows, validation=None, **changes):
    """The recipe of a kind on the given rows."""
    return recipe_of(kind, folder, rows, validation, changes=changes)


def prepared(recipe, split="train"):
    """The recipe's experiment, its task, and the tokenized examples of a split."""
    experiment = prepare(recipe)
    return experiment, experiment.task, experiment.examples[split]
