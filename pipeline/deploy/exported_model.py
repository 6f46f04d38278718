"""An export's model in its runtime, and the process that answers for the proof: without transformers, with NumPy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import GenerationSettings, OnToken
from pipeline.deploy.manifest import Manifest, read_manifest
from pipeline.deploy.runtimes import (
    Arrays,
    CompiledPackage,
    ExportedProgram,
    LiteRtModel,
    OnnxModel,
    Runtime,
    SavedModel,
    TorchScript,
    runtime_version,
)
from pipeline.deploy.writers import OnnxWriter, SavedWriter, Writer
from pipeline.utils.environment import without_native_noise
from pipeline.utils.errors import UserError

_CLASSES: dict[str, Callable[[Path, Manifest], Runtime]] = {
    "pt2": ExportedProgram,
    "aoti": CompiledPackage,
    "torchscript": TorchScript,
    "onnx": OnnxModel,
    "savedmodel": SavedModel,
    "litert": LiteRtModel,
}
_WRITERS: dict[str, Callable[[Path, Manifest], Writer]] = {"onnx": OnnxWriter, "savedmodel": SavedWriter}


class ExportedModel:
    """The model of an export's folder in its runtime; inputs may have any integer type."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.manifest, path = manifest, folder / manifest.file
        self.writer = None if manifest.writing is None else _WRITERS[manifest.format](path, manifest)
        self.runtime = self.writer or _CLASSES[manifest.format](path, manifest)

    def run(self, inputs: Mapping[str, NDArray]) -> Arrays:
        """The outputs for a batch, by name, float32; `inputs` are [B, T], and more than the model reads are ignored."""
        return self.runtime.run(self.typed(inputs))

    def generate(
        self, inputs: Mapping[str, NDArray], settings: GenerationSettings, on_token: OnToken | None = None
    ) -> NDArray[np.int32]:
        """Token ids [B, T] that the model writes, the prompt of a decoder included. Raises UserError if it cannot."""
        if self.writer is None:
            raise UserError(f"a {self.manifest.architecture} writes no texts")
        writing = self.manifest.writing
        if self.manifest.format == "savedmodel" and any(getattr(writing, key) != settings[key] for key in settings):
            raise UserError("a SavedModel writes with the settings that it was exported with; leave options.* out")
        return self.writer.generate(self.typed(inputs), settings, on_token)

    def typed(self, inputs: Mapping[str, NDArray]) -> Arrays:
        """What the model reads of the inputs, in its types."""
        tensors = self.manifest.inputs
        return {name: np.ascontiguousarray(inputs[name], tensors[name].dtype) for name in tensors if name in inputs}


def load_model(folder: Path, manifest: Manifest | None = None) -> ExportedModel:
    """The model of an export's folder in its runtime. Raises UserError if the runtime is not installed."""
    with without_native_noise():
        return ExportedModel(folder, manifest or read_manifest(folder))


class Without(MetaPathFinder):
    """Finds modules as the finders of this process do, but for some that then do not exist."""

    def __init__(self, names: Sequence[str]):
        self.names, self.finders = set(names), list(sys.meta_path)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module is; None for one that is left out, or in such a one."""
        if name.partition(".")[0] in self.names:
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in found if spec is not None), None)


def answer_all(
    send: Callable[[Arrays], None],
    folder: Path,
    batches: Sequence[tuple[Mapping[str, NDArray], GenerationSettings | None]],
) -> str:
    """Send the model's outputs for each batch in order, or with settings the texts that it writes.

    Returns the runtime's name and version.

    It is meant for a fresh process, in which the modules that the manifest names as absent cannot be imported.
    """
    manifest = read_manifest(folder)
    absent = manifest.facts.absent
    if imported := [name for name in absent if name in sys.modules]:
        raise AssertionError(f"{', '.join(imported)} had been imported before the proof began")
    runtime = runtime_version(manifest)  # which is found by the finders that are now replaced
    sys.meta_path[:] = [Without(absent)]
    model = load_model(folder, manifest)
    for inputs, settings in batches:
        send(model.run(inputs) if settings is None else {"ids": model.generate(inputs, settings)})
    assert not [name for name in absent if name in sys.modules]
    return runtime
