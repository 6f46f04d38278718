"""Every number format of a safetensors file is read as PyTorch reads it; files have the usual mode."""

import json
import os
import re
import struct

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.models.safetensors_files import read_safetensors, write_safetensors

FORMATS = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_each_format_is_read_as_pytorch_reads_it(dtype, tmp_path):
    every_byte = torch.arange(256, dtype=torch.uint8).repeat(8)
    values = every_byte.view(dtype) if dtype is not torch.bool else every_byte > 100
    save_file(
        {"matrix": values.reshape(2, -1), "empty": values[:0].clone(), "number": values[3].clone()},
        tmp_path / "x.safetensors",
    )
    expected = load_file(tmp_path / "x.safetensors")
    found = read_safetensors(tmp_path / "x.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        wanted = tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
        assert found[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(found[name].astype(wanted.numpy().dtype), wanted.numpy())


def test_a_format_that_holds_no_numbers_of_its_own_is_refused_with_the_way_out(tmp_path):
    header = json.dumps({"scale": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    with pytest.raises(SafetensorError, match=re.escape("scale is stored as F8_E8M0; save it as float32, bfloat16")):
        read_safetensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_file_has_the_mode_of_any_new_file(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        write_safetensors(tmp_path / "x.safetensors", {"matrix": np.ones((5, 7)).T}, metadata={"format": "pt"})
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == mode
    np.testing.assert_array_equal(read_safetensors(tmp_path / "x.safetensors")["matrix"], np.ones((7, 5)))


def test_a_single_number_stays_one(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", {"step": np.array(5)})
    step = read_safetensors(tmp_path / "x.safetensors")["step"]
    assert step.shape == () and step == 5


def test_a_torn_file_is_refused(tmp_path):
    save_file({"matrix": torch.zeros(5, 7)}, tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    for length in (0, 5, 20, len(whole) - 1):
        (tmp_path / "x.safetensors").write_bytes(whole[:length])
        with pytest.raises(SafetensorError):
            read_safetensors(tmp_path / "x.safetensors")
