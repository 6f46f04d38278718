"""The server in a process of its own: a real run, real clients, signals, connections that are slow or break."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from transformers import AutoTokenizer

from pipeline import finetune, predict
from pipeline.cli.main import execute
from pipeline.deploy.serving.server import listening_socket
from tests.helpers.families import recipe_of, sentences
from tests.helpers.served_stub import expected
from tests.helpers.server_process import running, stub_server

INFER = "v2/models/tiny/infer"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    return finetune(recipe_of("single-label", folder), out=folder / "run")


@pytest.mark.slow
def test_a_run_is_served_with_the_answers_of_predict(run, tmp_path):
    texts = sentences(40, seed=1)
    lines = list(predict(run, texts))
    with running(["pipeline", "serve", str(run.path), "--port", "0"], tmp_path, {"TOKEN": "secret"}) as server:
        assert same(whole(server, texts), lines) and same(one_by_one(server, texts), lines)
        assert same([json.loads(by_curl(server, {"text": texts[3]})) | {"index": 3}], lines[3:4])
        check_outputs(server, run, texts[:7], lines)
        assert server.stop() == 0
    statuses = [line["status"] for line in server.logged() if line["event"] == "request"]
    assert len(statuses) == 44 and set(statuses) == {200}
    assert "secret" not in server.log.read_text() and texts[0] not in server.log.read_text()


def whole(server, texts):
    """The answers to all texts in one request."""
    headers = {"Authorization": "Bearer secret"}
    response = httpx.post(f"{server.url}/predict", content="\n".join(texts).encode(), headers=headers, timeout=60)
    return [json.loads(line) for line in response.text.splitlines()]


def one_by_one(server, texts):
    """The answers to texts that are sent at the same time, each in a request of its own."""
    answers = {}

    def ask(i):
        headers = {"Authorization": "Bearer secret"}
        response = httpx.post(f"{server.url}/predict", json={"text": texts[i]}, headers=headers, timeout=60)
        answers[i] = response.json() | {"index": i}

    threads = [threading.Thread(target=ask, args=[i]) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[i] for i in range(len(texts))]


def by_curl(server, row):
    command = ["curl", "-sS", f"{server.url}/predict", "-H", "Authorization: Bearer secret", "-d", json.dumps(row)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check_outputs(server, run, texts, lines):
    """The logits for texts are those for their token ids, and both say what `predict` says."""
    tokens = AutoTokenizer.from_pretrained(run.path / "model")(
        texts, padding=True, truncation=True, max_length=32, return_tensors="np"
    )
    of_text = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    of_tokens = [
        {"name": name, "shape": list(values.shape), "datatype": "INT64", "data": values.tolist()}
        for name, values in tokens.items()
    ]
    found = []
    for inputs in ([of_text], of_tokens):
        headers = {"Authorization": "Bearer secret"}
        response = httpx.post(f"{server.url}/{INFER}", json={"inputs": inputs}, headers=headers, timeout=60).json()
        outputs = {output["name"]: output for output in response["outputs"]}
        assert outputs["label"]["data"] == [line["prediction"] for line in lines[: len(texts)]]
        found.append(np.reshape(outputs["logits"]["data"], outputs["logits"]["shape"]))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    scores = np.exp(found[0]).max(axis=1) / np.exp(found[0]).sum(axis=1)
    np.testing.assert_allclose(scores, [line["score"] for line in lines[: len(texts)]], atol=1e-5)


def same(found, lines):
    """Whether lines are equal; a score may differ by what other rows in its batch change."""
    near = all(abs(a.pop("score") - b["score"]) < 1e-5 for a, b in zip(found, lines, strict=True))
    return near and found == [{key: value for key, value in line.items() if key != "score"} for line in lines]


def load(server, num_clients, stop_after):
    """Clients that ask without pause until they cannot connect: what they got right, wrong and not at all."""
    right, wrong, lost = [], [], []

    def work(number):
        with httpx.Client(timeout=30) as client:
            for i in range(10_000):
                text = f"sleep 0.05 client {number} request {i}"
                try:
                    response = client.post(f"{server.url}/predict", json={"text": text})
                except httpx.ConnectError:
                    return
                except httpx.TransportError as error:
                    lost.append(repr(error))
                    return
                is_right = response.status_code == 200 and response.json()["prediction"] == expected(text)
                (right if is_right else wrong).append(text)

    threads = [threading.Thread(target=work, args=[i]) for i in range(num_clients)]
    for thread in threads:
        thread.start()
    time.sleep(stop_after)
    code = server.stop()
    for thread in threads:
        thread.join()
    return code, right, wrong, lost


@pytest.mark.slow
def test_a_server_that_is_stopped_under_load_answers_all_that_it_has_taken(tmp_path):
    with stub_server(tmp_path, batch_rows=4) as server:
        code, right, wrong, lost = load(server, num_clients=12, stop_after=1.5)
    assert (code, wrong, lost) == (0, [], []) and len(right) > 12
    assert len(right) == sum(line["status"] == 200 for line in server.logged())


@pytest.mark.slow
def test_slow_and_broken_connections_end_and_the_next_request_is_answered(tmp_path):
    with stub_server(tmp_path, read_seconds=1, drain_seconds=0.1) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        silent, half_head, half_body, gone = (socket.create_connection(address) for _ in range(4))
        half_head.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-")
        half_body.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nab")
        blocker = threading.Thread(target=lambda: httpx.post(f"{server.url}/predict", content=b"sleep 0.5"))
        blocker.start()
        time.sleep(0.2)
        gone.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nlost")
        time.sleep(0.1)
        gone.close()
        for connection in (silent, half_head, half_body):
            connection.settimeout(10)
        assert half_body.makefile("rb").read().startswith(b"HTTP/1.1 408 ")  # to its end: it is closed
        assert ended(silent) and ended(half_head)
        blocker.join()
        assert httpx.post(f"{server.url}/predict", content=b"ab").json()["prediction"] == "ba"
        assert server.stop(signal.SIGINT) == 0
    assert sorted(line["status"] for line in server.logged()) == [200, 200, 408, 499]


def ended(connection):
    """Whether the other side has closed or broken a connection without a word."""
    try:
        return connection.recv(1000) == b""
    except ConnectionResetError:
        return True


def test_answers_do_not_wait_for_the_other_side_to_confirm_their_heads():
    """asyncio sets TCP_NODELAY only for sockets whose protocol says TCP; else each answer takes 40 ms more."""
    with listening_socket("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def refused(capsys, *arguments):
    """What a command that must be refused says."""
    code = execute(["serve", *map(str, arguments)])
    out, error = capsys.readouterr()
    assert (code, out) == (2, "") and "Traceback" not in error
    return error


def test_what_cannot_be_served_is_refused_in_one_message(run, tmp_path, capsys, monkeypatch):
    assert f"{tmp_path} is not a finished run" in refused(capsys, tmp_path)
    assert "no run is named; name its directory" in refused(capsys, "")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(capsys, run.path, "--port", port)
        assert f"port {port} of 127.0.0.1 is in use" in said and "PORT=number" in said
    assert "port is 65536, but must be 0 to 65535" in refused(capsys, run.path, "--port", 65536)
    assert "host nowhere.invalid is not known" in refused(capsys, run.path, "--host", "nowhere.invalid")
    assert "train.epochs would be ignored" in refused(capsys, run.path, "--port", 0, "--set", "train.epochs=1")
    monkeypatch.setenv("TOKEN", " ")
    assert "TOKEN is set, but empty" in refused(capsys, run.path)
    monkeypatch.delenv("TOKEN")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install '.[serve]'" in refused(capsys, run.path)


def test_who_can_be_reached_from_other_machines_without_a_token_is_warned(run, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.deploy.serving.server.serve", lambda *arguments: None)
    for host, token, is_warned in (("0.0.0.0", None, True), ("0.0.0.0", "secret", False), ("127.0.0.1", None, False)):
        monkeypatch.setenv("TOKEN", token) if token else monkeypatch.delenv("TOKEN", raising=False)
        assert execute(["serve", str(run.path), "--host", host, "--port", "0"]) == 0
        assert ("can be reached from other machines" in capsys.readouterr().err) == is_warned
