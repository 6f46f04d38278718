"""The metrics of a recipe: what the table says of them, which are refused, and how an evaluation is scored."""

import inspect
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from pipeline.metrics import scoring
from pipeline.metrics.base import Metric
from pipeline.metrics.classification import CLASS_IDS
from pipeline.metrics.scoring import compute_metrics, load_metrics, metric_problems
from pipeline.metrics.specs import (
    METRICS,
    MetricSpec,
    Outcome,
    is_constant,
    lower_is_better,
    metric_class,
    metric_names,
    metrics_for,
    need_probabilities,
    scale,
)
from pipeline.recipe.loading import load_recipe
from pipeline.recipe.schema import Recipe
from pipeline.recipe.task_table import TASKS
from pipeline.tasks.base import load_task
from pipeline.utils.errors import UserError
from tests.helpers.metric_examples import MAKERS, two_classes

# What the metrics of each outcome read, if every prediction is right and certain.
PERFECT = {
    "class": {"predictions": [0, 1, 1], "references": [0, 1, 1], "scores": [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]},
    "labels": {"predictions": [[1, 0], [0, 1]], "references": [[1, 0], [0, 1]], "scores": [[1.0, 0.0], [0.0, 1.0]]},
    "number": {"predictions": [1.0, 2.5, 4.0], "references": [1.0, 2.5, 4.0]},
    "tags": {"predictions": [["B-x", "O"]], "references": [["B-x", "O"]]},
    "answer": {"predictions": ["a cat"], "references": [["dog", "cat"]]},
    "text": {"predictions": ["the cat sat on the mat"], "references": [["the cat sat on the mat"]]},
    "token_losses": {"loss_sums": [0.0, 0.0], "tokens": [2, 3]},
    "token_bytes": {"loss_sums": [0.0], "tokens": [2], "bytes": [7]},
    "loss_floor": {"tokens": [2], "floor_nats": [0.0]},
    "hidden_tokens": {"tokens": [2, 3], "correct": [2, 3]},
}
FITTING = [(name, outcome) for name, spec in METRICS.items() for outcome in spec.reads]


@dataclass(frozen=True)
class Example:
    """One scored example, as a task hands it over."""

    columns: dict
    loss: float = 0.0
    num_targets: int = 1


def examples_of(columns, losses=None):
    """The examples of these columns, one after the other."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [Example(row, loss) for row, loss in zip(rows, losses or [0.0] * len(rows), strict=True)]


@pytest.mark.parametrize(("name", "outcome"), FITTING)
def test_a_perfect_model_has_the_best_value_of_the_scale(name, outcome):
    values = compute_metrics(load_metrics((name,)), examples_of(PERFECT[outcome]))
    best = {"perplexity": 1.0, "perplexity_floor": 1.0, "bits_per_byte": 0.0, "mse": 0.0}
    assert values[name] == pytest.approx(scale(name) or best[name])
    assert lower_is_better(name) == (name in best)


@pytest.mark.parametrize("name", metric_names())
def test_a_card_holds_the_description_the_source_and_the_columns(name):
    metric = load_metrics((name,))[name]
    assert metric.description == inspect.getdoc(metric_class(name)) != inspect.getdoc(metric_class(name).__base__)
    assert metric.citation and metric.inputs_description
    features = metric.features if isinstance(metric.features, list) else [metric.features]
    assert all(f"{column}" in metric.inputs_description for each in features for column in each)


# The words of recipes/README.md for the tasks, and for the three problems of sequence classification.
PROBLEMS = {
    "single-label": ("sequence-classification", "single_label_classification"),
    "multi-label": ("sequence-classification", "multi_label_classification"),
    "regression": ("sequence-classification", "regression"),
    "tokens": ("token-classification", None),
    "questions": ("question-answering", None),
    "causal": ("causal-language-modeling", None),
    "masked": ("masked-language-modeling", None),
    "seq2seq": ("sequence-to-sequence", None),
}


def task_for(problem):
    """The task of a recipe for a problem, before it has read any file."""
    name, problem_type = PROBLEMS[problem]
    values = {"name": "x", "task": name, "checkpoint": "x", "options": problem_type and {"problem_type": problem_type}}
    data = {"path": "json", "files": {"train": "a.json", "validation": "b.json"}}
    return load_task(Recipe.model_validate(values | {"data": data}))


def test_every_problem_has_metrics_to_choose_from_and_some_by_default():
    expected = {
        "single-label": ("accuracy",),
        "multi-label": ("f1_micro",),
        "regression": ("pearson",),
        "tokens": ("seqeval_f1", "seqeval_precision", "seqeval_recall"),
        "questions": ("squad_f1", "squad_exact_match"),
        "causal": ("perplexity", "bits_per_byte"),
        "masked": ("perplexity", "masked_accuracy"),
        "seq2seq": ("sacrebleu", "chrf"),
    }
    assert {problem: task_for(problem).default_metrics for problem in PROBLEMS} == expected
    assert {name for name, _ in PROBLEMS.values()} == set(TASKS)
    for problem, names in expected.items():
        assert set(names) <= set(task_for(problem).metrics)


def test_every_outcome_is_given_by_a_task_and_read_by_a_metric():
    given = {outcome for problem in PROBLEMS for outcome in task_for(problem).outcomes}
    assert set(get_args(Outcome)) == given == {outcome for _, outcome in FITTING} == set(PERFECT) == set(MAKERS)


class Kappa(Metric):
    """Cohen's kappa of predicted and true classes, -1 to 1."""

    source = "Cohen 1960, A coefficient of agreement for nominal scales"
    inputs = CLASS_IDS

    def _compute(self, predictions, references):
        return {"kappa": float(cohen_kappa_score(predictions, references))}


