"""Tokenized data are kept by content: read back as they were made, and never for other rows or settings."""

import dataclasses

import datasets
import numpy as np
import pytest

from pipeline.data.batches import Ragged
from pipeline.tasks import tokenized_cache as cache
from pipeline.training.experiment import prepare
from tests.helpers.families import KINDS, recipe_of


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """Lists the files of a cache of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return lambda: sorted((tmp_path / "cache" / "twinstep").iterdir())


def same(first, second):
    """Equal to the last byte, types included."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, Ragged):
        return same(first.values, second.values) and same(first.offsets, second.offsets)
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    return type(first) is type(second) and first == second


def splits_of(recipe):
    return {
        f"{split}.{field.name}": getattr(examples, field.name)
        for split, examples in prepare(recipe).examples.items()
        for field in dataclasses.fields(examples)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_back_is_what_was_made(kind, tmp_path, entries, monkeypatch):
    recipe = recipe_of(kind, tmp_path)
    made = splits_of(recipe)
    assert len(entries()) == 2
    monkeypatch.setattr(cache, "write_entry", None)  # nothing is tokenized, so nothing is written
    assert same(splits_of(recipe), made)


def test_other_rows_settings_or_code_are_another_entry(tmp_path, entries, monkeypatch):
    recipe = recipe_of("single-label", tmp_path)
    prepare(recipe)
    prepare(recipe.override({"data.max_length": 9}))
    assert len(entries()) == 4
    prepare(recipe.override({"data.limit.train": 20}))
    assert len(entries()) == 5
    prepare(recipe.override({"train.learning_rate": 1e-5, "data.pad_to_multiple_of": 8}))  # not read by tokenizing
    assert len(entries()) == 5
    monkeypatch.setattr(cache, "code_digest", lambda: "changed")
    prepare(recipe)
    assert len(entries()) == 7


def test_a_damaged_entry_is_made_again(tmp_path, entries):
    recipe = recipe_of("single-label", tmp_path)
    made = splits_of(recipe)
    whole = [entry.read_bytes() for entry in entries()]
    entries()[0].write_bytes(whole[0][:-40])
    entries()[1].write_bytes(b"")
    assert same(splits_of(recipe), made)
    assert [entry.read_bytes() for entry in entries()] == whole


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    recipe = recipe_of("regression", tmp_path)
    monkeypatch.setattr(cache, "read_entry", None)
    assert prepare(recipe).examples["train"].counts["rows"] == 48
