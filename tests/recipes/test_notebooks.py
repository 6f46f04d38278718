"""The notebooks: stored without outputs, and run from top to bottom, offline."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import recipes

NOTEBOOKS = sorted((Path(recipes.__file__).parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_what_a_run_left_in_it(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and notebook.cells[0].source.startswith("# ")
    assert all(cell.outputs == [] and cell.execution_count is None and not cell.metadata for cell in code)
    assert set(notebook.metadata.kernelspec) == {"display_name", "language", "name"}


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    # Each ends with something to look at, and none writes beside itself.
    assert outputs[-1].output_type in ("execute_result", "display_data")
    assert os.listdir(path.parent) == [entry for entry in os.listdir(path.parent) if entry.endswith((".ipynb", ".md"))]
