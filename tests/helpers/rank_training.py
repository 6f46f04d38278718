"""What ranks do in tests of training: runs, a stop, a lack of memory, drift, and traces with planted faults."""

import dataclasses
import functools
import json
import os
import shutil

import numpy as np

from pipeline import finetune
from pipeline.backend import load_backend
from pipeline.comparison import traces as traces_module
from pipeline.comparison.traces import record_in_ranks
from pipeline.distributed.ranks import LAUNCHED, Ranks
from pipeline.training.signals import StopRequest
from pipeline.utils.errors import RunFailure, Stopped, UserError
from tests.helpers.interruption import with_state


class StopsAtOneRank(StopRequest):
    """Asked for at the last rank alone, after some steps of it."""

    def __init__(self, after):
        super().__init__()
        self.steps_left = after
        self.is_here = not Ranks.from_environment().is_first

    @property
    def requested(self):
        """Asked once a step."""
        self.steps_left -= 1
        return self.is_here and self.steps_left < 0

    @requested.setter
    def requested(self, value):
        pass


def train(send, framework, recipes, folder, attentions=None):
    """A run of each recipe, in `folder`; of the first one another that is stopped at the last rank and resumed."""
    attentions = attentions or dict.fromkeys(recipes, "stock")
    for name, recipe in recipes.items():
        finetune(recipe, framework, attentions[name], out=folder / name)
    name, recipe = next(iter(recipes.items()))
    train_until_stopped(send, framework, recipe, folder / "stopped", attentions[name])
    go_on_after_one_process(framework, recipe, folder, attentions[name])
    finetune(recipe, framework, attentions[name], out=folder / "stopped", resume=True)


def train_all(send, framework, recipes, special, folder, attentions, faults):
    """What `test_training.py` has two ranks do: runs, and of what `special` has a recipe for, what goes wrong.

    Returns the traces with faults, and the message that ends a run that drifts.
    """
    train(send, framework, recipes, folder, attentions)
    found = traces(send, framework, special["faults"], 4, faults) if "faults" in special else {}
    if "short memory" in special:
        train_short_of_memory(send, framework, special["short memory"], folder / "short memory")
    try:
        if "drift" in special:
            train_drifting(send, framework, special["drift"], folder / "drift")
    except RunFailure as error:
        return found, str(error)
    return found, ""


def train_until_stopped(send, framework, recipe, out, attention):
    """A run that is stopped at the last rank after its first step; what it says is in `message` beside it."""
    try:
        finetune(recipe, framework, attention, out=out, stop=StopsAtOneRank(after=1))
    except Stopped as error:
        (out.parent / "message").write_text(str(error), encoding="utf-8")


def go_on_after_one_process(framework, recipe, folder, attention):
    """What rank 0 says to the run that stopped above, as if one process had trained it, is in `refusal` then.

    The training checkpoints are also kept, for one process to go on from.
    """
    is_first = Ranks.from_environment().is_first
    if is_first:
        for name in ("saved", "of one"):
            shutil.copytree(folder / "stopped.checkpoints", folder / f"{name}.checkpoints")
        for checkpoint in (folder / "of one.checkpoints").iterdir():
            with_state(checkpoint, processes=1)
    try:
        finetune(recipe, framework, attention, out=folder / "of one", resume=True)
    except UserError as error:
        if is_first:  # the others tell what it tells
            (folder / "refusal").write_text(str(error), encoding="utf-8")


def train_from_other_weights(send, recipe, out):
    """A run in PyTorch that begins, at the last rank, from weights that are off."""
    import pipeline.pytorch as backend

    real = backend.set_weights
    if not Ranks.from_environment().is_first:
        backend.set_weights = lambda model, weights: real(model, {name: 2 * w for name, w in weights.items()})
    try:
        finetune(recipe, "torch", out=out)
    finally:
        backend.set_weights = real


def held_values(send, recipe):
    """How many values of weights, gradients and moments PyTorch holds at rank 0 in the second step."""
    from pipeline.pytorch.optimizer import AdamW

    held, real = {}, AdamW.step

    def count(tensors):
        return sum(getattr(tensor, "_local_tensor", tensor).numel() for tensor in tensors)

    def step(self, *arguments):
        weights = [weight for group in self.param_groups for weight in group["params"]]
        real(self, *arguments)
        held["weights"] = count(weights)
        held["gradients"] = count(weight.grad for weight in weights)
        held["moments"] = count(value for state in self.state.values() for value in state.values() if value.ndim)

    AdamW.step = step
    try:
        record_in_ranks(send, recipe, "torch", 2)
    finally:
        AdamW.step = real
    return held


