"""What `check` returns, and the attentions that may be given as classes."""

import pytest

from pipeline import UserError
from pipeline.api import check, compare, report
from pipeline.comparison import run_matrix
from pipeline.models.attention import attention_name
from pipeline.pytorch.attention import MultiHeadAttention
from pipeline.recipe.loading import LoadedRecipe, load_recipe
from pipeline.reporting import writer
from tests.helpers.run_writer import write_run


def test_check_returns_counts_labels_and_metrics_that_print(small):
    checked = check(small)
    assert checked.recipe == "sentiment_bert"
    assert {name: split.counts["rows"] for name, split in checked.splits.items()} == {"train": 96, "validation": 40}
    assert all(0 < split.longest[0] <= small.data.max_length for split in checked.splits.values())
    assert checked.labels == ("negative", "positive")
    assert checked.metrics == ("accuracy", "f1")
    first, *_, labels, metrics, weights, step = str(checked).splitlines()
    assert first.startswith("train: 96 rows") and first.endswith(" tokens")
    assert (labels, metrics) == ("labels: negative, positive", "metrics: accuracy, f1")
    assert weights.startswith("weights: 53 from the checkpoint; new: ") and "classifier.weight" in weights
    assert step.startswith("largest batch: 32 examples, ")


def test_a_recipe_may_be_an_object_a_name_or_a_path(small, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(small.to_yaml(), encoding="utf-8")
    assert LoadedRecipe.of(path).recipe == small
    assert LoadedRecipe.of(str(path)).arguments == (str(path),)
    by_name = LoadedRecipe.of("sentiment_bert")
    assert by_name.recipe == by_name.original == load_recipe("sentiment_bert")
    loaded = LoadedRecipe.of(small)
    assert (loaded.recipe, loaded.original, loaded.arguments) == (small, by_name.original, None)
    assert LoadedRecipe.of(loaded) is loaded


def test_an_attention_may_be_a_class_that_other_processes_can_import():
    assert attention_name("handwritten") == "handwritten"
    assert attention_name(MultiHeadAttention) == "pipeline.pytorch.attention:MultiHeadAttention"
    of_a_script = type("Mine", (), {"__module__": "__main__"})
    with pytest.raises(UserError, match="attention is the class Mine of __main__, which other processes cannot import"):
        attention_name(of_a_script)

    class Inside:
        pass

    with pytest.raises(UserError, match="put it at the top level of a module"):
        attention_name(Inside)


class NotReached(Exception):
    """Ends a comparison where a test has seen enough."""


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """Compares without running anything; returns what would be run, and the folder of the report."""
    monkeypatch.chdir(tmp_path)
    folders = []
    monkeypatch.setattr(writer, "refuse_unless_report", folders.append)

    def stop(runs, *_):
        raise NotReached(runs)

    monkeypatch.setattr(run_matrix, "check", stop)

    def plan(*arguments, **choice):
        with pytest.raises(NotReached) as caught:
            compare(*arguments, **choice)
        return [(run.framework, run.attention, run.seed) for run in caught.value.args[0]], str(folders[-1])

    return plan


def test_a_single_framework_attention_or_seed_may_be_given_as_it_is(planned):
    runs, _ = planned("sentiment_bert", frameworks="torch", attentions="handwritten", seeds=0)
    assert runs == [("torch", "handwritten", 0)]
    runs, _ = planned("sentiment_bert", frameworks="torch", attentions=MultiHeadAttention, seeds=(5,))
    assert runs == [("torch", "pipeline.pytorch.attention:MultiHeadAttention", 5)]


def test_a_comparison_with_overrides_has_a_report_of_its_own(planned, small):
    assert planned("sentiment_bert")[1] == "reports/sentiment_bert"
    assert planned(small)[1] == planned(LoadedRecipe(small, load_recipe("sentiment_bert")))[1]
    assert planned(small)[1] == f"reports/sentiment_bert-{small.digest()}"
    assert planned(load_recipe("sentiment_bert", {"margin": 0.5}))[1] == "reports/sentiment_bert"
    assert planned(small, out="mine")[1] == "mine"


def test_a_report_on_runs_with_overrides_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"train.epochs": 1}
    digest = load_recipe("sentiment_bert", settings).digest()
    folders = [write_run(tmp_path / f"{i}-{digest}", seed=i, settings=settings) for i in (0, 1)]
    assert str(report(folders).path) == f"reports/sentiment_bert-{digest}"
    elsewhere = [write_run(tmp_path / f"mine{i}", seed=i, settings=settings) for i in (0, 1)]
    assert str(report(elsewhere).path) == "reports/sentiment_bert"


def test_a_report_on_one_directory_says_that_it_needs_two():
    with pytest.raises(UserError, match="a report needs two or more run directories, but got 1"):
        report("runs/mine")
