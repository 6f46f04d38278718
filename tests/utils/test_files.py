"""Files and folders that are whole or not there, whatever interrupts their writing."""

import os
import re
import subprocess
import sys

import pytest

from pipeline.utils.errors import UserError
from pipeline.utils.files import (
    atomic_write,
    json_safe,
    locked,
    read_json_lines,
    refuse_locked,
    staged_folder,
    write_json,
    write_json_lines,
)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def ended_pid():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_numbers_that_json_lacks_become_null():
    value = {"a": [float("nan"), 1.5, (float("inf"), "x")], "b": {"c": float("-inf"), "d": True}}
    assert json_safe(value) == {"a": [None, 1.5, [None, "x"]], "b": {"c": None, "d": True}}


def test_json_is_readable_by_people(tmp_path):
    write_json(tmp_path / "a.json", {"name": "ü", "value": float("nan")})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "name": "ü",\n  "value": null\n}\n'.encode()


def test_json_lines_come_back_with_line_separators_inside(tmp_path):
    rows = [{"text": "a\u2028b\x85c\n"}, {"text": "", "values": [1, None]}]
    write_json_lines(tmp_path / "rows.jsonl", rows)
    assert read_json_lines(tmp_path / "rows.jsonl") == rows
    assert (tmp_path / "rows.jsonl").read_bytes().count(b"\n") == 2


def test_a_file_appears_when_its_block_ends(tmp_path):
    path = tmp_path / "folder" / "file"
    with atomic_write(path) as file:
        file.write("ü")
        assert not path.exists()
    assert path.read_bytes() == "ü".encode() and names(path.parent) == ["file"]


def test_a_file_keeps_its_content_if_the_block_fails(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "file", binary=True) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_bytes() == b"old" and names(tmp_path) == ["file"]


@pytest.mark.parametrize("durable", [False, True])
def test_a_folder_is_replaced_in_whole(tmp_path, durable):
    folder = tmp_path / "run"
    for content in ("first", "second"):
        with staged_folder(folder, durable=durable) as staging:
            (staging / content).mkdir()
            (staging / content / "file").write_text(content)
        assert names(folder) == [content] and names(tmp_path) == ["run"]


def test_a_folder_keeps_its_content_if_the_block_fails(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OSError, match="disk"), staged_folder(folder) as staging:
        (staging / "new").touch()
        raise OSError("disk")
    assert names(folder) == ["old"] and names(tmp_path) == ["run"]


def test_what_ended_processes_left_is_removed_or_put_back(tmp_path, ended_pid):
    """A name with brackets is a pattern to glob."""
    folder, living = tmp_path / "run[1]", os.getppid()
    for remains in (
        f".run[1].partial-{ended_pid}",
        f".run[1].replaced.partial-{ended_pid}",
        f".run[1].partial-{living}",
    ):
        (tmp_path / remains).mkdir()
    (tmp_path / f".run[1].replaced.partial-{ended_pid}" / "old").touch()
    with pytest.raises(KeyError), staged_folder(folder):
        assert names(folder) == ["old"]
        raise KeyError
    assert names(tmp_path) == [f".run[1].partial-{living}", "run[1]"] and names(folder) == ["old"]


def test_a_lock_keeps_other_processes_out_and_ends_with_its_process(tmp_path):
    folder = tmp_path / "run"
    program = (
        "import sys, time; from pathlib import Path; from pipeline.utils.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        for attempt in (lambda: locked(folder).__enter__(), lambda: refuse_locked(folder)):
            with pytest.raises(UserError, match=re.escape(f"{folder} is being written by another process")) as refused:
                attempt()
            assert f"({holder.pid})" in str(refused.value) and refused.value.arguments == ("out",)
    finally:
        holder.kill()
        holder.communicate()
    assert names(tmp_path) == [".run.lock"]
    refuse_locked(folder)  # the file is still there, its lock is not
    assert names(tmp_path) == []


def test_a_lock_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), locked(tmp_path / "file" / "run"):
        pass


def test_a_link_stays_and_the_folder_that_it_leads_to_is_replaced(tmp_path):
    target, link = tmp_path / "disk" / "target", tmp_path / "link"
    target.mkdir(parents=True)
    (target / "old").touch()
    link.symlink_to(target)
    with staged_folder(link) as staging:
        (staging / "new").touch()
    assert link.is_symlink() and names(link) == names(target) == ["new"]
    assert (names(tmp_path), names(tmp_path / "disk")) == (["disk", "link"], ["target"])
