"""A step on packed rows is the step on the padded batch of the same examples: same loss, same gradients."""

import numpy as np
import pytest

from tests.helpers.classifiers import framework_module, tensor
from tests.helpers.packed_batches import ALL_HEADS, HEADS, RELATIVES, learner_of, loss_and_gradients, with_dropout_keys
from tests.helpers.tiny_models import relative

# In TensorFlow, which computes these steps operation by operation, heads that differ in what 16 bits are summed over.
IN_16_BITS = [
    *(("torch", head) for head in ALL_HEADS),
    *(("tensorflow", head) for head in ("bert masked", "bert spans", "gpt2 classes", "t5", "marian")),
]
# Masks of both attentions are compared in test_dropout.py.
WITH_MASKS = [
    pytest.param(framework, head, attention, marks=pytest.mark.heavy if is_heavy else ())
    for framework in ("torch", "tensorflow")
    for head in ("bert pairs", "bert masked", "bert spans", "gpt2 classes", "gpt2 causal", "t5", "marian", *RELATIVES)
    for attention in ("stock", "handwritten")
    if attention == "stock" or head == "gpt2 causal" or (framework == "torch" and head in HEADS)
    for is_heavy in [head in RELATIVES and framework == "tensorflow"]
]
# Of BERT's relatives always those in PyTorch, and in TensorFlow the one whose attention is computed by parts.
CASES = [
    pytest.param(framework, head, attention, marks=pytest.mark.heavy if is_heavy else ())
    for framework in ("torch", "tensorflow")
    for head in ALL_HEADS
    for attention in ("stock", "handwritten")
    for is_own in [(head, attention) == ("distilbert spans", "stock")]
    for is_heavy in [head in RELATIVES and framework == "tensorflow" and not is_own]
]


@pytest.mark.parametrize(("framework", "head", "attention"), CASES)
def test_loss_and_gradients_of_packed_rows_are_those_of_the_padded_batch(framework, head, attention):
    learner = learner_of(framework, head, attention)
    (padded_loss, padded), (packed_loss, packed) = (
        loss_and_gradients(framework, learner, batch) for batch in ALL_HEADS[head][4]()
    )
    assert packed_loss == pytest.approx(padded_loss, rel=1e-6)
    assert relative(packed, padded) <= 1e-5
    total = np.sqrt(sum(np.square(gradient).sum() for gradient in padded.values()))
    for name, gradient in padded.items():
        # Of weights that the loss does not depend on, such as BERT's key bias, the gradient is rounding alone.
        if np.linalg.norm(gradient) > 1e-5 * total:
            assert relative(packed[name], gradient) <= 1e-5, name


@pytest.mark.parametrize("head", ["bert pairs", "bert masked", "bert tokens", "bert spans"])
def test_the_last_layer_of_bert_computes_only_the_tokens_that_the_head_reads(framework, head, monkeypatch):
    learner, (_, packed) = learner_of(framework, head), HEADS[head][4]()
    intermediate = learner.model.bert.encoder.layer[-1].intermediate
    method = "forward" if framework == "torch" else "call"
    compute, computed = getattr(intermediate, method), []

    def watched(hidden_states):
        computed.append(int(np.prod(hidden_states.shape[:-1])))
        return compute(hidden_states)

    monkeypatch.setattr(intermediate, method, watched)
    loss_and_gradients(framework, learner, packed)
    read = {"bert pairs": "pooled_positions", "bert masked": "loss_weights"}.get(head, "input_ids")
    counts = packed[read] > 0 if head == "bert masked" else np.ones_like(packed[read])
    # Of a masked language model a multiple of eight, if there are as many tokens.
    others = min(-counts.sum() % 8, counts.size - counts.sum()) if head == "bert masked" else 0
    assert computed == [counts.sum() + others] and (
        head in ("bert tokens", "bert spans") or counts.sum() < packed["input_ids"].size
    )


# Of 3 x 7 tokens: none with a loss, as many as make eight, more, all but one, and all.
@pytest.mark.parametrize(("num_counted", "expected"), [(0, 0), (8, 8), (9, 16), (20, 21), (21, 21)])
def test_tokens_with_a_loss_come_first_and_are_filled_up_to_a_multiple_of_eight(framework, num_counted, expected):
    weights = np.zeros(21, np.float32)
    weights[np.random.default_rng(3).permutation(21)[:num_counted]] = 0.5
    tokens_with_loss = framework_module(framework, "packed").tokens_with_loss
    tokens = np.asarray(tokens_with_loss(tensor(framework, weights.reshape(3, 7))))
    assert tokens[:num_counted].tolist() == np.flatnonzero(weights).tolist()
    assert len(tokens) == len(set(tokens.tolist())) == expected
    assert not weights[tokens[num_counted:]].any()