def train_told_by_tf_config(send, framework, recipe, out):
    """A run whose ranks nothing but TF_CONFIG describes."""
    ranks, port = Ranks.from_environment(), int(os.environ["MASTER_PORT"])
    names = ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", LAUNCHED)
    for name in names:
        del os.environ[name]
    hosts = [f"127.0.0.1:{port + 5 * rank}" for rank in range(ranks.size)]
    task = {"type": "worker", "index": ranks.rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": hosts}, "task": task})
    finetune(recipe, framework, out=out)


def train_drifting(send, framework, recipe, out):
    """A run in which the last rank moves its weights by other gradients than the first one."""
    if not Ranks.from_environment().is_first:
        group = load_backend(framework).Group
        group.sum = SUMS[framework, "mean for sum"](group.sum)
    finetune(recipe, framework, out=out)


def sum_early():
    """Have PyTorch sum gradients while it computes others, as on a GPU; returns how many pieces had begun, by step."""
    from pipeline.pytorch import group

    begun, real = [], group.Group.sum

    def sum_and_note(self, weights, loss):
        begun.append((len(self.sums), len(self.pieces)))
        return real(self, weights, loss)

    group.Group.sums_early, group.PIECE_VALUES = staticmethod(lambda device: True), 2000
    group.Group.sum = sum_and_note
    return begun


def train_by_when_sums_begin(send, recipes, steps, short, out):
    """By name, a trace whose gradients are summed after all are computed, another one, and what `sum_early` returns.

    Then a run as in `train_short_of_memory`: some gradients have been summed when the memory turns out short.
    """
    late = {name: record_in_ranks(send, recipe, "torch", steps) for name, recipe in recipes.items()}
    begun = sum_early()
    early = {name: record_in_ranks(send, recipe, "torch", steps) for name, recipe in recipes.items()}
    begun = list(begun)
    train_short_of_memory(send, "torch", short, out)
    return {name: (late[name], early[name]) for name in recipes}, begun


def train_short_of_memory(send, framework, recipe, out):
    """A run in which the memory of the last rank is too small for its rows of the second step."""
    if not Ranks.from_environment().is_first:
        if framework == "torch":
            from pipeline.pytorch.train import Learner

            error = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        else:
            import tensorflow as tf

            from pipeline.tensorflow.train import Learner

            error = tf.errors.ResourceExhaustedError(None, None, "out of memory")
        failing(Learner, error)
    finetune(recipe, framework, out=out)


def failing(learner_class, error):
    """Have a learner's second step raise an error, once."""
    calls, name = [], "gradients" if learner_class.__module__.startswith("pipeline.pytorch") else "traced"
    real = getattr(learner_class, name)

    @functools.wraps(real)
    def fails_once(self, *arguments):
        is_step = name == "gradients" or arguments[0].__name__ == "gradients_of_batch"
        if is_step:
            calls.append(1)
        if is_step and len(calls) == 2:
            raise error
        return real(self, *arguments)

    setattr(learner_class, name, fails_once)


def traces(send, framework, recipe, steps, faults, attention="stock"):
    """The trace without a fault and with each, by name; None without one."""
    return {fault: faulty_trace(framework, recipe, steps, fault, attention) for fault in (None, *faults)}


def faulty_trace(framework, recipe, steps, fault, attention):
    """A trace of several ranks that do not share as they should."""
    if recipe.train.sharding and fault in SHARDED_FAULTS:
        return SHARDED_FAULTS[fault](lambda: record_in_ranks(lambda event: None, recipe, framework, steps, attention))
    backend, module = load_backend(framework), traces_module
    share, real_sum = module.share, backend.Group.sum
    try:
        if fault in SHARES:
            module.share = lambda batch, ranks: SHARES[fault](share(batch, ranks), ranks)
        if fault in FAULTS_IN_SUMS:
            backend.Group.sum = SUMS[framework, fault](real_sum)
        return record_in_ranks(lambda event: None, recipe, framework, steps, attention)
    finally:
        module.share, backend.Group.sum = share, real_sum


def _mean_over_own_targets(batch, ranks):
    weights = batch["loss_weights"]
    return batch | {"loss_weights": weights / weights.sum() / ranks.size}


def _without_last_share(batch, ranks):
    return batch if ranks.is_first else batch | {"loss_weights": np.zeros_like(batch["loss_weights"])}


def _masks_of_rank(batch, ranks):
    return batch | {key: batch[key] + np.int32(ranks.rank) for key in batch if key.endswith("dropout_keys")}


SHARES = {
    "mean of each rank's targets": _mean_over_own_targets,
    "one rank's share dropped": _without_last_share,
    "masks keyed by rank": _masks_of_rank,
}


def _torch_mean(real):
    def mean(self, weights, loss):
        sums = real(self, weights, loss)
        for weight in weights:
            weight.grad /= self.ranks.size
        return sums

    return mean


def _torch_clipped(real):
    def clipped(self, weights, loss):
        from pipeline.pytorch.optimizer import clip_gradients

        clip_gradients(weights, 0.1)
        return real(self, weights, loss)

    return clipped


def _tensorflow_mean(real):
    def mean(self, gradients, loss):
        sums = real(self, gradients, loss)
        return dataclasses.replace(sums, gradients=[g if g is None else g / self.ranks.size for g in sums.gradients])

    return mean


def _tensorflow_clipped(real):
    def clipped(self, gradients, loss):
        from pipeline.tensorflow.optimizer import clip_gradients

        there, _ = clip_gradients([g for g in gradients if g is not None], 0.1)
        there = iter(there)
        return real(self, [g if g is None else next(there) for g in gradients], loss)

    return clipped


SUMS = {
    ("torch", "mean for sum"): _torch_mean,
    ("torch", "clipping before the sum"): _torch_clipped,
    ("tensorflow", "mean for sum"): _tensorflow_mean,
    ("tensorflow", "clipping before the sum"): _tensorflow_clipped,
}
FAULTS_IN_SUMS = ("mean for sum", "clipping before the sum")


def _mean_of_sharded(call):
    from pipeline.pytorch import group

    shard = group.fully_shard

    class Mean:
        def __init__(self, module):
            self.module = shard(module)

        def __getattr__(self, name):
            return getattr(self.module, name)

        def set_gradient_divide_factor(self, factor):
            self.module.set_gradient_divide_factor(2 * factor)

    group.fully_shard = Mean
    try:
        return call()
    finally:
        group.fully_shard = shard


def _norm_of_a_part(call):
    from pipeline.pytorch import train

    real = train.clip_gradients
    train.clip_gradients = lambda weights, largest, sum_over_ranks: real(weights, largest)
    try:
        return call()
    finally:
        train.clip_gradients = real


# Planted where weights are sharded, and gradients summed by what shards them.
SHARDED_FAULTS = {"mean for sum": _mean_of_sharded, "norm of a part": _norm_of_a_part}
