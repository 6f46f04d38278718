"""A Hub that fails: it is asked again, and then reported in one sentence."""

import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from pipeline.data.hub import explain_hub_error

ROOT = Path(__file__).resolve().parents[2]


class Hub(http.server.BaseHTTPRequestHandler):
    """A Hub with a bad day."""

    day, asked = "", 0

    def do_GET(self):
        type(self).asked += 1
        if self.day == "503":
            self.send_response(503)
            self.end_headers()
            return
        self.send_response(200)
        for header, value in {"ETag": '"1"', "X-Repo-Commit": "a" * 40, "Content-Length": "1000"}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"x" * 100)  # and no more

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "day, message, least",
    [
        ("503", "the Hub keeps answering 503 Server Error for some/model; try again later", 6),
        ("half a file", "the download of some/model broke off 3 times; try again", 3),
        ("silence", "some/model is not in the local cache and the Hub cannot be reached", 0),
    ],
)
def test_a_hub_with_a_bad_day_is_asked_again_and_then_reported_in_one_sentence(tmp_path, day, message, least):
    handler = type("Today", (Hub,), {"day": day})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if day != "silence":  # else it listens and never answers
        threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path),
        "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "USE_TF": "0", "USE_TORCH": "0",
    }  # fmt: skip
    # The waits between attempts are the library's own and cannot be set.
    code = (
        "import time; time.sleep = lambda seconds: None\n"
        "from pipeline.data.hub import go_offline_if_unreachable; from pipeline.models.checkpoint import load_config\n"
        "from pipeline import load_recipe, UserError\n"
        "recipe = load_recipe('sentiment_bert', {'checkpoint': 'some/model'})\n"
        "go_offline_if_unreachable(recipe)\n"
        "try: load_config(recipe)\nexcept UserError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    server.server_close() if day == "silence" else server.shutdown()
    assert done.stdout.startswith(f"recipe sentiment_bert: checkpoint: {message}"), done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert handler.asked >= least


REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(monkeypatch):
    """A cache of the Hub with a copy of acme/tiny, in a folder that any user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "home", "hub")
        copy = cache / COPY
        snapshot = copy / "snapshots" / REVISION
        for made in (snapshot, copy / "refs", copy / "blobs"):
            made.mkdir(parents=True)
        (copy / "refs" / "main").write_text(REVISION)
        (copy / "blobs" / "1").write_text("{}")
        (snapshot / "config.json").symlink_to("../../blobs/1")
        os.chmod(folder, 0o755)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(cache.parent / "datasets"))
        yield cache
        for path in (*reversed(cache.parents), cache, *cache.rglob("*")):
            if path.is_dir() and path.is_relative_to(folder):
                path.chmod(0o755)


def put_file(path):
    shutil.rmtree(path)
    path.write_text("x")


def put_dangling_link(path):
    shutil.rmtree(path)
    path.symlink_to("/nowhere/at/all")


COPY = "models--acme--tiny"
SPOILED = {
    "home is a file": (lambda cache: put_file(cache.parent), "/home is a file, but must be a folder; correct"),
    "home is a link": (lambda cache: put_dangling_link(cache.parent), "/home is a link to /nowhere/at/all, which"),
    "hub is a file": (put_file, "/hub is a file, but must be a folder; correct that, or name"),
    "copy is a file": (lambda cache: put_file(cache / COPY), "--tiny is a file, but must be a folder; del"),
    "snapshots is a file": (
        lambda cache: put_file(cache / COPY / "snapshots"), "snapshots is a file, but must be"
    ),
    "a file is gone": (
        lambda cache: (cache / COPY / "blobs" / "1").unlink(),
        f"snapshots/{REVISION}/config.json is a link to a file that is gone; delete ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_wrong_with_the_hubs_cache_is_named_and_not_the_hub(case, hub_cache):
    spoil, message = SPOILED[case]
    spoil(hub_cache)
    text = explain_hub_error(OSError("any"), "checkpoint", "acme/tiny")
    assert text.startswith("checkpoint: acme/tiny cannot be loaded: ") and message in text


def test_a_copy_that_can_be_read_is_not_blamed_and_may_still_be_damaged(hub_cache):
    text = explain_hub_error(ValueError("not JSON"), "checkpoint", "acme/tiny")
    folder = hub_cache / COPY
    assert text.endswith(
        f"cannot be read: not JSON; if its copy is damaged, delete {folder}, and it is downloaded anew"
    )
    assert explain_hub_error(ValueError("no"), "data.path", "acme/rows") == "data.path: acme/rows cannot be read: no"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("part", "mode", "message"),
    [
        (".", 0o000, "this user may not enter the folder "),
        (".", 0o311, "this user may not read the folder "),
        ("models--acme--tiny/blobs/1", 0o000, "this user may not read "),
        ("models--acme--tiny/snapshots", 0o000, "this user may not enter the folder "),
    ],
)
def test_what_a_user_may_not_read_in_the_hubs_cache_is_named(part, mode, message, hub_cache):
    (hub_cache / part).chmod(mode)
    os.seteuid(65534)
    try:
        text = explain_hub_error(PermissionError("any"), "checkpoint", "acme/tiny")
    finally:
        os.seteuid(0)
    assert message in text


def test_a_folder_that_cannot_be_made_is_named(hub_cache):
    """By a user who is not root; for root every folder can be."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    shutil.rmtree(hub_cache)
    os.seteuid(65534)
    try:
        text = explain_hub_error(OSError("any"), "data.path", "acme/rows")
    finally:
        os.seteuid(0)
    assert f"this user may not make the folder {hub_cache}" in text
