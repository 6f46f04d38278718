"""Reads and writes safetensors files as NumPy: every number format, also those that NumPy lacks; usual file modes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

# How a format is stored; those that NumPy lacks are read as whole numbers of the same size.
_STORED = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E5M2": "u1", "F8_E4M3": "u1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip


def write_safetensors(file: Path, tensors: Mapping[str, NDArray], metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name, with the mode that any new file has. Raises OSError and SafetensorError."""
    file.touch()
    mode = file.stat().st_mode
    save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, file, metadata)
    # The library makes files that only their owner may read.
    file.chmod(mode)


def read_safetensors(file: str | Path) -> dict[str, NDArray]:
    """The tensors of a safetensors file by name: bfloat16 and 8-bit floats as float32, all others as they are.

    Raises SafetensorError for a damaged file and for a format that cannot be read, and OSError.
    """
    with safe_open(file, framework="numpy"):
        pass  # opening it checks the header against the size of the file
    tensors = {}
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, tensor in header.items():
            dtype, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
            if dtype not in _STORED:
                raise SafetensorError(f"{name} is stored as {dtype}; save it as float32, bfloat16 or float16")
            stream.seek(8 + length + begin)
            stored = np.fromfile(stream, _STORED[dtype], (end - begin) // np.dtype(_STORED[dtype]).itemsize)
            tensors[name] = _AS_FLOAT32.get(dtype, _unchanged)(stored).reshape(shape)
    return tensors


def _unchanged(stored: NDArray) -> NDArray:
    return stored


def _from_bfloat16(stored: NDArray[np.uint16]) -> NDArray[np.float32]:
    """A bfloat16 is the upper half of a float32."""
    return (stored.astype(np.uint32) << 16).view(np.float32)


def _from_e5m2(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """An 8-bit float with 5 bits of exponent is the upper half of a float16."""
    return (stored.astype(np.uint16) << 8).view(np.float16).astype(np.float32)


def _from_e4m3(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """An 8-bit float with 4 bits of exponent: no infinity, one NaN of each sign. Source: Micikevicius et al. 2022."""
    byte = np.arange(256)
    sign, exponent, fraction = byte >> 7, byte >> 3 & 15, byte & 7
    magnitude = np.where(exponent > 0, 2.0 ** (exponent - 7) * (1 + fraction / 8), 2.0**-6 * fraction / 8)
    values = np.where(byte & 127 == 127, np.nan, np.where(sign == 1, -magnitude, magnitude))
    return values.astype(np.float32)[stored]


_AS_FLOAT32: dict[str, Callable[[NDArray], NDArray]] = {
    "BF16": _from_bfloat16,
    "F8_E5M2": _from_e5m2,
    "F8_E4M3": _from_e4m3,
}