@pytest.mark.parametrize(("framework", "head", "attention"), WITH_MASKS)
@pytest.mark.slow
def test_with_shared_dropout_masks_they_are_those_of_the_padded_batch_too(framework, head, attention):
    learner = learner_of(framework, head, attention, dropout=0.3, dropout_masks="shared")
    (padded_loss, padded), (packed_loss, packed) = (
        loss_and_gradients(framework, learner, batch) for batch in with_dropout_keys(head)
    )
    still, _ = loss_and_gradients(framework, learner_of(framework, head, attention), ALL_HEADS[head][4]()[0])
    assert still != pytest.approx(padded_loss, rel=1e-3)
    assert packed_loss == pytest.approx(padded_loss, rel=1e-6)
    assert relative(packed, padded) <= 1e-5


@pytest.mark.parametrize(("framework", "head"), IN_16_BITS)
@pytest.mark.slow
def test_in_bf16_packed_rows_are_as_far_from_fp32_as_padded_ones(framework, head):
    padded, packed = ALL_HEADS[head][4]()
    exact_loss, exact = loss_and_gradients(framework, learner_of(framework, head), padded)
    learner = learner_of(framework, head, precision="bf16")
    (padded_loss, of_padded), (packed_loss, of_packed) = (
        loss_and_gradients(framework, learner, batch) for batch in (padded, packed)
    )
    assert padded_loss != exact_loss
    assert packed_loss == pytest.approx(padded_loss, rel=1e-2)
    assert relative(of_packed, exact) <= 2 * relative(of_padded, exact)


def steps_of(learner, batches):
    """What a learner reports of its steps on these batches."""
    reports = []
    learner.fit([batches], reports.append, lambda epoch: False)
    return reports


def with_more_padding(batch, positions, slots):
    """A packed batch in wider rows, with more empty slots for examples."""
    by_example = "pooled_positions" in batch and ("labels", "loss_weights", "pooled_positions")
    out = {}
    for key, values in batch.items():
        added = slots if by_example and key in by_example else positions
        out[key] = np.pad(values, [(0, 0), (0, added)] + [(0, 0)] * (values.ndim - 2))
    return out


@pytest.mark.parametrize("head", ["bert masked", "gpt2 causal", "marian"])
def test_a_packed_row_may_be_wider_than_the_models_longest_text(framework, head):
    padded, packed = HEADS[head][4]()
    most = learner_of(framework, head).model.config.max_position_embeddings
    wide = with_more_padding(packed, most, 0)
    for batch in (padded, wide):
        batch.pop("token_type_ids", None)
    (expected, _), (loss, _) = (
        loss_and_gradients(framework, learner_of(framework, head), batch) for batch in (padded, wide)
    )
    assert loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_padding_of_targets_beside_sources_without_padding_does_not_matter(framework, precision):
    """Such a target position has no source that it may attend to, which must not become NaN."""
    _, packed = HEADS["t5"][4]()
    narrow = packed | {key: packed[key][:, :12] for key in ("input_ids", "segment_ids")}
    assert (narrow["segment_ids"] != 0).all(axis=1).any() and (narrow["decoder_segment_ids"] == 0).any(axis=1).all()
    (expected, _), (loss, gradients) = (
        loss_and_gradients(framework, learner_of(framework, "t5", precision=precision), batch)
        for batch in (packed, narrow)
    )
    assert loss == pytest.approx(expected, rel=1e-6 if precision == "fp32" else 1e-2)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "head"),
    [
        *(("torch", head) for head in ("bert regression", "bert spans", "bert masked", "gpt2 causal", "t5", "marian")),
        *(("tensorflow", head) for head in ("bert spans", "bert masked", "gpt2 causal", "t5")),
        pytest.param("tensorflow", "marian", marks=pytest.mark.heavy),
    ],
)
def test_training_on_packed_rows_is_training_on_padded_batches(framework, head):
    padded, packed = HEADS[head][4]()
    wider, more_rows = with_more_padding(packed, 3, 2), {key: np.roll(rows, 1, axis=0) for key, rows in packed.items()}
    # In PyTorch for both frameworks: TensorFlow would trace a second graph, which takes seconds.
    expected = steps_of(learner_of("torch", head, steps=3, gradient_accumulation=2), [padded] * 3)
    # The first of two micro-batches has one row here, or two, so it has fewer slots than the batch.
    learner = learner_of(framework, head, steps=3, gradient_accumulation=2)
    actual = steps_of(learner, [packed, wider, more_rows])
    assert [step.loss for step in actual] == pytest.approx([step.loss for step in expected], rel=1e-4)
    assert [step.grad_norm for step in actual] == pytest.approx([step.grad_norm for step in expected], rel=1e-3)
    if framework == "tensorflow":  # one graph for batches of any width, number of rows and of examples in a row
        assert learner.train_function.experimental_get_tracing_count() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "head"),
    [("torch", "bert spans"), ("torch", "gpt2 causal"), ("torch", "t5"), ("tensorflow", "t5")],
)
def test_more_micro_batches_than_packed_rows_change_nothing(framework, head):
    _, packed = HEADS[head][4]()
    (expected,) = steps_of(learner_of("torch", head), [packed])
    (actual,) = steps_of(learner_of(framework, head, gradient_accumulation=8), [packed])
    assert (actual.loss, actual.grad_norm) == pytest.approx((expected.loss, expected.grad_norm), rel=1e-5)
