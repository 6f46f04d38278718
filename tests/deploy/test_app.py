"""The server's endpoints, asked in this process with a stub for a model: answers, refusals, limits, what is logged."""

import asyncio
import io
import json
import threading
import time

import httpx
import pytest

from pipeline.deploy.serving.app import ServerApp
from pipeline.deploy.serving.metrics import RequestLog
from pipeline.deploy.serving.requests import Limits
from tests.helpers.served_stub import StubModel, expected

INFER = "/v2/models/stub/infer"


@pytest.fixture
def start():
    """Makes an application with a stub; `log` is where it logs."""
    apps = []

    def make(token=None, is_local=True, **limits):
        app = ServerApp(StubModel(), Limits(**limits), token, is_local, RequestLog(io.StringIO()))
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.model.gate.set()
        app.batcher.close(10)


def ask(app, method, path, host="localhost", **options):
    """The response to one request."""
    return ask_all(app, [(method, path, options)], host)[0]


def ask_all(app, requests, host="localhost", seconds_after=0.0):
    """The responses to requests that are sent at the same time, in their order.

    Afterwards the app's loop goes on for some seconds: its end would end all that is still written.
    """

    async def send():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}", timeout=20) as client:
            responses = await asyncio.gather(
                *(client.request(method, path, **options) for method, path, options in requests)
            )
            await asyncio.sleep(seconds_after)
            return responses

    return asyncio.run(send())


def logged(app):
    return [json.loads(line) for line in app.log.file.getvalue().splitlines()]


def lines(texts):
    return [{"index": i, "text": text, "prediction": expected(text)} for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ('{"text": "ab"}', lines(["ab"])[0]),
        ('[{"text": "ab"}, "cd"]', lines(["ab", "cd"])),
        ('["ab"]', lines(["ab"])),
    ],
)
def test_predict_answers_an_object_with_an_object_and_a_list_with_a_list(start, body, answer):
    response = ask(start(), "POST", "/predict", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.json() == answer


@pytest.mark.parametrize("body", ['ab\r\n\n{"text": "cd"}\n', '\ufeff{"text": "ab"}\n{"text": "cd"}'])
def test_predict_answers_lines_with_lines(start, body):
    response = ask(start(), "POST", "/predict", content=body.encode())
    assert response.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in response.text.splitlines()] == lines(["ab", "cd"])


def test_a_line_that_separates_lines_only_in_unicode_is_one_line(start):
    response = ask(start(), "POST", "/predict", content="ab\u2028cd".encode())
    assert [json.loads(line)["text"] for line in response.text.splitlines()] == ["ab\u2028cd"]
    assert "\u2028" not in response.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b"\xff", "the body has the byte 0xff, which is not UTF-8"),
        (b"[", "the body is not a JSON list"),
        (b"[" * 100_000, "the body is not a JSON list"),
        (b"[]", "the list has no rows"),
        (b'["a", 3]', "row 2 is '3', but must be a JSON object or a text"),
        (b'[{"text": "a"}, {"txt": "a"}]', 'row 2 has no "text"'),
        (b'{"text": 3}', 'the body has no "text"'),
        (b'{"text": "a"}\n{"txt": "a"}', 'line 2 has no "text"'),
        (b'["refuse"]', "row 1 is refused"),
    ],
)
def test_what_cannot_be_predicted_is_refused_with_its_place(start, body, said):
    response = ask(start(), "POST", "/predict", content=body)
    assert response.status_code == 400 and said in response.json()["error"]


def test_a_json_text_that_is_no_row_is_refused(start):
    response = ask(start(), "POST", "/predict", json="ab")
    assert response.status_code == 400 and "must be a JSON object, or a list" in response.json()["error"]


def test_many_requests_at_once_are_answered_in_batches_and_none_is_mixed_up(start):
    app = start()
    app.model.gate.clear()
    texts = [f"text {i} {'x' * (i % 7)}" for i in range(60)]
    threading.Timer(0.5, app.model.gate.set).start()
    responses = ask_all(app, [("POST", "/predict", {"json": {"text": text}}) for text in texts])
    assert [response.json() for response in responses] == [lines([text])[0] for text in texts]
    assert max(map(len, app.model.calls)) > 1 and max(map(len, app.model.calls)) <= 32


