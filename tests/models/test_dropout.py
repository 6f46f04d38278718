"""Keys of tokens, from which the dropout masks of both frameworks are computed."""

import numpy as np
import pytest

from pipeline import load_recipe
from pipeline.models.dropout import num_dropped, scale_of_kept, token_keys
from pipeline.training.experiment import prepare
from tests.helpers.dropout_reference import token_key
from tests.helpers.families import recipe_of


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("step", [0, 7, 10**6])
def test_keys_are_those_of_the_reference(seed, step):
    examples, positions = np.array([[0], [3], [2**17]]), np.arange(5)[None]
    actual = token_keys(seed, step, examples, positions)
    expected = [[token_key(seed, step, int(e), p) for p in range(5)] for e in examples[:, 0]]
    assert actual.dtype == np.int32 and (actual.view(np.uint32) == expected).all()


def test_no_two_tokens_of_a_step_have_the_same_key():
    keys = token_keys(3, 11, np.arange(97)[:, None], np.arange(1031)[None])
    assert len(np.unique(keys)) == keys.size


def test_other_steps_and_seeds_have_other_keys():
    keys = {
        key
        for seed in range(11)
        for step in range(101)
        for key in token_keys(seed, step, np.arange(2)[:, None], np.arange(3)[None]).ravel().tolist()
    }
    assert len(keys) == 11 * 101 * 2 * 3


@pytest.mark.parametrize(
    ("rate", "dropped", "scale"), [(0.0, 0, 1.0), (1e-7, 0, 1.0), (0.1, 6554, 65536 / 58982), (1.0, 65536, 0.0)]
)
def test_a_rate_is_a_share_of_65536_numbers(rate, dropped, scale):
    assert (num_dropped(rate), scale_of_kept(rate)) == (dropped, scale)


@pytest.mark.parametrize("kind", ["single-label", "sequence-to-sequence"])
def test_a_batch_carries_the_keys_of_its_step(kind, tmp_path):
    experiment = prepare(recipe_of(kind, tmp_path, changes={"data.batching": "padded"}))
    plan = experiment.training_plan(epoch=1, seed=5)
    first, second = list(experiment.features(plan[:2], epoch=1, seed=5, first_step=3))
    names = {"dropout_keys": "input_ids"} | ({"decoder_dropout_keys": "decoder_input_ids"} if "seq" in kind else {})
    for step, features in ((3, first), (4, second)):
        assert {name for name in features if name.endswith("dropout_keys")} == set(names)
        for name, ids in names.items():
            assert features[name].shape == features[ids].shape
            assert int(features[name][1, 2]) % 2**32 == token_key(5, step, 1, 2)


def test_batches_carry_no_keys_if_each_framework_draws_its_own():
    experiment = prepare(load_recipe("sentiment_bert", {"train.dropout_masks": "framework", "data.limit.train": 32}))
    (features,) = experiment.features(experiment.training_plan(0, 0), 0, 0, 0)
    assert not [name for name in features if "dropout" in name]
