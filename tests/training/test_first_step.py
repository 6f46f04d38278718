"""What `check` finds before a run: contradictions by name, and one step on the largest batch."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import check
from pipeline.training.experiment import prepare
from pipeline.training.first_step import FirstStep
from pipeline.utils.errors import UserError
from tests.helpers.checkpoints import changed_checkpoint
from tests.helpers.families import recipe_of


def one_row(ending):
    """Keep the first row of the weight whose name ends so."""
    return lambda weights: {name: w[:1].copy() if name.endswith(ending) else w for name, w in weights.items()}


ONE_TYPE = dict(config={"type_vocab_size": 1}, weights=one_row("token_type_embeddings.weight"))
# A tokenizer class of a family has the family's special tokens by default.
PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast"}
NO_PADDING = "neither a pad_token nor an eos_token that could pad; name one of its tokens in tokenizer_config.json"
CONTRADICTIONS = {
    "BERT without a pad token": ("single-label", dict(tokenizer=PLAIN | {"pad_token": None}), NO_PADDING),
    "GPT-2 without an end token": ("gpt2 single-label", dict(tokenizer=PLAIN | {"eos_token": None}), NO_PADDING),
    "one token type for pairs": ("pairs", ONE_TYPE, r"has 1 token type \(type_vocab_size\), but each row is a pair"),
    "one token type for questions": ("question-answering", ONE_TYPE, "has 1 token type"),
    "a T5 without a first token": (
        "sequence-to-sequence",
        dict(config={"decoder_start_token_id": None}),
        "config.json has no decoder_start_token_id, with which each text that it writes begins; add it",
    ),
}


@pytest.mark.parametrize(("kind", "changes", "message"), CONTRADICTIONS.values(), ids=list(CONTRADICTIONS))
def test_a_checkpoint_that_cannot_take_a_step_is_refused_with_the_remedy(kind, changes, message, tmp_path):
    recipe = changed_checkpoint(recipe_of(kind, tmp_path), tmp_path / "checkpoint", **changes)
    with pytest.raises(UserError, match=message):
        prepare(recipe)


def test_token_ids_beyond_the_embeddings_are_counted_with_their_gaps(tmp_path):
    recipe = changed_checkpoint(recipe_of("single-label", tmp_path), tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    # One token gets the number 9999; there are no more tokens than before.
    last = max(prepare(recipe).tokenizer.get_vocab().values())
    assert text.count(f": {last}") == 1
    file.write_text(text.replace(f": {last}", ": 9999"), encoding="utf-8")
    with pytest.raises(UserError, match="its tokenizer has 10000 tokens, but the model only"):
        prepare(recipe)


def test_a_checkpoint_saved_to_answer_in_tuples_is_trained_like_any_other(tmp_path):
    settings = {"return_dict": False, "torchscript": True, "output_attentions": True, "output_hidden_states": True}
    recipe = recipe_of("single-label", tmp_path)
    expected = check(recipe).first_step.loss
    assert check(changed_checkpoint(recipe, tmp_path / "tuples", config=settings)).first_step.loss == expected


def test_a_model_that_cannot_be_built_is_explained(framework, tmp_path):
    recipe = changed_checkpoint(
        recipe_of("single-label", tmp_path), tmp_path / "checkpoint", config={"hidden_act": "no such function"}
    )
    with pytest.raises(UserError, match=r'of type "bert" cannot be built in \w+ from this config.json: .*no such func'):
        check(recipe, framework)


@pytest.mark.slow
def test_the_largest_batch_is_tried_and_counted(framework, tmp_path):
    recipe = recipe_of("single-label", tmp_path, changes={"train.batch_size": 6, "train.gradient_accumulation": 2})
    step = check(recipe, framework).first_step
    lengths = prepare(recipe).examples["train"].lengths
    assert step.examples == 6
    assert step.micro_batches == 2
    # At most as wide as the longest text, and no batch is smaller than its own tokens.
    assert 6 * np.mean(lengths) <= step.positions <= 6 * 32
    assert step.loss == pytest.approx(np.log(2), abs=0.2)


def test_what_a_step_took_is_said_in_one_line():
    assert str(FirstStep(1, 41, 0.25, 0.7, 1)) == (
        "largest batch: 1 example, 41 positions; forward and backward took 0.2 s"
    )
    assert "forward and backward in 4 micro-batches took" in str(FirstStep(32, 4100, 0.25, 0.7, 4))


@pytest.mark.slow
def test_weights_in_bfloat16_start_where_the_same_numbers_in_32_bits_do(framework, tmp_path):
    recipe = recipe_of("single-label", tmp_path)
    losses = []
    for dtype in (torch.bfloat16, torch.float32):
        changed = changed_checkpoint(recipe, tmp_path / str(dtype))
        file = tmp_path / str(dtype) / "model.safetensors"
        rounded = {name: weight.to(torch.bfloat16).to(dtype) for name, weight in load_file(file).items()}
        save_file(rounded, file)
        losses.append(check(changed, framework).first_step.loss)
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_weights_that_are_no_numbers_are_refused_before_training(framework, tmp_path):
    def damaged(weights):
        weights["bert.encoder.layer.0.output.dense.weight"][3, 5] = np.nan
        return weights

    recipe = changed_checkpoint(recipe_of("single-label", tmp_path), tmp_path / "checkpoint", weights=damaged)
    with pytest.raises(UserError, match="the loss is nan before any training, on the largest batch"):
        check(recipe, framework)


def test_a_step_that_fails_for_another_reason_is_explained(tmp_path):
    # The library divides each text into chunks of this many tokens, which must come out even.
    recipe = changed_checkpoint(
        recipe_of("single-label", tmp_path), tmp_path / "checkpoint", config={"chunk_size_feed_forward": 47}
    )
    with pytest.raises(
        UserError, match=r"the first step fails on the largest batch \(16 examples.*do not fit together"
    ):
        check(recipe)