def test_a_new_metric_is_its_class_and_its_row_and_fits_every_task_that_gives_what_it_reads(monkeypatch):
    monkeypatch.setitem(sys.modules, "pipeline.metrics.agreement", SimpleNamespace(Kappa=Kappa))
    monkeypatch.setitem(METRICS, "kappa", MetricSpec("agreement:Kappa", ("class",)))
    assert [problem for problem in PROBLEMS if "kappa" in task_for(problem).metrics] == ["single-label"]
    examples = examples_of({"predictions": [0, 0, 1, 1], "references": [0, 1, 1, 1]})
    # Three of four agree, two by chance: (3 - 2) / (4 - 2).
    assert compute_metrics(load_metrics(("kappa",)), examples)["kappa"] == pytest.approx(0.5)


def test_the_readme_of_recipes_lists_every_metric_as_the_tasks_have_it():
    text = (Path(__file__).resolve().parents[2] / "recipes" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \| (higher|lower) \| (.*) \|$", text, flags=re.M)
    assert sorted(name for name, *_ in rows) == metric_names()
    for name, span, better, problems in rows:
        words = problems.split(", ")
        assert scale(name) == (int(span.split(" to ")[1]) if " to " in span else None), name
        assert lower_is_better(name) == (better == "lower"), name
        assert {word.strip("*") for word in words} == {p for p in PROBLEMS if name in task_for(p).metrics}, name
        by_default = {word.strip("*") for word in words if "**" in word}
        assert by_default == {p for p in PROBLEMS if name in task_for(p).default_metrics}, name


def test_what_the_table_says_of_a_metric_holds_for_its_parts_and_nothing_holds_for_unknown_ones():
    assert (scale("seqeval_f1.person"), lower_is_better("seqeval_f1.person")) == (1, False)
    assert (scale("anything"), lower_is_better("anything"), is_constant("anything")) == (None, False, False)
    assert (scale("loss"), lower_is_better("loss"), is_constant("loss")) == (None, True, False)
    assert [name for name in METRICS if is_constant(name)] == ["perplexity_floor"]
    assert need_probabilities(["accuracy", "roc_auc"]) and need_probabilities(["hub:anything@1"])
    assert not need_probabilities(["accuracy", "f1"]) and "loss" not in metric_names()


def problems(names, num_labels=2, allow_hub_code=False, **train):
    """What is wrong with these metrics for a classification of so many labels."""
    recipe = load_recipe("sentiment_bert", {f"train.{key}": value for key, value in train.items()})
    fitting = metrics_for(("class",))
    return metric_problems(recipe, names, fitting, num_labels, allow_hub_code)


@pytest.mark.parametrize(
    ("names", "settings", "expected"),
    [
        (("acuracy",), {}, 'there is no metric "acuracy". Did you mean "accuracy"? Known: accuracy, bits_per_byte, '),
        (("loss",), {}, 'there is no metric "loss"'),
        (("mse",), {}, "mse does not fit this sequence-classification recipe; these do: accuracy, f1, "),
        (("accuracy", "recall"), {"num_labels": 3}, "recall is for two labels, but the data has 3; use f1_macro"),
        (("hub:x",), {"allow_hub_code": True}, '"hub:x" has no revision; write hub:NAME@REVISION'),
        (("hub:x@1",), {}, '"hub:x@1" runs code from the Hub; allow it with allow_hub_code=True'),
        (("hub:x@1",), {"allow_hub_code": True, "keep": "best"}, "and hub:x@1 cannot; name another one in train.keep"),
        (
            ("accuracy",),
            {"keep": "best", "keep_metric": "f1"},
            'train.keep_metric is "f1", but the recipe has: accuracy',
        ),
    ],
)
def test_a_metric_that_cannot_be_scored_is_refused_with_the_way_out(names, settings, expected):
    (problem,) = problems(names, **settings)
    assert expected in problem


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (("accuracy", "f1"), {}),
        (("accuracy", "f1_macro"), {"num_labels": 3}),
        (("accuracy",), {"keep": "best", "keep_metric": "loss"}),
        (("hub:x@1",), {"allow_hub_code": True}),
        (("hub:x@1", "f1"), {"allow_hub_code": True, "keep": "best", "keep_metric": "f1"}),
    ],
)
def test_metrics_that_can_be_scored_are_not_refused(names, settings):
    assert problems(names, **settings) == []