def test_a_wrong_row_of_one_request_costs_no_other_request_its_answer(start):
    app = start()
    app.model.gate.clear()
    threading.Timer(0.5, app.model.gate.set).start()
    texts = ["a", "b", "fail", "c", "refuse", "d"]
    responses = ask_all(app, [("POST", "/predict", {"json": {"text": text}}) for text in texts])
    assert [response.status_code for response in responses] == [200, 200, 500, 200, 400, 200]
    assert [r.json()["prediction"] for r in responses if r.status_code == 200] == ["a", "b", "c", "d"]


def test_a_failure_of_the_model_is_told_to_the_log_and_not_to_the_client(start):
    app = start()
    response = ask(app, "POST", "/predict", json={"text": "fail"})
    assert response.status_code == 500
    assert response.json() == {"error": "the server failed to answer; its log says why"}
    error, request = logged(app)
    assert error["event"] == "error" and "/secret/weights" in error["traceback"]
    assert (request["event"], request["endpoint"], request["status"]) == ("request", "predict", 500)
    assert ask(app, "POST", "/predict", json={"text": "ab"}).json()["prediction"] == "ba"


def test_a_body_that_is_too_large_is_refused_whether_or_not_it_says_its_size(start):
    app = start(body_bytes=100)
    assert ask(app, "POST", "/predict", content=b"x" * 100).status_code == 200

    async def pieces():
        for _ in range(30):
            yield b"x" * 10

    for body in (b"x" * 101, pieces(), b"x" * 5000):
        response = ask(app, "POST", "/predict", content=body)
        assert response.status_code == 413 and "the 100 bytes that it may have" in response.json()["error"]


def test_too_many_rows_and_a_compressed_body_are_refused(start):
    app = start(rows=3)
    assert ask(app, "POST", "/predict", json=["a"] * 3).status_code == 200
    assert "4 rows, but may have 3" in ask(app, "POST", "/predict", json=["a"] * 4).json()["error"]
    response = ask(app, "POST", "/predict", content=b"a", headers={"Content-Encoding": "gzip"})
    assert response.status_code == 415 and "Content-Encoding" in response.json()["error"]


def test_more_rows_than_may_wait_are_refused_with_the_time_to_try_again(start):
    app = start(waiting_rows=2, batch_rows=1)
    app.model.gate.clear()
    threading.Timer(0.5, app.model.gate.set).start()
    responses = ask_all(app, [("POST", "/predict", {"json": {"text": str(i)}}) for i in range(8)])
    refused = [response for response in responses if response.status_code == 503]
    assert 5 <= len(refused) <= 6 and len(refused) + sum(r.status_code == 200 for r in responses) == 8
    assert {response.headers["retry-after"] for response in refused} == {"1"}


def test_a_deadline_ends_a_request_and_the_model_is_not_asked_for_what_is_late(start):
    app = start(deadline_seconds=0.3, batch_rows=1)
    texts = ["sleep 0.8", "late"]
    begin = time.monotonic()
    responses = ask_all(app, [("POST", "/predict", {"json": {"text": text}}) for text in texts])
    assert time.monotonic() - begin < 0.75
    assert [response.status_code for response in responses] == [504, 504]
    assert responses[0].json() == {"error": "there was no answer within 0.3 seconds"}
    assert app.batcher.waiting_rows == 0
    time.sleep(0.6)
    assert ask(app, "POST", "/predict", json={"text": "ab"}).json()["prediction"] == "ba"
    assert ["late"] not in app.model.calls


