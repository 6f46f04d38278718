"""The recipe sentiment_bert in full: close to its ceiling, above a bag of words, and alike in both frameworks."""

import json

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import finetune, load_recipe
from recipes.bundled.sentiment.grammar import noise_ceiling

FRAMEWORKS = ("torch", "tensorflow")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def accuracy(tmp_path_factory):
    """Validation accuracy of the unmodified recipe, by framework."""
    folder = tmp_path_factory.mktemp("sentiment")
    recipe = load_recipe("sentiment_bert")
    return {f: finetune(recipe, framework=f, out=folder / f).metrics["accuracy"] for f in FRAMEWORKS}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_recipe_comes_near_the_noise_ceiling(accuracy, framework):
    assert noise_ceiling() - 0.06 <= accuracy[framework] < 1.0


def test_the_frameworks_end_within_two_points(accuracy):
    assert abs(accuracy["torch"] - accuracy["tensorflow"]) <= 0.02


def test_word_order_matters(accuracy):
    """A bag of words stays at least eight points below."""
    files = load_recipe("sentiment_bert").data.files
    texts, labels = {}, {}
    for split in ("train", "validation"):
        with open(getattr(files, split), encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        texts[split], labels[split] = [row["text"] for row in rows], [row["label"] for row in rows]
    bag = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)).fit(texts["train"], labels["train"])
    assert bag.score(texts["validation"], labels["validation"]) <= min(accuracy.values()) - 0.08
