"""The Open Inference Protocol, version 2, which KServe's and Triton's clients speak: requests, tensors, responses.

Source: https://github.com/kserve/open-inference-protocol, and for tensors as bytes behind the JSON the extension
"binary tensor data" of the Triton Inference Server. In NumPy and pydantic; nothing here knows of models or of HTTP.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.utils.errors import UserError
from pipeline.utils.files import json_line, strict_json
from pipeline.utils.text import join_names, requirement, shorten

# The header of a request or response with binary tensors: how many bytes of its body are JSON.
HEADER_LENGTH = "inference-header-content-length"
EXTENSIONS = ("binary_tensor_data",)
# The element of each numeric type that is read, and of FP32, which is only written.
_ELEMENTS = {"INT64": "<i8", "INT32": "<i4", "FP32": "<f4"}
_INTEGERS = ("INT64", "INT32")
_MOST_DIMENSIONS = 8
_Size = Annotated[int, Field(ge=0, le=2**31)]


class _Message(BaseModel):
    """Keys that the protocol does not have are left alone: clients add their own."""

    model_config = ConfigDict(strict=True, extra="ignore")


class InputParameters(_Message):
    """How a tensor is sent."""

    binary_data_size: _Size | None = None


class OutputParameters(_Message):
    """How a tensor is wanted."""

    binary_data: bool | None = None


class RequestParameters(_Message):
    """How all tensors are wanted whose own parameters do not say it."""

    binary_data_output: bool = False


class InputTensor(_Message):
    """A tensor of a request; `data` is flat or nested, in row-major order."""

    name: str
    shape: list[_Size]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[object] | None = None


class RequestedOutput(_Message):
    """An output that the client wants."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferenceRequest(_Message):
    """The JSON of a request."""

    id: str | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] = []

    def wants_binary(self, name: str) -> bool:
        """Whether an output is wanted as bytes."""
        own = next((each.parameters.binary_data for each in self.outputs if each.name == name), None)
        return self.parameters.binary_data_output if own is None else own


@dataclass(frozen=True)
class Tensor:
    """A named array: int64, int32 or float32, or of objects that are texts."""

    name: str
    values: NDArray


def read_request(body: bytes, header_length: str | None) -> tuple[InferenceRequest, list[Tensor]]:
    """A request and its inputs; `header_length` is the value of the header HEADER_LENGTH.

    Raises UserError naming the field that is wrong.
    """
    size = len(body) if header_length is None else _header_size(header_length, len(body))
    try:
        content = strict_json(body[:size].decode())
        request = InferenceRequest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc'])) or 'the request'} {requirement(first['msg'])}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the request is not JSON: {shorten(str(error), 200)}") from error
    return request, _read_tensors(request.inputs, memoryview(body)[size:])


def _header_size(header_length: str, body_length: int) -> int:
    if not (header_length.isascii() and header_length.isdecimal()) or int(header_length[:18]) > body_length:
        raise UserError(
            f"the header {HEADER_LENGTH} is {shorten(header_length, 20)!r}, but must be a number of bytes of the body, "
            f"which has {body_length}"
        )
    return int(header_length)


def _read_tensors(inputs: Sequence[InputTensor], binary: memoryview) -> list[Tensor]:
    """The arrays of the inputs; those that are sent as bytes follow one another. Raises UserError."""
    tensors: list[Tensor] = []
    for tensor in inputs:
        name = shorten(tensor.name, 40)
        if name in [each.name for each in tensors]:
            raise UserError(f"input {name} is given twice")
        size = tensor.parameters.binary_data_size
        if (size is None) == (tensor.data is None):
            raise UserError(f"input {name} needs either data or the parameter binary_data_size")
        if size is not None and size > len(binary):
            raise UserError(f"input {name} has binary_data_size {size}, but only {len(binary)} bytes are left")
        if size is None:
            flat = _from_json(name, tensor)
        else:
            flat, binary = _from_bytes(name, tensor, binary[:size]), binary[size:]
        if math.prod(tensor.shape) != len(flat):
            raise UserError(f"input {name} has {len(flat)} elements, but its shape is {tensor.shape}")
        tensors.append(Tensor(name, flat.reshape(tensor.shape)))
    if len(binary):
        raise UserError(f"{len(binary)} bytes follow the tensors, but no input has them")
    return tensors


