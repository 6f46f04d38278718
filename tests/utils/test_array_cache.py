"""What the processes of a machine share: one makes it, all have the same copy, and the last one removes it."""

import gc
import multiprocessing
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import datasets
import numpy as np
import pytest

from pipeline.utils import array_cache
from pipeline.utils.array_cache import SHARED_BYTES, shared
from pipeline.utils.mapped_arrays import cache_folder
from pipeline.utils.processes import call


@dataclass(frozen=True)
class Pair:
    """Something to share."""

    large: np.ndarray
    small: np.ndarray
    name: str


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """Lists the entries of a cache of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return lambda: sorted(path.name for path in (tmp_path / "cache").glob("twinstep/*"))


def pair_of(number):
    values = np.full(SHARED_BYTES // 8, number)
    return Pair(values, values[:3], f"pair {number}")


def get(number, made=None, num_bytes=SHARED_BYTES):
    def make():
        if made is not None:
            made.append(number)
        return pair_of(number)

    return shared(make, (Pair,), num_bytes, lambda: [b"pair", str(number).encode()])


def test_of_all_that_need_the_same_one_makes_it_and_the_last_one_removes_it(entries):
    made = []
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: get(7, made), range(3)))
    other = get(8, made)
    assert made == [7, 8] and len(entries()) == 2
    for pair in found:
        assert isinstance(pair.large.base, np.memmap) and not pair.large.flags.writeable
        assert pair.large.tolist() == [7] * (SHARED_BYTES // 8) and pair.small.tolist() == [7] * 3
        assert pair.name == "pair 7"
    part = found[2].large[5:9]  # a view is a use, too
    del pair, found
    gc.collect()
    assert len(entries()) == 2
    del part
    assert len(entries()) == 1
    del other
    assert entries() == []


def test_what_is_small_is_made_by_each_and_no_file_is_written(entries):
    made = []
    first, second = get(7, made, SHARED_BYTES - 1), get(7, made, SHARED_BYTES - 1)
    assert made == [7, 7] and first.large.flags.writeable and second.large.tolist() == first.large.tolist()
    assert entries() == []


def test_what_is_not_used_any_more_is_not_in_memory(entries):
    """No circle of references holds it until the next collection."""
    gc.disable()
    try:
        pair, held = get(7), []
        held += [weakref.ref(pair.large), weakref.ref(pair.large.base)]
        del pair
        assert [each() for each in held] == [None, None]
    finally:
        gc.enable()


def use_and_die(number, pipe):
    pair = get(number)
    pipe.send(int(pair.large[0]))
    pipe.recv()


def test_what_a_killed_process_leaves_is_found_and_removed_by_the_next_user(entries):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=use_and_die, args=(7, theirs))
    process.start()
    assert ours.recv() == 7
    process.kill()
    process.join()
    (left,) = entries()
    made = []
    pair = get(7, made)
    assert made == [] and entries() == [left] and pair.large[0] == 7
    del pair
    assert entries() == []


def test_another_process_that_uses_it_keeps_it(entries):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=use_and_die, args=(7, theirs))
    process.start()
    assert ours.recv() == 7
    pair = get(7)
    del pair
    assert len(entries()) == 1
    ours.send("end")
    process.join()
    pair = get(7)
    del pair
    assert entries() == []


HELD = []


def hold(number):
    HELD.append(get(number))
    return len(list(cache_folder().iterdir()))


def test_a_process_that_ends_with_its_arrays_leaves_no_file(entries, tmp_path, monkeypatch):
    """Those of the pipeline end without the endings of Python."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert call(hold, 7, framework="") == 1
    assert entries() == []


def test_without_a_disk_each_process_has_its_own(entries, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert get(7).large[0] == 7

    def fail(*arguments, **settings):
        raise OSError("no space left")

    (tmp_path / "cache").unlink()
    monkeypatch.setattr(array_cache, "write_entry", fail)
    assert get(7).large[0] == 7 and entries() == []
