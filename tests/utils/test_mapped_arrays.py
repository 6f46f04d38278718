"""Arrays that may be larger than memory: the same values, and nothing is left on the disk."""

import logging
import subprocess
import sys

import datasets
import numpy as np
import pyarrow
import pytest

from pipeline.data.table import CHUNK_ROWS, ColumnValues
from pipeline.utils import mapped_arrays
from pipeline.utils.mapped_arrays import GrowingArray, held_batches


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Files are used from a thousand bytes on; returns the folder of the cache, which is not there yet."""
    monkeypatch.setattr(mapped_arrays, "MOST_BYTES", 1000)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    mapped_arrays.say_that_data_stay_in_memory.cache_clear()
    return tmp_path / "cache"


def grown(pieces, dtype=np.int64):
    array = GrowingArray(dtype)
    for piece in pieces:
        array.append(np.asarray(piece))
    return array.finished()


@pytest.mark.parametrize("sizes", [[], [0], [5], [126], [125, 1], [3] * 400, [1000, 0, 7]])
def test_an_array_that_grows_has_all_its_values_in_order_and_in_its_type(small, sizes):
    values = np.arange(sum(sizes), dtype=np.int16)
    array = grown(np.split(values, np.cumsum(sizes)[:-1]) if sizes else [])
    assert array.dtype == np.int64 and array.tolist() == values.tolist()
    assert isinstance(array.base, np.memmap) == (8 * sum(sizes) > 1000)
    assert not small.exists() or [*(small / "twinstep").iterdir()] == []


def test_what_cannot_be_written_stays_in_memory_and_one_message_says_so(small, caplog, tmp_path):
    small.write_text("a file where the folder should be")
    values = np.arange(1000)
    with caplog.at_level(logging.WARNING):
        assert grown(np.split(values, 10)).tolist() == values.tolist()
        assert [*ColumnValues(map(str, range(3 * CHUNK_ROWS)))] == [*map(str, range(3 * CHUNK_ROWS))]
    (message,) = caplog.messages
    assert message.startswith(f"{small / 'twinstep'} cannot be written (") and "set HF_DATASETS_CACHE" in message


def test_a_disk_that_becomes_full_in_the_middle_loses_nothing_and_leaves_no_part_of_an_entry():
    """In a process that may write files of 2,000 bytes at most; an entry would miss its last 28."""
    program = (
        "import resource, signal, sys, tempfile; from pathlib import Path; import datasets, numpy as np\n"
        "from pipeline.utils import mapped_arrays\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "mapped_arrays.MOST_BYTES = 1000; datasets.config.HF_DATASETS_CACHE = Path(tempfile.mkdtemp())\n"
        "array = mapped_arrays.GrowingArray(np.int64)\n"
        "for part in np.split(np.arange(1000), 20): array.append(part)\n"
        "assert array.finished().tolist() == list(range(1000))\n"
        "from pipeline.utils.array_cache import write_entry\n"
        "values, folder = np.zeros(1900, np.uint8), Path(tempfile.mkdtemp())\n"
        "try: write_entry(folder / 'entry', {'values': values})\n"
        "except OSError as error: print(error, *folder.iterdir())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("File too large") == 1
    assert done.stdout == "[Errno 27] File too large\n"


def test_columns_of_plain_values_lie_in_files_and_others_in_memory(small):
    values = [*map(str, range(2 * CHUNK_ROWS)), *range(CHUNK_ROWS), [1], *range(2 * CHUNK_ROWS - 1), "end"]
    column = ColumnValues(values)
    assert [*column] == values and len(column) == len(values)
    texts = ColumnValues(map(str, range(5 * CHUNK_ROWS)))
    before = pyarrow.total_allocated_bytes()
    copy = ColumnValues(map(str, range(5 * CHUNK_ROWS)))
    assert pyarrow.total_allocated_bytes() - before < 1000 < texts.as_arrow().nbytes
    assert copy.as_arrow() == texts.as_arrow()


def test_rows_of_many_batches_are_the_same_in_files_categories_included(small):
    categories = pyarrow.array(["a", "b"] * 40).dictionary_encode()
    given = [pyarrow.record_batch([pyarrow.array(range(i, i + 80)), categories], ["n", "c"]) for i in range(9)]
    assert pyarrow.Table.from_batches(held_batches(iter(given))) == pyarrow.Table.from_batches(given)
