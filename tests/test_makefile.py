"""The first command of a clone installs, once, also if two are given at the same time."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# An interpreter that notes what it should install or run, and whose installing takes a moment.
INTERPRETER = f"""#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo venv >> noted;;
  "-m pip") echo begin >> noted; sleep 0.5; test ! -e broken || exit 1; echo end >> noted;;
  "-m pipeline") echo run >> noted;;
  *) exec "{sys.executable}" "$@";;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A folder with the files that installing needs, and an interpreter."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (time.time() - 60,) * 2)
    (tmp_path / "python").write_text(INTERPRETER)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def start(folder):
    """Start a command that needs the installation."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "list", f"PYTHON={folder / 'python'}"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def noted(folder):
    """What the interpreter did since the last call."""
    lines = (folder / "noted").read_text().split()
    (folder / "noted").unlink()
    return lines


def test_two_first_commands_at_once_install_once_and_both_run(clone):
    assert [process.wait() for process in [start(clone), start(clone)]] == [0, 0]
    assert noted(clone) == ["venv", "begin", "end", "run", "run"]
    assert start(clone).wait() == 0 and noted(clone) == ["run"]
    os.utime(clone / "pyproject.toml", (time.time() + 60,) * 2)
    assert start(clone).wait() == 0 and noted(clone) == ["begin", "end", "run"]


def test_an_installation_that_fails_or_is_killed_is_made_again(clone):
    (clone / "broken").touch()
    assert start(clone).wait() == 2 and noted(clone) == ["venv", "begin"]
    (clone / "broken").unlink()
    killed = start(clone)
    while not (clone / "noted").exists():
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert start(clone).wait() == 0
    assert noted(clone)[-3:] == ["begin", "end", "run"]
