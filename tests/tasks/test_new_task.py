"""A task of one's own is one file and its options: nothing outside `pipeline/tasks` has to know of it.

The task here has a head that no other task has, and a mixture of outcomes, and so of metrics, that none has either.
"""

import json
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from pydantic import Field

from pipeline import UserError, finetune, predict
from pipeline.comparison.traces import record
from pipeline.data.ragged import Ragged
from pipeline.recipe.overrides import RECIPES
from pipeline.recipe.schema import Recipe
from pipeline.recipe.task_table import TASKS, Options, register_task
from pipeline.tasks.base import Examples, ScoredExample, Task
from pipeline.tasks.numerics import equal_weights, log_softmax
from pipeline.tasks.validation import text_problems
from pipeline.training.experiment import check
from tests.helpers.families import CHECKPOINTS, sentences

NAME = "next-sentence-prediction"


class NextSentencePredictionOptions(Options):
    """How sure a prediction must be."""

    threshold: float = Field(default=0.5, gt=0, lt=1)


@dataclass(frozen=True, kw_only=True)
class SentencePairs(Examples):
    """A tokenized split; `follows` [N] is 1 where the second sentence follows the first."""

    follows: np.ndarray | None = None


class NextSentencePrediction(Task[SentencePairs, ScoredExample, dict]):
    """Whether a sentence follows another one. Source: Devlin et al. 2018, section 3.1."""

    auto_class = "AutoModelForNextSentencePrediction"
    architectures = ("encoder",)
    outcomes = ("class", "token_losses")
    default_metrics = ("accuracy", "perplexity")
    examples_class = SentencePairs
    options: NextSentencePredictionOptions
    required = ("text", "next_text", "follows")
    prediction_fields = ("text", "next_text")
    labels_whole_examples = True

    def row_problems(self, split, rows):
        return [text for field in ("text", "next_text") for text in text_problems(split, field, rows)]

    def encode(self, rows):
        encoded = self.tokenizer(rows["text"][:], rows["next_text"][:], truncation=True, return_attention_mask=False)
        features = {key: Ragged.of(value) for key, value in encoded.items()}
        return SentencePairs(
            features,
            lengths=features["input_ids"].lengths,
            num_targets=np.ones(len(rows), np.int64),
            counts={"rows": len(rows)},
            follows=np.array(rows["follows"][:]) if "follows" in rows.column_names else None,
        )

    def targets(self, examples, batch):
        # In this head, class 0 says that the second sentence follows.
        labels = 1 - examples.follows[batch.rows]
        return {"labels": labels.astype(np.int32), "loss_weights": equal_weights(np.ones(labels.shape))}

    def score_batch(self, output, examples, rows):
        return [self._scored(*each) for each in zip(log_softmax(output), examples.follows[rows], strict=True)]

    def _scored(self, log_probabilities, follows):
        loss = -float(log_probabilities[1 - follows])
        says_yes = int(np.exp(log_probabilities[0]) > self.options.threshold)
        columns = {"predictions": says_yes, "references": int(follows), "loss_sums": loss, "tokens": 1}
        return ScoredExample({"prediction": says_yes, "reference": int(follows)}, columns, loss, 1)

    def decode_batch(self, output, examples, rows):
        return [{"score": float(np.exp(log_softmax(logits)[0]))} for logits in output]


@pytest.fixture(autouse=True)
def _added(monkeypatch):
    """The task as if it were a file of its folder, its options in options.py."""
    monkeypatch.setitem(sys.modules, "pipeline.tasks.next_sentence_prediction", sys.modules[__name__])
    register_task(NAME, NextSentencePredictionOptions)
    yield
    del TASKS[NAME]


def recipe_for(folder, checkpoint="bert", **changes):
    """Sixteen pairs, one step."""
    texts = sentences(17)
    rows = [{"text": texts[i], "next_text": texts[i + i % 2], "follows": i % 2} for i in range(16)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    files = {"train": str(folder / "rows.jsonl"), "validation": str(folder / "rows.jsonl")}
    return Recipe(
        name="order",
        task=NAME,
        checkpoint=str(RECIPES / "bundled" / CHECKPOINTS[checkpoint]),
        data={"path": "jsonl", "files": files, "max_length": 48},
        train={"epochs": 1, "batch_size": 16},
        **changes,
    )


@pytest.mark.slow
def test_a_new_task_trains_a_step_scores_and_predicts(framework, tmp_path):
    run = finetune(recipe_for(tmp_path), framework=framework, attention="handwritten", out=tmp_path / "run")
    assert run.record.train.steps == 1 and run.record.attention_sites > 0
    assert list(run.metrics) == ["accuracy", "perplexity", "loss"]
    assert run.metrics["perplexity"] == pytest.approx(np.exp(run.metrics["loss"]))
    config = json.loads((run.path / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["BertForNextSentencePrediction"]
    (prediction,) = predict(run, [{"text": "The food was great.", "next_text": "We will come again."}])
    assert 0 < prediction["score"] < 1


@pytest.mark.slow
def test_the_head_of_a_new_task_computes_the_same_for_packed_batches(framework, tmp_path):
    recipe = recipe_for(tmp_path)
    packed, padded = (
        record(recipe.override({"data.batching": batching}), framework, 1, dropout=False)
        for batching in ("packed", "padded")
    )
    assert packed.loss == pytest.approx(padded.loss, rel=1e-6)
    assert packed.grad_norm == pytest.approx(padded.grad_norm, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "gpt2"}, "is a gpt2; next-sentence-prediction needs one of: bert"),
        ({"metrics": ("bits_per_byte",)}, "bits_per_byte does not fit this next-sentence-prediction recipe"),
        ({"options": {"treshold": 0.4}}, 'has no key "treshold"; next-sentence-prediction has: threshold'),
    ],
)
def test_what_does_not_fit_a_new_task_is_refused_as_with_any_other(changes, message, tmp_path):
    with pytest.raises((UserError, ValueError)) as caught:
        check(recipe_for(tmp_path, **changes))
    assert message in str(caught.value)
