"""Runs whose files somebody edited: every verb that reads them answers, or says in one message what is wrong."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import UserError
from pipeline.runs.prediction import changes_blamed
from tests.helpers.edited_runs import VERBS, count_edits, runs_to_edit, undrawn

# A part of what `tests/benchmarks/damage_counts.py --edits` tries; TensorFlow takes seconds to load a model.
EDITS = {"torch": 40, "tensorflow": 10}


@pytest.mark.slow
def test_a_run_edited_by_hand_is_used_or_refused_in_one_message(framework, tmp_path):
    """Never is it called a bug."""
    runs = runs_to_edit(tmp_path, framework)
    total = Counter()
    with undrawn():
        for verb in VERBS:
            ends, wrong = count_edits(verb, runs, framework, tmp_path / "edited", EDITS[framework], seed=13)
            assert not wrong
            total += ends
    assert min(total["exit 0"], total["exit 2"]) >= EDITS[framework] // 10


@pytest.mark.parametrize(("unverified", "kind"), [(Path("run/model"), UserError), (None, ValueError)])
def test_an_error_of_a_model_is_blamed_on_its_files_only_if_they_are_not_verified(unverified, kind):
    with pytest.raises(kind, match="math domain") as raised, changes_blamed(SimpleNamespace(unverified=unverified)):
        raise ValueError("math domain error")
    assert ("run/model" in str(raised.value)) is (kind is UserError)
