"""What `check` returns, and the attentions that may be given as classes."""

import pytest

from pipeline import UserError
from pipeline.api import check
from pipeline.models.attention import attention_name
from pipeline.pytorch.attention import MultiHeadAttention
from pipeline.recipe.loading import LoadedRecipe, load_recipe


def test_check_returns_counts_labels_and_metrics_that_print(small):
    checked = check(small)
    assert checked.recipe == "sentiment_bert"
    assert {name: split.counts["rows"] for name, split in checked.splits.items()} == {"train": 96, "validation": 40}
    assert all(0 < split.longest[0] <= small.data.max_length for split in checked.splits.values())
    assert checked.labels == ("negative", "positive")
    assert checked.metrics == ("accuracy", "f1")
    first, *_, labels, metrics = str(checked).splitlines()
    assert first.startswith("train: 96 rows") and first.endswith(" tokens")
    assert (labels, metrics) == ("labels: negative, positive", "metrics: accuracy, f1")


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
