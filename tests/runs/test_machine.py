"""What is told of the machine and the versions of a run."""

import sys
from importlib.metadata import version

import pytest

from pipeline.runs.machine import as_typed, versions_of_both


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [
        (["/a/pipeline/__main__.py", "list"], ["python", "-m", "pipeline", "list"]),
        # What runs of earlier versions recorded.
        (["__main__.py", "finetune", "x"], ["python", "-m", "pipeline", "finetune", "x"]),
        (["/a/pytest/__main__.py"], ["python", "-m", "pytest"]),
        (["/a/bin/twinstep", "list"], ["twinstep", "list"]),
        ([""], ["python"]),
        ([], ["python"]),
    ],
)
def test_a_command_reads_as_it_is_typed(arguments, typed):
    assert as_typed(arguments) == typed == as_typed(typed)


def test_versions_are_asked_of_the_python_of_each_framework(tmp_path, monkeypatch):
    metadata = tmp_path / "transformers-4.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.0.0\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}:$PYTHONPATH" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.delenv("TWINSTEP_PYTHON_TORCH", raising=False)
    monkeypatch.setenv("TWINSTEP_PYTHON_TENSORFLOW", str(python))
    found = versions_of_both()
    assert found["transformers"] == f"{version('transformers')} (torch), 4.0.0 (tensorflow)"
    assert found["numpy"] == version("numpy")
