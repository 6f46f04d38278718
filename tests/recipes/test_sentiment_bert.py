"""The recipe sentiment_bert in full: close to its ceiling, above a bag of words, and alike in both frameworks."""

import functools
import json

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import finetune, load_recipe
from recipes.bundled.sentiment.grammar import noise_ceiling
from tests.helpers.marks import heavy_in_tensorflow

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def accuracy(tmp_path_factory):
    """Gives the validation accuracy of the unmodified recipe in a framework, trained once."""
    folder, recipe = tmp_path_factory.mktemp("sentiment"), load_recipe("sentiment_bert")

    @functools.cache
    def trained(framework):
        return finetune(recipe, framework, out=folder / framework).metrics["accuracy"]

    return trained


@heavy_in_tensorflow
def test_the_recipe_comes_near_the_noise_ceiling(accuracy, framework):
    assert noise_ceiling() - 0.06 <= accuracy(framework) < 1.0


def test_tensorflow_learns_it_as_pytorch_does(tmp_path):
    """In one epoch of half the rows, which is enough to be above a bag of words of all of them."""
    recipe = load_recipe("sentiment_bert", {"train.epochs": 1, "data.limit.train": 2000})
    found = [finetune(recipe, each, out=tmp_path / each).metrics["accuracy"] for each in ("torch", "tensorflow")]
    assert min(found) >= 0.72 and abs(found[0] - found[1]) <= 0.02


@pytest.mark.heavy
def test_the_frameworks_end_within_two_points(accuracy):
    assert abs(accuracy("torch") - accuracy("tensorflow")) <= 0.02


def test_word_order_matters(accuracy):
    """A bag of words stays at least eight points below."""
    files = load_recipe("sentiment_bert").data.files
    texts, labels = {}, {}
    for split in ("train", "validation"):
        with open(getattr(files, split), encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        texts[split], labels[split] = [row["text"] for row in rows], [row["label"] for row in rows]
    bag = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)).fit(texts["train"], labels["train"])
    assert bag.score(texts["validation"], labels["validation"]) <= accuracy("torch") - 0.08
