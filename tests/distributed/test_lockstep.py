"""Lock-step over numbers of processes: each framework against itself, and the frameworks against each other."""

import pytest

from pipeline.comparison import lockstep
from pipeline.comparison.lockstep import compare_processes
from pipeline.utils.errors import UserError
from tests.helpers.families import recipe_of


@pytest.mark.parametrize("counts", [[1], [], [0, 2], [2, 65]])
def test_numbers_of_processes_that_cannot_be_are_refused(counts, tmp_path):
    with pytest.raises(UserError, match="must be whole numbers from 1 to 64, one of them 2 or more"):
        compare_processes(recipe_of("single-label", tmp_path), counts)


def test_of_a_sharded_recipe_tensorflow_trains_what_has_whole_weights(monkeypatch, tmp_path):
    asked = {}

    def call(function, recipe, name, *arguments, framework):
        asked[name, 1] = recipe.train.sharding
        return None, []

    class Launch:
        def __init__(self, function, arguments, size, framework, on_event):
            asked[framework, size] = arguments[0].train.sharding

        def run(self, is_stopping):
            if len(asked) == 4:
                raise InterruptedError

    monkeypatch.setattr(lockstep.processes, "call", call)
    monkeypatch.setattr(lockstep, "Launch", Launch)
    with pytest.raises(InterruptedError):
        compare_processes(recipe_of("single-label", tmp_path, changes={"train.sharding": "fsdp"}), [2])
    assert asked == {("torch", 1): "fsdp", ("torch", 2): "fsdp", ("tensorflow", 1): None, ("tensorflow", 2): None}


@pytest.mark.heavy
def test_two_processes_are_in_lock_step_with_one_in_both_frameworks(tmp_path):
    report = compare_processes(recipe_of("sequence-to-sequence", tmp_path), [2], steps=4)
    assert list(report.pairs) == [
        ("torch 1", "torch 2"), ("tensorflow 1", "tensorflow 2"), ("torch 1", "tensorflow 1"),
        ("torch 2", "tensorflow 2"),
    ]  # fmt: skip
    assert report.same, report.as_text()
    # In one process PyTorch is 1.1e-3 from itself here, from a start that is one rounding off or in two micro-batches.
    assert all(0 < pair.differences["parameters"] < 3e-3 for pair in report.pairs.values())
    assert report.as_text().splitlines()[0].endswith("same dropout masks")
    assert report.as_text().endswith("\nthe same experiment")
