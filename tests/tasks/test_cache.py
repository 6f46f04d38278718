"""Tokenized data are kept by content: read back as they were made, and never for other rows or settings."""

import dataclasses
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pytest

from pipeline import UserError
from pipeline.data import table
from pipeline.data.batches import evaluation_batches
from pipeline.data.ragged import Ragged
from pipeline.data.splits import read_splits
from pipeline.tasks import tokenized_cache as cache
from pipeline.tasks.base import Examples, load_task
from pipeline.training.experiment import prepare
from pipeline.utils import array_cache
from pipeline.utils.mapped_arrays import cache_folder
from tests.helpers.cache_race import play
from tests.helpers.damage import flips
from tests.helpers.families import KINDS, recipe_of, rows_of


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """Lists the files of a cache of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return lambda: sorted((tmp_path / "cache" / "twinstep").iterdir())


def same(first, second):
    """Equal to the last byte, types included."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if dataclasses.is_dataclass(first):
        return type(first) is type(second) and same(vars(first), vars(second))
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
    monkeypatch.setattr(array_cache, "write_entry", None)  # nothing is tokenized, so nothing is written
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
    files = [file for entry in entries() for file in sorted(entry.iterdir())]
    for file in files:
        whole = file.read_bytes()
        for part in (whole[:-1], whole[:20], b""):
            file.write_bytes(part)
            assert same(splits_of(recipe), made)
            assert file.read_bytes() == whole


def test_a_flipped_bit_anywhere_in_an_entry_is_seen(tmp_path, entries):
    """In a sample of all bits: each of these entries is made again, and gives what it gave before."""
    recipe = recipe_of("single-label", tmp_path)
    task, made = load_task(recipe), prepare(recipe).examples["validation"]
    kinds = (task.examples_class, Ragged)
    (path,) = (entry for entry in entries() if same(array_cache.read_entry(entry, kinds).lengths, made.lengths))
    for _, flipped in flips(path, 400, seed=7):
        with pytest.raises((OSError, ValueError, EOFError, KeyError)):
            array_cache.read_entry(path, kinds)
            pytest.fail(f"{flipped} is read")
    assert same(array_cache.read_entry(path, kinds).lengths, made.lengths)


def test_of_processes_that_need_an_entry_at_once_one_makes_it(tmp_path, entries, monkeypatch):
    """The lock keeps out threads just as it does processes."""
    recipe, calls = recipe_of("single-label", tmp_path), []
    task = prepare(recipe).task
    rows, encode = read_splits(recipe, task.required, task.optional)["train"], task.encode
    shutil.rmtree(cache_folder())

    def encode_slowly(rows):
        calls.append(rows)
        time.sleep(0.3)
        return encode(rows)

    monkeypatch.setattr(task, "encode", encode_slowly)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: cache.encoded(task, rows, "content"), range(3)))
    assert len(calls) == 1 and len(entries()) == 1
    assert same(vars(found[0]), vars(found[1])) and same(vars(found[0]), vars(found[2]))


@pytest.mark.slow
def test_of_processes_that_fill_a_cache_at_once_one_may_be_killed_at_any_moment(tmp_path):
    """Nothing of it is left; `tests/benchmarks/cache_race.py` plays many such rounds."""
    recipe = recipe_of("single-label", tmp_path, rows_of("single-label", 4000, 0), rows_of("single-label", 16, 1))
    play(recipe, tmp_path / "first")  # only to import
    alone, killed = play(recipe, tmp_path / "alone"), play(recipe, tmp_path / "killed", kill_after=0.1)
    assert killed.was_killed and killed.digests == alone.digests * 2
    assert len(alone.left) == 2 and killed.left == alone.left