def test_a_token_is_needed_where_one_is_set(start):
    app = start(token="s€cret")
    right = {"Authorization": "Bearer s€cret".encode()}
    assert ask(app, "POST", "/predict", json=["ab"], headers=right).status_code == 200
    for wrong in (
        {},
        {"Authorization": "Bearer s"},
        {"Authorization": "Basic s€cret".encode()},
        {"Authorization": "x"},
    ):
        for method, path in (("POST", "/predict"), ("POST", INFER), ("GET", "/metrics"), ("GET", "/v2/models/stub")):
            response = ask(app, method, path, headers=wrong)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert ask(app, "GET", "/v2/health/live").status_code == ask(app, "GET", "/").status_code == 200
    assert len(app.model.calls) == 1


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:80", 200),
        ("127.0.0.1:1234", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("10.0.0.1", 421),
        ("[", 421),
    ],
)
def test_a_local_server_answers_only_who_asks_for_this_machine(start, host, status):
    """Else a page of another host, whose name is made to lead here, could read answers in a browser."""
    assert ask(start(), "GET", "/v2", host=host).status_code == status
    assert ask(start(is_local=False), "GET", "/v2", host=host).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/predict", 405), ("POST", "/v2", 405), ("GET", "/v2/models/other", 404),
     ("POST", "/v2/models/other/infer", 404), ("GET", "/v2/models/stub/versions/2", 404),
     ("POST", "/predict?strem=1", 400), ("POST", "/predict?stream=yes", 400)],
)  # fmt: skip
def test_what_is_not_served_is_told_in_json(start, method, path, status):
    response = ask(start(), method, path, content=b"ab" if method == "POST" else None)
    assert response.status_code == status and list(response.json()) == ["error"]


def test_health_and_metadata_are_those_of_the_protocol(start):
    app = start()
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/stub/ready", "/v2/models/stub/versions/1/ready"):
        assert ask(app, "GET", path).status_code == 200
    assert ask(app, "GET", "/v2").json()["extensions"] == ["binary_tensor_data"]
    metadata = ask(app, "GET", "/v2/models/stub").json()
    assert metadata["inputs"] == [
        {"name": "text", "datatype": "BYTES", "shape": [-1]},
        {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "attention_mask", "datatype": "INT64", "shape": [-1, -1]},
    ]
    assert metadata["outputs"][1:] == [
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "logits", "datatype": "FP32", "shape": [-1, 2]},
    ]
    app.is_draining = True
    for path in ("/v2/health/ready", "/v2/models/stub/ready"):
        response = ask(app, "GET", path)
        assert (response.status_code, response.json()["ready"], response.headers["connection"]) == (503, False, "close")
    assert ask(app, "GET", "/v2/health/live").status_code == 200


def texts_input(values, **changes):
    return {"name": "text", "shape": [len(values)], "datatype": "BYTES", "data": values} | changes


def ids_input(values, name="input_ids", **changes):
    shape = [len(values), len(values[0])]
    return {"name": name, "shape": shape, "datatype": "INT64", "data": values} | changes


def test_infer_answers_texts_with_all_outputs_or_with_those_that_are_wanted(start):
    app = start()
    found = ask(app, "POST", INFER, json={"id": "q", "inputs": [texts_input(["ab", "cde"])]}).json()
    outputs = {output["name"]: output["data"] for output in found["outputs"]}
    assert (found["id"], found["model_name"], found["model_version"]) == ("q", "stub", "1")
    assert outputs["label"] == ["ba", "edc"] and outputs["logits"] == [2.0, 0.5, 3.0, 0.5]
    assert [json.loads(line) for line in outputs["answer"]] == lines(["ab", "cde"])
    column = texts_input(["ab", "cde"], shape=[2, 1])
    wanted = ask(app, "POST", INFER, json={"inputs": [column], "outputs": [{"name": "label"}]}).json()
    assert wanted["outputs"] == [{"name": "label", "shape": [2], "datatype": "BYTES", "data": ["ba", "edc"]}]


