"""Runs exported models with their runtimes alone: arrays in, arrays out, without transformers.

A process that imports this file needs NumPy and the runtime of the format; the proof runs it where neither transformers
nor the other framework can be imported.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Protocol

from numpy.typing import NDArray

from pipeline.deploy.manifest import Manifest
from pipeline.utils.environment import THREAD_VARIABLES, usable_cores
from pipeline.utils.errors import UserError

Arrays = dict[str, NDArray]


class Tensor(Protocol):
    """What PyTorch answers."""

    def numpy(self) -> NDArray:
        """Its value."""
        ...


class Runtime(Protocol):
    """An exported model, loaded."""

    def run(self, inputs: Mapping[str, NDArray]) -> Arrays:
        """The outputs for a batch, by name; `inputs` has those of the manifest, [B, T], of its types."""
        ...


class OnnxModel:
    """An ONNX model in onnxruntime."""

    def __init__(self, path: Path, manifest: Manifest):
        onnxruntime = _runtime(manifest)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = list(manifest.outputs)

    def run(self, inputs: Mapping[str, NDArray]) -> Arrays:
        """The outputs for a batch, by name."""
        return dict(zip(self.names, self.session.run(self.names, dict(inputs)), strict=True))


class ExportedProgram:
    """A program of torch.export in PyTorch."""

    def __init__(self, path: Path, manifest: Manifest):
        self.torch = _runtime(manifest)
        self.program = self.load(path)
        self.names = list(manifest.outputs)

    def load(self, path: Path) -> Callable[..., Sequence[Tensor]]:
        """The program."""
        return self.torch.export.load(str(path)).module()

    def run(self, inputs: Mapping[str, NDArray]) -> Arrays:
        """The outputs for a batch, by name."""
        with self.torch.inference_mode():
            outputs = self.program(**{name: self.torch.from_numpy(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in zip(self.names, outputs, strict=True)}


class TorchScript(ExportedProgram):
    """A traced model in PyTorch, which calls this way of exporting deprecated."""

    def load(self, path: Path) -> Callable[..., Sequence[Tensor]]:
        """The traced model."""
        return self.torch.jit.load(str(path))


class CompiledPackage(ExportedProgram):
    """A model that AOTInductor has compiled to machine code, in PyTorch."""

    def load(self, path: Path) -> Callable[..., Sequence[Tensor]]:
        """The compiled model."""
        return importlib.import_module("torch._inductor").aoti_load_package(str(path))


class SavedModel:
    """A SavedModel in TensorFlow, asked through its signature serving_default."""

    def __init__(self, path: Path, manifest: Manifest):
        self.tensorflow = _runtime(manifest)
        self.model = self.tensorflow.saved_model.load(str(path))  # the signature does not keep its variables alive
        self.signature = self.model.signatures["serving_default"]

    def run(self, inputs: Mapping[str, NDArray]) -> Arrays:
        """The outputs for a batch, by name."""
        answer = self.signature(**{name: self.tensorflow.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in answer.items()}


class LiteRtModel:
    """A LiteRT model in its interpreter, whose tensors are resized for each new shape of the batch."""

    def __init__(self, path: Path, manifest: Manifest):
        _runtime(manifest)
        interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter
        self.interpreter = interpreter(model_path=str(path), num_threads=_threads())
        self.interpreter.allocate_tensors()  # it tells then how it computes, and not at the first batch
        signature = self.interpreter.get_signature_runner("serving_default")
        self.inputs = {name: details["index"] for name, details in signature.get_input_details().items()}
        self.outputs = {name: details["index"] for name, details in signature.get_output_details().items()}
        self.shape: tuple[int, ...] = ()

    def run(self, inputs: Mapping[str, NDArray]) -> Arrays:
        """The outputs for a batch, by name."""
        shape = next(iter(inputs.values())).shape
        if shape != self.shape:
            for index in self.inputs.values():
                self.interpreter.resize_tensor_input(index, shape)
            self.interpreter.allocate_tensors()
            self.shape = shape
        for name, index in self.inputs.items():
            self.interpreter.set_tensor(index, inputs[name])
        self.interpreter.invoke()
        return {name: self.interpreter.get_tensor(index).copy() for name, index in self.outputs.items()}


def runtime_version(manifest: Manifest) -> str:
    """The runtime's name and version: "onnxruntime 1.32.0"."""
    package = manifest.facts.runtime.replace("_", "-")
    return f"{package} {version(package)}"


def _threads() -> int:
    """How many threads a runtime computes with, as many as the frameworks do."""
    return int(os.environ.get(THREAD_VARIABLES[0]) or usable_cores())


def _runtime(manifest: Manifest) -> ModuleType:
    """The runtime's module. Raises UserError if it is not installed."""
    facts = manifest.facts
    try:
        return importlib.import_module(facts.runtime)
    except ModuleNotFoundError as error:
        if error.name != facts.runtime:
            raise
        raise UserError(
            f"an export to {facts.title} is run by {facts.runtime}, which is not installed; "
            f"pip install '.[{facts.extra}]'"
        ) from error
