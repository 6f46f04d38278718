"""Whether the files of a run's model are those that the run wrote: their sizes and SHA-256 are in its record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.runs.record import FileRecord
from pipeline.utils.errors import UserError
from pipeline.utils.files import reason
from pipeline.utils.hashing import file_fault, sha256_of_file

# People edit it, and nothing reads it.
MODEL_CARD = "README.md"
# Up to this size a file is read whenever its run is, as a config is; weights are read when the model is loaded.
SMALL_BYTES = 2**20


def records_of(folder: Path) -> dict[str, FileRecord]:
    """Size and SHA-256 of each file of a model's folder except its card, by name. Raises OSError."""
    files = sorted(file for file in folder.iterdir() if file.name != MODEL_CARD)
    return {file.name: FileRecord(bytes=file.stat().st_size, sha256=sha256_of_file(file)) for file in files}


def refuse_altered(folder: Path, written: Mapping[str, FileRecord], thorough: bool) -> None:
    """Raise UserError if a file of a model's folder is not as it was written, by its run's record.

    Sizes are compared, and the SHA-256 of small files. `thorough` compares that of all files, and refuses missing ones,
    for those who load the model; a run whose model was deleted to save room can be reported.
    """
    for name, expected in written.items():
        file = folder / name
        is_read = thorough or expected.bytes <= SMALL_BYTES
        try:
            fault = "is missing" if thorough else None
            if file.is_file():
                fault = file_fault(file, expected.bytes, expected.sha256 if is_read else None)
        except OSError as error:
            fault = f"cannot be read: {reason(error)}"
        if fault:
            raise UserError(
                f"{file} {fault}; restore it or repeat the run. If it was changed on purpose, delete its entry in "
                f"model_files of {folder.parent / 'metrics.json'}, and it is not verified"
            )
