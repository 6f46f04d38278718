"""Files and folders that are whole or not there, whatever interrupts their writing."""

import os
import re
import subprocess
import sys
import tempfile
import threading

import pytest

from pipeline.utils.errors import UserError
from pipeline.utils.files import (
    atomic_write,
    json_safe,
    locked,
    read_json_lines,
    refuse_locked,
    scratch_folder,
    staged_folder,
    temporary_files_vanish,
    write_json,
    write_json_lines,
    writer_mark,
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
        f".run[1].partial-{ended_pid}.replaced",
        f".run[1].partial-{living}",
    ):
        (tmp_path / remains).mkdir()
    (tmp_path / f".run[1].partial-{ended_pid}.replaced" / "old").touch()
    with pytest.raises(KeyError), staged_folder(folder):
        assert names(folder) == ["old"]
        raise KeyError
    assert names(tmp_path) == [f".run[1].partial-{living}", "run[1]"] and names(folder) == ["old"]


def test_what_another_machine_writes_on_a_shared_disk_stays_until_it_is_a_day_old(tmp_path, ended_pid, monkeypatch):
    """A process of this machine that has the same number has ended."""
    with monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "another-machine")
        patch.setattr("os.getpid", lambda: ended_pid)
        mark = writer_mark()
    theirs = tmp_path / f".run.partial-{mark}"
    theirs.mkdir()
    (theirs / "history.jsonl").touch()
    with staged_folder(tmp_path / "run"):
        assert theirs.is_dir()
    for path in (theirs / "history.jsonl", theirs):
        os.utime(path, (1, 1))
    with staged_folder(tmp_path / "run"):
        assert not theirs.exists()
    assert re.fullmatch(rf"{os.getpid()}-[0-9a-f]{{8}}", writer_mark()) and mark.startswith(f"{ended_pid}-")


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


def test_what_is_left_of_others_is_not_taken_for_ones_own(tmp_path, ended_pid):
    """A folder whose name begins with that of another, names like those of leftovers, a file, a link."""
    kept = [f".a.b.partial-{ended_pid}", f".a.mypartial-{ended_pid}", f".a.x.replaced.partial-{ended_pid}"]
    kept += [f".a.partial-{ended_pid}.old", ".a.partial-", f".a.partial-{'9' * 30}", f".b.partial-{ended_pid}.replaced"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".a.partial-0999999").write_text("mine")
    (tmp_path / ".a.partial-0999998").symlink_to(tmp_path / kept[0])
    with staged_folder(tmp_path / "a"):
        pass
    assert names(tmp_path) == sorted([*kept, ".a.partial-0999999", ".a.partial-0999998", "a"])


def test_files_that_are_not_ones_own_stay_when_a_folder_is_replaced(tmp_path):
    folder = tmp_path / "run"
    (folder / "documents").mkdir(parents=True)
    (folder / "metrics.json").write_text("old")
    with staged_folder(folder, own={"metrics.json"}) as staging:
        (staging / "metrics.json").write_text("new")
    assert names(folder) == ["documents", "metrics.json"] and (folder / "metrics.json").read_text() == "new"


def test_a_link_to_a_file_stays_and_the_file_is_written(tmp_path):
    (tmp_path / "target").write_text("old")
    for link, target in (("link", "target"), ("dangling", "made")):
        (tmp_path / link).symlink_to(target)
        with atomic_write(tmp_path / link) as file:
            file.write("new")
        assert (tmp_path / link).is_symlink() and (tmp_path / target).read_text() == "new"
    assert names(tmp_path) == ["dangling", "link", "made", "target"]


def test_a_pipe_stays_one_and_is_written_into(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    with atomic_write(tmp_path / "pipe") as file:
        file.write("a line")
    reader.join(10)
    assert read == ["a line"] and (tmp_path / "pipe").is_fifo() and names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder", "document", "second name"])
def test_what_is_no_lock_but_has_its_name_is_refused_and_stays_as_it_is(tmp_path, kind):
    lock, other = tmp_path / ".run.lock", tmp_path / "other"
    if kind != "dangling link":
        other.write_text("12")
    make = {
        "pipe": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
        "document": lambda: lock.write_text("not a number"),
        "second name": lambda: lock.hardlink_to(other),
    }
    make.get(kind, lambda: lock.symlink_to(other))()
    for attempt in (lambda: locked(tmp_path / "run").__enter__(), lambda: refuse_locked(tmp_path / "run")):
        with pytest.raises(UserError, match=r"\.run\.lock would be its lock, but it is something else"):
            attempt()
    assert os.path.lexists(lock)
    assert other.read_text() == "12" if kind != "dangling link" else not other.exists()
    assert kind != "document" or lock.read_text() == "not a number"


def test_two_links_to_one_folder_have_one_lock(tmp_path):
    for link in ("one", "two"):
        (tmp_path / link).symlink_to(tmp_path / "disk" / "run")
    with locked(tmp_path / "one"), pytest.raises(UserError, match="by another process"):
        refuse_locked(tmp_path / "two")


def test_a_temporary_folder_of_a_killed_process_goes_with_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = (
        "import sys, time, tempfile; tempfile.tempdir = sys.argv[1]; from pipeline.utils.files import scratch_folder\n"
        "with scratch_folder('trial') as folder:\n    print(folder, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    left = other.stdout.readline().strip()
    (tmp_path / "twinstep-trial-of-a-user").mkdir()
    with scratch_folder("trial") as folder:
        assert len(names(tmp_path)) == 3 and os.path.isdir(left) and folder.is_dir()
    other.kill()
    other.communicate()
    with scratch_folder("other"):
        assert os.path.isdir(left)
    with scratch_folder("trial"):
        assert not os.path.exists(left)
    assert names(tmp_path) == ["twinstep-trial-of-a-user"]


def test_temporary_files_of_a_block_vanish_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_files_vanish("test"):
        with tempfile.NamedTemporaryFile(delete=False) as file:
            file.write(b"left behind")
        assert os.path.exists(file.name)
    assert list(tmp_path.iterdir()) == [] and tempfile.gettempdir() == str(tmp_path)