def _from_json(name: str, tensor: InputTensor) -> NDArray:
    flat = list(_flat(name, tensor.data or []))
    if tensor.datatype == "BYTES":
        if not all(isinstance(value, str) for value in flat):
            raise UserError(f"input {name} is of type BYTES, so its data must be texts")
        return _objects(flat)
    if not all(type(value) is int for value in flat):
        raise UserError(f"input {name} is of type {_known(name, tensor)}, so its data must be whole numbers")
    try:
        return np.array(flat, dtype=_ELEMENTS[_known(name, tensor)])
    except OverflowError as error:
        raise UserError(f"input {name} has a number that {tensor.datatype} cannot hold") from error


def _from_bytes(name: str, tensor: InputTensor, data: memoryview) -> NDArray:
    if tensor.datatype == "BYTES":
        return _texts(name, bytes(data))
    element = np.dtype(_ELEMENTS[_known(name, tensor)])
    if len(data) % element.itemsize:
        raise UserError(f"input {name} has {len(data)} bytes, which are not whole numbers of type {tensor.datatype}")
    return np.frombuffer(data, element)


def _known(name: str, tensor: InputTensor) -> str:
    """The type of a tensor of numbers. Raises UserError."""
    if tensor.datatype not in _INTEGERS:
        given = shorten(tensor.datatype, 20)
        raise UserError(f"input {name} is of type {given}, but must be of type BYTES for texts or INT64 for token ids")
    return tensor.datatype


def _flat(name: str, data: Sequence[object], depth: int = 1) -> Iterable[object]:
    """The elements of nested lists. Raises UserError if they are deeper than any tensor."""
    if depth > _MOST_DIMENSIONS:
        raise UserError(f"the data of input {name} are nested more than {_MOST_DIMENSIONS} times")
    for value in data:
        if isinstance(value, list):
            yield from _flat(name, value, depth + 1)
        else:
            yield value


def _texts(name: str, data: bytes) -> NDArray:
    """Texts that each follow their length in bytes, a number of four bytes, the lowest first."""
    texts, at = [], 0
    while at < len(data):
        if at + 4 > len(data) or at + 4 + (size := int.from_bytes(data[at : at + 4], "little")) > len(data):
            raise UserError(f"input {name} ends in the middle of a text; each follows its length in four bytes")
        try:
            texts.append(data[at + 4 : at + 4 + size].decode())
        except UnicodeDecodeError as error:
            raise UserError(f"input {name} has a text that is not UTF-8") from error
        at += 4 + size
    return _objects(texts)


def text_array(text: str) -> NDArray:
    """A text as an array without dimensions."""
    return _objects([text]).reshape(())


def _objects(texts: Sequence[object]) -> NDArray:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def write_response(
    request: InferenceRequest, model: str, version: str, outputs: Mapping[str, NDArray]
) -> tuple[bytes, int | None]:
    """The body of a response with these outputs, and the length of its JSON if tensors follow it as bytes."""
    described: list[dict[str, object]] = []
    binary: list[bytes] = []
    for name, values in outputs.items():
        tensor: dict[str, object] = {"name": name, "shape": list(values.shape), "datatype": datatype_of(values)}
        if request.wants_binary(name):
            binary.append(_to_bytes(values))
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = values.ravel().tolist()
        described.append(tensor)
    content: dict[str, object] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id is not None:
        content["id"] = request.id
    head = json_line(content).encode()
    return head + b"".join(binary), len(head) if binary else None


def datatype_of(values: NDArray) -> str:
    """The protocol's name for the type of an array."""
    if values.dtype == object:
        return "BYTES"
    return next(name for name, element in _ELEMENTS.items() if values.dtype == element)


def _to_bytes(values: NDArray) -> bytes:
    if values.dtype == object:
        texts = [str(value).encode() for value in values.ravel()]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return values.astype(_ELEMENTS[datatype_of(values)]).tobytes()


def refuse_unknown_outputs(request: InferenceRequest, known: Iterable[str]) -> None:
    """Raise UserError if an output is wanted that there is not."""
    known = list(known)
    for output in request.outputs:
        if output.name not in known:
            given = shorten(output.name, 40)
            raise UserError(f"there is no output {given} for these inputs; there are {join_names(known, 10)}")