@pytest.mark.slow
def test_a_process_that_dies_while_it_makes_an_entry_holds_up_nobody(tmp_path, entries):
    recipe = recipe_of("single-label", tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    program = (
        "import sys; from pipeline import load_recipe; from pipeline.utils import array_cache\n"
        "from pipeline.training.experiment import prepare\n"
        "array_cache.write_entry = lambda *arguments, **settings: [print('making', flush=True), sys.stdin.read()]\n"
        "prepare(load_recipe(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "recipe.yaml")]
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as other, ThreadPoolExecutor(1) as pool:
        assert other.stdout.readline() == "making\n"
        waiting = pool.submit(prepare, recipe)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=1.0)
        other.kill()
        assert len(waiting.result(timeout=30).examples["train"].lengths)
    assert len(entries()) == 2


def test_where_files_cannot_be_locked_nothing_is_kept_and_nothing_of_others_removed(tmp_path, entries, monkeypatch):
    recipe = recipe_of("single-label", tmp_path)
    made, before = splits_of(recipe), entries()

    class NoLocks:
        LOCK_SH, LOCK_EX, LOCK_NB = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_NB

        def flock(self, *arguments):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(array_cache, "fcntl", NoLocks())  # the library of data sets locks files, too
    assert same(splits_of(recipe), made)
    prepare(recipe.override({"data.max_length": 9}))
    assert entries() == before


@pytest.mark.parametrize("error", [PermissionError, NotADirectoryError, None])
def test_a_cache_that_cannot_be_used_costs_time_only(tmp_path, monkeypatch, error):
    """Nothing is said of it, least of all that the data cannot be read."""

    def fail(*arguments):
        raise error("no cache")

    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    if error is not None:
        monkeypatch.setattr(array_cache, "read_entry", fail)
        monkeypatch.setattr(array_cache, "write_entry", fail)
    assert len(prepare(recipe_of("single-label", tmp_path)).examples["train"].lengths) == 48


def test_what_lies_in_the_place_of_an_entry_is_replaced(tmp_path, entries):
    recipe = recipe_of("single-label", tmp_path)
    made = splits_of(recipe)
    for entry in entries():
        shutil.rmtree(entry)
        entry.write_text("a file")
    assert same(splits_of(recipe), made) and all(entry.is_dir() for entry in entries())


def in_memory(value, path=""):
    """The names of all parts of a value that are neither mapped nor of fixed size."""
    if isinstance(value, np.ndarray):
        return [] if isinstance(value.base, np.memmap) else [path]
    if dataclasses.is_dataclass(value):
        return [
            name for field in dataclasses.fields(value) for name in in_memory(getattr(value, field.name), field.name)
        ]
    if isinstance(value, dict):
        return [name for key, each in value.items() for name in in_memory(each, f"{path}.{key}")]
    return [] if value is None or isinstance(value, int) else [path]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_process_holds_of_a_split_lies_in_files_that_all_processes_map(kind, tmp_path, entries, monkeypatch):
    monkeypatch.setattr(array_cache, "SMALL_BYTES", 0)
    monkeypatch.setattr(array_cache, "SHARED_BYTES", 0)
    experiment = prepare(recipe_of(kind, tmp_path))
    for examples in experiment.examples.values():
        assert in_memory(examples) == []
        assert in_memory(experiment.task.for_epoch(examples, [0, 0])) == []
        assert in_memory(evaluation_batches(examples.lengths, 8).rows_of_steps()) == []
    for batching in ("packed", "padded", "sorted"):
        changed = dataclasses.replace(experiment, recipe=experiment.recipe.override({"data.batching": batching}))
        for plan in changed.training_plans(0, 2):
            assert in_memory(plan.rows_of_steps()) == []


@pytest.mark.parametrize("kind", ["token-classification", "question-answering"])
def test_rows_that_are_tokenized_some_at_a_time_are_those_of_all_at_once(kind, tmp_path, monkeypatch):
    recipe = recipe_of(kind, tmp_path)
    experiment = prepare(recipe)
    task, made = experiment.task, experiment.examples["train"]
    rows = read_splits(recipe, task.required, task.optional)["train"]
    for number in (1, 7, 48):
        monkeypatch.setattr(table, "CHUNK_ROWS", number)
        assert same(vars(task.encode(rows)), vars(made))


def test_large_arrays_are_mapped_into_memory_and_none_can_be_written(tmp_path, entries):
    path, many = tmp_path / "entry", np.arange(100_000, dtype=np.int32)
    examples = Examples({"input_ids": Ragged(many, np.array([0, 5]))}, np.array([5]), np.array([1]), {})
    array_cache.write_entry(path, examples)
    read = array_cache.read_entry(path, (Examples, Ragged))
    assert isinstance(read.features["input_ids"].values.base, np.memmap)
    assert np.array_equal(read.features["input_ids"].values, many)
    assert not read.features["input_ids"].values.flags.writeable and not read.lengths.flags.writeable


def entry_of(folder, name, num_bytes, last_used):
    """An entry of about this size."""
    values = np.zeros(num_bytes, np.uint8)
    examples = Examples({"input_ids": Ragged(values, np.array([0]))}, values[:0], values[:0], {})
    array_cache.write_entry(folder / name, examples)
    for file in (folder / name).iterdir():
        os.utime(file, (last_used, last_used))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_used_least_recently_is_removed_first_until_the_rest_fits(tmp_path):
    for age, name in enumerate("dbca"):
        entry_of(tmp_path, name, 10_000, last_used=1000 + age)
    array_cache.read_entry(tmp_path / "d", (Examples, Ragged))  # used just now
    (tmp_path / "old.npz").write_bytes(b"x" * 10_000)  # of an older version
    os.utime(tmp_path / "old.npz", (1, 1))
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert array_cache.make_room(tmp_path, size) == []
    assert [entry.path.name for entry in array_cache.make_room(tmp_path, size - 11_000)] == ["old.npz", "b"]
    assert names(tmp_path) == ["a", "c", "d"]
    assert [entry.path.name for entry in array_cache.make_room(tmp_path, 0)] == ["c", "a", "d"]


def test_what_is_in_use_is_never_removed(tmp_path):
    for name in ("ours", "theirs", "free"):
        entry_of(tmp_path, name, 100_000, last_used=1)
    examples = array_cache.read_entry(tmp_path / "ours", (Examples, Ragged))
    program = (
        "import sys; from pathlib import Path; from pipeline.utils.array_cache import read_entry\n"
        "from pipeline.data.ragged import Ragged; from pipeline.tasks.base import Examples\n"
        "examples = read_entry(Path(sys.argv[1]), (Examples, Ragged)); print('read', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "theirs")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "read\n"
        (tmp_path / f".new.partial-{other.pid}").mkdir()
        assert [entry.path.name for entry in array_cache.make_room(tmp_path, 0)] == ["free"]
        other.stdin.close()
    removed = sorted(entry.path.name for entry in array_cache.make_room(tmp_path, 0))
    assert removed == [f".new.partial-{other.pid}", "theirs"]
    assert names(tmp_path) == ["ours"] and len(examples.features["input_ids"].values) == 100_000
    del examples
    assert [entry.path.name for entry in array_cache.make_room(tmp_path, 0)] == ["ours"]


def test_the_size_is_kept_to_when_a_split_is_added(tmp_path, entries, monkeypatch):
    recipe = recipe_of("single-label", tmp_path)
    monkeypatch.setenv("TWINSTEP_CACHE_GB", "0.000001")
    prepare(recipe)
    prepare(recipe.override({"data.max_length": 9}))
    assert len(entries()) <= 3  # the first two are not in use any more, the last one is
    monkeypatch.setenv("TWINSTEP_CACHE_GB", "much")
    with pytest.raises(UserError, match='TWINSTEP_CACHE_GB is "much", but must be a number of gigabytes') as raised:
        prepare(recipe)
    assert str(raised.value).count("much") == 1


def test_clean_cache_says_what_it_removed(tmp_path):
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path)}
    entry_of(tmp_path / "twinstep", "entry", 2_000_000, last_used=1)
    command = [sys.executable, "-m", "pipeline", "clean-cache"]
    for expected in ("removed 1 cached item, 2.0 MB, from ", "removed 0 cached items, 0.0 MB, from "):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"{expected}{tmp_path / 'twinstep'}\n"


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    recipe = recipe_of("regression", tmp_path)
    assert prepare(recipe).examples["train"].counts["rows"] == 48
