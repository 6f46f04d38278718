"""What is told of the machine and the versions of a run."""

import sys
from importlib.metadata import version

from pipeline.runs.machine import versions_of_both


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
