"""Ranks that would not train the same run are refused before the first step, with who differs in what."""

import dataclasses

import numpy as np
import pytest

from pipeline import finetune
from pipeline.data.batches import training_batches
from pipeline.distributed.channel import Channel
from pipeline.distributed.ranks import Ranks
from pipeline.runs.record import RunIdentity
from pipeline.training.agreement import refuse_disagreement
from pipeline.utils.errors import UserError
from tests.helpers.families import recipe_of
from tests.helpers.marks import heavy_in_tensorflow
from tests.helpers.ranks import in_ranks, in_threads


@dataclasses.dataclass
class Facts:
    """What ranks must agree on; the fields are the arguments of `refuse_disagreement`."""

    recipe: object
    identity: object = dataclasses.field(default_factory=lambda: identity())
    versions: dict = dataclasses.field(default_factory=lambda: {"torch": "2.13", "device": "cpu", "threads": "2"})
    fingerprints: dict = dataclasses.field(default_factory=lambda: {"data": "d0", "checkpoint": "c0"})
    plans: list = dataclasses.field(default_factory=lambda: plans(seed=3))
    steps_done: int = 7
    weights_digest: str = "w0"


def identity(attention="stock", seed=3):
    return RunIdentity(recipe="tiny", framework="torch", attention=attention, seed=seed)


def plans(seed):
    return [training_batches(np.full(12, 5), batch_size=4, seed=seed, epoch=0, batching="packed")]


# What the last rank has instead, and how the message begins that tells of it.
OTHERS = {
    "seed": ({"identity": identity(seed=4)}, "seed of rank 2 is 4, of rank 0 3"),
    "attention": ({"identity": identity("handwritten")}, "attention of rank 2 is handwritten, of rank 0 stock"),
    "version": ({"versions": {"torch": "2.12"}}, "version of torch of rank 2 is 2.12, of rank 0 2.13"),
    "data": (
        {"fingerprints": {"data": "d1", "checkpoint": "c0"}},
        "fingerprint of the data of rank 2 is d1, of rank 0 d0",
    ),
    "plan": ({"plans": plans(seed=4)}, "digest of the batch plan of rank 2 is "),
    "steps": ({"steps_done": 8}, "number of steps done of rank 2 is 8, of rank 0 7"),
    "weights": ({"weights_digest": "w1"}, "digest of the weights of rank 2 is w1, of rank 0 w0"),
}
# What may differ: it changes rounding alone.
ALLOWED = {"versions": {"torch": "2.13", "device": "gpu", "threads": "4"}}


def messages(ranks, recipe):
    """What all ranks are told if the last one has each of OTHERS in turn; all must hear the same."""
    with Channel.join(ranks).together() as channel:
        heard = {}
        for name, (changes, _) in {**OTHERS, "settings": (None, ""), "nothing": (ALLOWED, "")}.items():
            facts, is_last = Facts(recipe), channel.ranks.rank == channel.size - 1
            if is_last:
                facts = dataclasses.replace(facts, **(changes or {"recipe": recipe.override({"train.epochs": 9})}))
            try:
                refuse_disagreement(channel, **vars(facts))
                heard[name] = channel.all(None)
            except UserError as error:
                heard[name] = channel.all(str(error))
    return heard


def test_whatever_one_rank_has_of_its_own_all_are_told_who_differs_in_what(tmp_path):
    heard, *others = in_threads(messages, recipe_of("single-label", tmp_path), size=3)
    assert others == [heard] * 2
    assert heard.pop("nothing") == [None] * 3
    expected = {name: message for name, (_, message) in OTHERS.items()} | {"settings": "digest of the settings of rank"}
    assert heard.keys() == expected.keys()
    for name, told in heard.items():
        assert told == [told[0]] * 3
        assert told[0].startswith("the 3 processes would not train the same run: the " + expected[name]), name
        assert told[0].count(" of rank 2 ") == 1  # of what is the same nothing is said


def train_on_own_data(send, framework, recipes, out):
    finetune(recipes[Ranks.from_environment().rank], framework, out=out)


@pytest.mark.slow
@heavy_in_tensorflow
def test_ranks_with_other_data_are_refused_before_the_first_step(framework, tmp_path):
    recipes = []
    for rank in range(2):
        (folder := tmp_path / str(rank)).mkdir()
        recipes.append(recipe_of("single-label", folder, num_rows=32 + rank))
    with pytest.raises(UserError, match="would not train the same run: .*the fingerprint of the data of rank 1 is"):
        in_ranks(train_on_own_data, framework, recipes, tmp_path / "run", framework=framework)
    assert not list(tmp_path.glob("*run*"))
