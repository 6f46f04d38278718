"""The Open Inference Protocol: messages as its documents show them, and messages that are wrong."""

import json
import struct

import numpy as np
import pytest

from pipeline import UserError
from pipeline.deploy.serving.inference_protocol import read_request, text_array, write_response


def message(**tensor):
    """A request with one input, as bytes."""
    return json.dumps({"inputs": [{"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2]} | tensor]}).encode()


def test_the_request_of_the_specification_is_read():
    """The request in the section "Inference Request Examples", with types that a model of texts has."""
    body = b"""{"id": "42", "inputs": [
        {"name": "input0", "shape": [2, 2], "datatype": "INT32", "data": [1, 2, 3, 4]},
        {"name": "input1", "shape": [3], "datatype": "BYTES", "data": ["true", "", "false"]}],
        "outputs": [{"name": "output0"}]}"""
    request, tensors = read_request(body, None)
    assert request.id == "42" and [output.name for output in request.outputs] == ["output0"]
    assert tensors[0].values.tolist() == [[1, 2], [3, 4]] and tensors[1].values.tolist() == ["true", "", "false"]


def test_nested_data_are_those_of_flat_data_and_unknown_keys_are_left_alone():
    _, nested = read_request(message(shape=[1, 2], data=[[1, 2]], parameters={"kept": True}), None)
    assert nested[0].values.tolist() == [[1, 2]]


def test_tensors_behind_the_json_are_read_in_the_order_of_the_inputs():
    """Bytes as Triton's extension has them: the lowest byte of numbers and of the lengths of texts is first."""
    texts = b"\x02\x00\x00\x00ab" + b"\x00\x00\x00\x00" + b"\x03\x00\x00\x00\xe2\x82\xac"
    numbers = b"\x01" + bytes(7) + b"\xff" * 8
    inputs = [
        {"name": "t", "shape": [3], "datatype": "BYTES", "parameters": {"binary_data_size": len(texts)}},
        {"name": "n", "shape": [2], "datatype": "INT64", "parameters": {"binary_data_size": len(numbers)}},
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    request, tensors = read_request(head + texts + numbers, str(len(head)))
    assert tensors[0].values.tolist() == ["ab", "", "€"] and tensors[1].values.tolist() == [1, -1]
    assert request.wants_binary("any")


def test_a_response_has_each_output_as_it_is_wanted():
    head = {"id": "7", "inputs": [], "parameters": {"binary_data_output": True}}
    head["outputs"] = [{"name": "score"}, {"name": "label", "parameters": {"binary_data": False}}]
    request, _ = read_request(json.dumps(head).encode(), None)
    labels = np.stack([text_array("a"), text_array("ü")])
    outputs = {"score": np.array([[0.5], [-2.0]], np.float32), "label": labels}
    body, length = write_response(request, "m", "1", outputs)
    assert json.loads(body[:length]) == {
        "model_name": "m", "model_version": "1", "id": "7",
        "outputs": [
            {"name": "score", "shape": [2, 1], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "label", "shape": [2], "datatype": "BYTES", "data": ["a", "ü"]},
        ],
    }  # fmt: skip
    assert struct.unpack("<2f", body[length:]) == (0.5, -2.0)


def test_texts_are_written_as_bytes_with_their_lengths():
    request, _ = read_request(b'{"inputs": [], "outputs": [{"name": "l", "parameters": {"binary_data": true}}]}', None)
    body, length = write_response(request, "m", "1", {"l": np.stack([text_array("ü"), text_array("")])})
    assert body[length:] == b"\x02\x00\x00\x00\xc3\xbc\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the request is not JSON"),
        (b"\xff", "the request is not JSON"),
        (b"[]", "the request must be"),
        (b'{"inputs": [{"name": "x", "shape": [NaN]}]}', "NaN is not JSON"),
        (b"[" * 100_000, "the request is not JSON"),
        (b"{}", "inputs"),
        (message(shape=[-2]), r"inputs\.0\.shape\.0 must be greater than or equal to 0"),
        (message(shape=[2.5]), r"inputs\.0\.shape\.0 must be a valid integer"),
        (message(shape=[True, True]), r"inputs\.0\.shape\.0 must be a valid integer"),
        (message(shape="2"), r"inputs\.0\.shape must be a valid list"),
        (message(shape=[3]), r"input x has 2 elements, but its shape is \[3\]"),
        (message(data=[1, "2"]), "input x is of type INT64, so its data must be whole numbers"),
        (message(data=[1, True]), "must be whole numbers"),
        (message(data=[1, 2.0]), "must be whole numbers"),
        (message(data=[1, 2**63]), "input x has a number that INT64 cannot hold"),
        (message(data=[[[[[[[[[1, 2]]]]]]]]]), "nested more than 8 times"),
        (message(datatype="BYTES"), "input x is of type BYTES, so its data must be texts"),
        (message(datatype="FP32"), "input x is of type FP32, but must be of type BYTES for texts or INT64"),
        (message(data=None), "input x needs either data or the parameter binary_data_size"),
        (message(parameters={"binary_data_size": 16}), "input x needs either data or the parameter"),
        (message(data=None, parameters={"binary_data_size": 16}), "only 0 bytes are left"),
        (message(data=None, parameters={"binary_data_size": -1}), "binary_data_size must be greater"),
        (b'{"inputs": [' + message()[12:-2] + b", " + message()[12:-2] + b"]}", "input x is given twice"),
    ],
)
def test_a_wrong_request_is_refused_with_the_field_that_is_wrong(body, said):
    with pytest.raises(UserError, match=said):
        read_request(body, None)


@pytest.mark.parametrize(
    ("binary", "shape", "datatype", "said"),
    [
        (b"\x05\x00\x00\x00ab", [1], "BYTES", "ends in the middle of a text"),
        (b"\x05\x00", [1], "BYTES", "ends in the middle of a text"),
        (b"\x01\x00\x00\x00\xff", [1], "BYTES", "has a text that is not UTF-8"),
        (b"\x01\x00\x00\x00a", [2], "BYTES", "has 1 elements, but its shape is"),
        (bytes(9), [1], "INT64", "9 bytes, which are not whole numbers of type INT64"),
        (bytes(8), [1], "FP64", "is of type FP64"),
    ],
)
def test_wrong_bytes_are_refused_with_the_input_that_is_wrong(binary, shape, datatype, said):
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(binary)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(UserError, match=f"input x .*{said}"):
        read_request(head + binary, str(len(head)))


@pytest.mark.parametrize("length", ["-1", "x", "", "999", "9" * 5000, "²"])
def test_a_wrong_length_of_the_json_is_refused(length):
    with pytest.raises(UserError, match="inference-header-content-length"):
        read_request(message(), length)


def test_bytes_that_no_input_has_are_refused():
    with pytest.raises(UserError, match="3 bytes follow the tensors"):
        read_request(message() + b"abc", str(len(message())))
