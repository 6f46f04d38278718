"""The server's page in a browser: it asks the model, shows what is wrong, fits a telephone, and loads nothing else."""

import asyncio
import dataclasses
import json
import threading
import time

import pytest
import uvicorn

from pipeline.deploy.serving.app import ServerApp
from pipeline.deploy.serving.metrics import RequestLog
from pipeline.deploy.serving.requests import Limits
from pipeline.deploy.serving.server import listening_socket
from tests.helpers.browser import CONTRAST, browser
from tests.helpers.served_stub import StubModel

ASK = """new Promise(done => {
  for (const [name, text] of Object.entries(%s)) document.getElementById(name).value = text;
  const button = document.querySelector("button");
  button.click();
  const look = () => button.disabled ? setTimeout(look, 20) : done(document.getElementById("answer").textContent);
  setTimeout(look, 20);
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        page.call("Page.setBypassCSP", enabled=False)
        yield page


class Streamless(StubModel):
    """A stub that answers whole."""

    def __init__(self):
        super().__init__()
        self.description = dataclasses.replace(StubModel.description, streams=False)


@pytest.fixture
def start(tmp_path):
    """Starts a server of a stub in a thread of this process; returns its address."""
    ends = []

    def serve(model, token=None):
        listener = listening_socket("127.0.0.1", 0)
        app = ServerApp(model, Limits(), token, log=RequestLog((tmp_path / "log").open("w")))
        server = uvicorn.Server(uvicorn.Config(app, http="h11", lifespan="off", log_level="critical"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        ends.append((server, thread, app))
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield serve
    for server, thread, app in ends:
        server.should_exit = server.force_exit = True
        thread.join()
        app.batcher.close(10)
        app.log.file.close()


def asked(page, **values):
    """What the page shows as the answer after these values are sent."""
    return page.evaluate(ASK % json.dumps({name.replace("_", "-"): value for name, value in values.items()}))


def test_the_page_shows_the_answer_of_the_model_and_the_whole_line(page, start):
    page.open(start(Streamless()), 1280, 800)
    assert page.evaluate("document.querySelector('h1').textContent") == "stub"
    assert asked(page, field_text="<b>ab</b> ü") == "ü >b/<ba>b<"
    assert '"prediction": "ü >b/<ba>b<"' in page.evaluate("document.getElementById('line').textContent")
    assert asked(page, field_text="refuse") == "row 1 is refused"
    assert page.evaluate("document.getElementById('answer').className") == "reply wrong"
    assert page.evaluate("document.getElementById('line').hidden")


def test_the_page_shows_a_text_as_it_is_written(page, start):
    page.open(start(StubModel()), 1280, 800)
    page.evaluate(
        "window.seen = []; new MutationObserver(() => seen.push(document.getElementById('answer').textContent))"
        ".observe(document.getElementById('answer'), {childList: true, characterData: true, subtree: true})"
    )
    words = " ".join(map(str, range(40)))  # so many that a busy machine does not show them all at once
    assert asked(page, field_text=words) == words
    parts = [text for text in page.evaluate("seen") if text.strip() and words.startswith(text.strip())]
    assert any(text.strip() != words for text in parts), "it is shown before it is whole"
    assert asked(page, field_text="one fail") == "the server failed to answer; its log says why"


def test_the_page_sends_the_token_that_it_is_given(page, start):
    page.open(start(Streamless(), token="secret"), 1280, 800)
    assert asked(page, field_text="ab", token="wrong") == "the request needs the server's bearer token"
    assert asked(page, field_text="ab", token="secret") == "ba"


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_page_fits_its_window_can_be_read_and_loads_nothing_else(page, start, width, height, is_dark):
    address = start(Streamless())
    page.open(address, width, height, is_dark)
    asked(page, field_text="a long word: " + "x" * 300)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(CONTRAST) == []
    assert {url.removeprefix(address) for url in page.requests} <= {"predict", "favicon.ico", ""}