def test_infer_answers_token_ids_and_a_missing_mask_hides_nothing(start):
    app = start()
    mask = ids_input([[1, 1, 0], [1, 0, 0]], "attention_mask")
    ids = ids_input([[5, 7, 9], [4, 4, 4]])
    for inputs, sums in (([ids], [21, 12]), ([ids, mask], [12, 4]), ([mask, ids], [12, 4])):
        outputs = ask(app, "POST", INFER, json={"inputs": inputs}).json()["outputs"]
        assert next(o for o in outputs if o["name"] == "logits")["data"] == [sums[0], 1, sums[1], 1]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "input input_ids is missing"),
        ([texts_input(["a"], name="txt")], "there is no input txt; there are text, input_ids, attention_mask"),
        ([texts_input(["a"]), ids_input([[1]])], "either texts or token ids"),
        ([texts_input(["a", "b"], shape=[1, 2])], r"input text has the shape [1, 2], but must have [N] or [N, 1]"),
        ([ids_input([[1]], "text")], "input text must be of type BYTES"),
        ([ids_input([[1]], "attention_mask")], "input input_ids is missing"),
        ([ids_input([[1] * 12])], "input input_ids has rows of 12 tokens, but may have 11"),
        ([ids_input([[1, 97]])], "input input_ids has the number 97, but may have 0 to 96"),
        ([ids_input([[-1]])], "input input_ids has the number -1, but may have 0 to 96"),
        ([ids_input([[1, 2]]), ids_input([[2, 1]], "attention_mask")], "input attention_mask has the number 2"),
        ([ids_input([[1, 2]]), ids_input([[0, 0]], "attention_mask")], "attention_mask hides every token of a row"),
        ([ids_input([[1, 2]]), ids_input([[1]], "attention_mask")], "input attention_mask must have whole numbers in"),
        ([ids_input([[1]], shape=[1])], "input input_ids has the shape [1], but must have [rows, tokens]"),
        ([ids_input([[]])], "input input_ids has the shape [1, 0]"),
        ([texts_input([])], "no rows"),
    ],
)
def test_inputs_that_are_wrong_are_refused_by_their_name(start, inputs, said):
    response = ask(start(), "POST", INFER, json={"inputs": inputs})
    assert response.status_code == 400 and said in response.json()["error"]


def test_an_output_that_is_not_there_is_refused(start):
    request = {"inputs": [texts_input(["ab"])], "outputs": [{"name": "lables"}]}
    response = ask(start(), "POST", INFER, json=request)
    assert response.status_code == 400 and "there is no output lables" in response.json()["error"]


def events(response):
    """The events of a stream as (name, content)."""
    blocks = [block.split("\n") for block in response.text.split("\n\n") if block]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_a_stream_has_the_pieces_of_the_text_and_then_the_prediction(start):
    response = ask(start(), "POST", "/predict?stream=1", json={"text": "one two three"})
    assert response.headers["content-type"].startswith("text/event-stream")
    *pieces, (last, prediction) = events(response)
    assert [content["text"] for name, content in pieces if name == "text"] == ["one ", "two ", "three "]
    assert (last, prediction) == ("prediction", {"index": 0, "text": "one two three", "prediction": "one two three"})


def test_a_stream_that_cannot_begin_is_refused_like_any_request(start):
    app = start()
    assert ask(app, "POST", "/predict?stream=1", json={"text": "refuse"}).status_code == 400
    assert "one row, but 2" in ask(app, "POST", "/predict?stream=1", json=["a", "b"]).json()["error"]


def test_a_stream_that_fails_or_is_late_ends_with_an_error(start):
    app = start(deadline_seconds=0.5)
    *_, (name, content) = events(ask(app, "POST", "/predict?stream=1", json={"text": "one fail"}))
    assert (name, content) == ("error", {"error": "the server failed to answer; its log says why"})
    assert any("/secret/weights" in line.get("traceback", "") for line in logged(app))
    words = " ".join(map(str, range(100)))
    (late,) = ask_all(app, [("POST", "/predict?stream=1", {"json": {"text": words}})], seconds_after=1.0)
    *_, (name, content) = events(late)
    assert (name, content) == ("error", {"error": "there was no answer within 0.5 seconds"})
    assert len(app.model.written) < 60, "the model goes on writing what nobody reads"


def test_metrics_count_requests_by_endpoint_and_status_in_the_format_of_prometheus(start):
    app = start()
    ask(app, "POST", "/predict", json=["ab", "cd"])
    ask(app, "POST", "/predict", content=b"")
    ask(app, "GET", "/nowhere/" + "x" * 3000)
    text = ask(app, "GET", "/metrics").text
    assert 'twinstep_requests_total{endpoint="predict",status="200"} 1\n' in text
    assert 'twinstep_requests_total{endpoint="predict",status="400"} 1\n' in text
    assert 'twinstep_requests_total{endpoint="none",status="404"} 1\n' in text
    assert 'twinstep_batch_rows_bucket{le="1"} 0\ntwinstep_batch_rows_bucket{le="2"} 1\n' in text
    assert 'twinstep_request_seconds_count{endpoint="predict"} 2\n' in text and "process_cpu_seconds_total" in text
    assert len(logged(app)[2]["path"]) <= 200
