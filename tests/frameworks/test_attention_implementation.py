"""`train.attention_implementation`: what is asked for computes the stock attention in PyTorch, and is recorded."""

import numpy as np
import pytest
import torch
from transformers import T5PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline import finetune, load_run, predict
from pipeline.api import check, lockstep
from pipeline.pytorch.library import AttentionCalls
from pipeline.recipe.loading import load_recipe
from pipeline.utils.errors import UserError
from tests.frameworks.test_packed import steps_of, with_more_padding
from tests.helpers.families import recipe_of
from tests.helpers.packed_batches import HEADS, learner_of, loss_and_gradients, with_dropout_keys
from tests.helpers.tiny_models import SITES, relative

KEY = "train.attention_implementation"
# A head of each family that has fused attention. T5 got it in version 5 of transformers.
FUSED = ["bert pairs", "gpt2 causal", "marian"]
WITH_SDPA = [*FUSED, *(["t5"] if getattr(T5PreTrainedModel, "_supports_sdpa", False) else [])]


def with_fused_calls(function, *arguments):
    """What a function returns, and how often PyTorch computed fused attention in it, as its profiler saw."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        result = function(*arguments)
    events = {event.key: event.count for event in profile.key_averages()}
    return result, events.get("aten::scaled_dot_product_attention", 0)


@pytest.mark.parametrize(
    ("head", "implementation"),
    [*((head, "eager") for head in (*FUSED, "t5")), *((head, "sdpa") for head in WITH_SDPA)],
)
def test_what_is_asked_for_computes_packed_and_padded_batches_and_gives_the_same(head, implementation):
    family, expected = HEADS[head][0], learner_of("torch", head)
    learner = learner_of("torch", head, attention_implementation=implementation)
    for batch in HEADS[head][4]():
        loss, gradients = loss_and_gradients("torch", expected, dict(batch))
        (actual_loss, actual), calls = with_fused_calls(loss_and_gradients, "torch", learner, dict(batch))
        assert calls == (SITES[family] if implementation == "sdpa" else 0)
        assert actual_loss == pytest.approx(loss, rel=1e-6)
        assert relative(actual, gradients) <= 1e-5
    assert learner.attention_implementation == implementation


@pytest.mark.parametrize("head", [*FUSED, "t5"])
def test_what_computes_it_without_asking_is_recorded_too(head):
    usual = "eager" if head == "t5" else "sdpa"
    (report,) = steps_of(learner_of("torch", head), [HEADS[head][4]()[1]])
    assert report.attention_implementation == usual
    # To drop attention weights by shared masks they are computed.
    (report,) = steps_of(learner_of("torch", head, dropout=0.1), [with_dropout_keys(head)[1]])
    assert report.attention_implementation == ("eager" if head == "t5" else "unfused sdpa")
    (report,) = steps_of(learner_of("torch", head, dropout=0.1, dropout_masks="framework"), [HEADS[head][4]()[1]])
    assert report.attention_implementation == usual
    (report,) = steps_of(learner_of("torch", head, "handwritten"), [HEADS[head][4]()[1]])
    assert report.attention_implementation is None


@pytest.mark.parametrize("head", FUSED)
def test_fused_attention_that_shared_masks_would_undo_is_refused(head):
    learner = learner_of("torch", head, dropout=0.1, attention_implementation="sdpa")
    with pytest.raises(UserError, match="is sdpa, but unfused sdpa computes the attention.*Set train.dropout_masks to"):
        steps_of(learner, [with_dropout_keys(head)[1]])
    eager = learner_of("torch", head, dropout=0.1, attention_implementation="eager")
    (report,) = steps_of(eager, [with_dropout_keys(head)[1]])
    (usual,) = steps_of(learner_of("torch", head, dropout=0.1), [with_dropout_keys(head)[1]])
    assert report.attention_implementation == "eager"
    assert report.loss == pytest.approx(usual.loss, rel=1e-6)
    assert report.grad_norm == pytest.approx(usual.grad_norm, rel=1e-5)


def test_eager_attention_takes_packed_rows_that_are_wider_than_the_longest_text():
    padded, packed = HEADS["gpt2 causal"][4]()
    learner = learner_of("torch", "gpt2 causal", attention_implementation="eager")
    wide = with_more_padding(packed, learner.model.config.max_position_embeddings, 0)
    expected, _ = loss_and_gradients("torch", learner, padded)
    assert loss_and_gradients("torch", learner, wide)[0] == pytest.approx(expected, rel=1e-6)


def test_calls_of_flash_attention_are_counted_and_it_stays_as_it_was(monkeypatch):
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", lambda x: x + 1)
    with AttentionCalls() as calls:
        assert [ALL_ATTENTION_FUNCTIONS["flash_attention_2"](x) for x in (1, 2)] == [2, 3]
    assert ALL_ATTENTION_FUNCTIONS["flash_attention_2"](3) == 4
    assert calls.implementation(unfused=0, sites=2) == "flash_attention_2"
    assert calls.implementation(unfused=0, sites=3) == "flash_attention_2 and eager"


def test_a_run_records_it_and_predicts_in_any_way(tmp_path):
    recipe = recipe_of("single-label", tmp_path, changes={KEY: "eager", "data.limit.validation": 4})
    run = finetune(recipe, out=tmp_path / "run", quiet=True)
    assert run.record.train.attention_implementation == "eager"
    assert load_run(run.path).directory.recipe().train.attention_implementation == "eager"
    assert len(list(predict(run, ["a text"]))) == 1


def test_a_recipe_without_the_key_is_the_same_experiment_as_before():
    recipe = load_recipe("sentiment_bert")
    assert "attention_implementation" not in recipe.experiment()["train"]
    assert recipe.override({KEY: "sdpa"}).digest() != recipe.digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({KEY: "flash"}, f'{KEY} is "flash", but must be .*flash_attention_2'),
        ({KEY: "flash_attention_2"}, "computes in 16 bits: set .*precision to bf16"),
        (
            {KEY: "flash_attention_2", "train.precision": "bf16"},
            "the examples of a packed row apart: set data.batching",
        ),
        ({"train.attn_implementation": "sdpa"}, f'Did you mean "{KEY}"'),
    ],
    ids=["unknown", "fp32", "packed", "name in transformers"],
)
def test_what_it_cannot_be_is_refused_when_the_recipe_is_read(changes, message):
    with pytest.raises(UserError, match=message):
        load_recipe("sentiment_bert", changes)


FLASH = {KEY: "flash_attention_2", "train.precision": "bf16", "data.batching": "padded"}


@pytest.mark.parametrize(
    ("kind", "changes", "attention", "message"),
    [
        (
            "single-label",
            {KEY: "sdpa"},
            "handwritten",
            "says how the stock attention is computed",
        ),
        ("sequence-to-sequence", FLASH, "stock", "which T5ForConditionalGeneration does not have in transformers"),
        ("gpt2 single-label", FLASH, "stock", "which needs a GPU and the package flash-attn"),
    ],
    ids=["handwritten", "no such attention", "no GPU"],
)
def test_what_the_model_or_the_machine_cannot_compute_is_refused_by_name(kind, changes, attention, message, tmp_path):
    with pytest.raises(UserError, match=f'{KEY} is "{changes[KEY]}".*{message}'):
        check(recipe_of(kind, tmp_path, changes=changes), attention=attention)


def test_tensorflow_has_one_and_refuses_all_names(tmp_path):
    with pytest.raises(UserError, match=f'{KEY} is "eager", but the library has several implementations in PyTorch'):
        check(recipe_of("single-label", tmp_path, changes={KEY: "eager"}), framework="tensorflow")


@pytest.mark.heavy
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_lock_step_holds_with_each(implementation, tmp_path):
    recipe = recipe_of("single-label", tmp_path, changes={KEY: implementation, "train.dropout": 0.0})
    report = lockstep(recipe, steps=3)
    assert report.same and np.all(report.loss_by_step <= 1e-6)