def test_a_metric_of_the_hub_that_fails_to_load_is_an_error_with_its_name():
    with pytest.raises(UserError, match="metrics: hub:no-such/metric@1 cannot be loaded: "):
        load_metrics(("hub:no-such/metric@1",))


def test_many_examples_are_scored_in_several_portions_with_the_same_result(monkeypatch):
    columns = two_classes(np.random.default_rng(4)).columns
    examples = examples_of(columns, losses=list(range(len(columns["references"]))))
    whole = compute_metrics(load_metrics(("accuracy", "f1", "roc_auc")), examples)
    monkeypatch.setattr(scoring, "EXAMPLES_AT_ONCE", 7)
    assert compute_metrics(load_metrics(("accuracy", "f1", "roc_auc")), examples) == whole
    agree = [a == b for a, b in zip(columns["predictions"], columns["references"], strict=True)]
    assert whole["accuracy"] == sum(agree) / len(agree)
    assert list(whole) == ["accuracy", "f1", "roc_auc", "loss"] and whole["loss"] == (len(examples) - 1) / 2


def test_the_values_of_a_metric_that_are_no_numbers_are_left_out():
    class FromTheHub:
        features = {"predictions": None}

        def add_batch(self, predictions):
            self.seen = predictions

        def compute(self):
            return {"score": np.float32(0.5), "count": len(self.seen), "table": [1, 2], "name": "x", "none": None}

    values = compute_metrics({"hub:x@1": FromTheHub()}, examples_of({"predictions": [1, 2], "other": [3, 4]}))
    assert values == {"score": 0.5, "count": 2.0, "loss": 0.0}


@pytest.mark.slow
def test_a_recipe_is_checked_without_importing_the_libraries_of_metrics_and_figures():
    heavy = ["evaluate", "sklearn", "scipy", "sacrebleu", "seqeval", "rouge_score"]
    code = (
        "import sys, pipeline.metrics.scoring, pipeline.metrics.specs\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
        "import pipeline.metrics.classification\n"
        "print([name for name in ('transformers.pipelines', 'tensorflow') if name in sys.modules])\n"
        "import pipeline.api\n"
        "print([name for name in ('matplotlib', 'tensorflow') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n") == ["[]", "[]", "[]", ""]
