"""A Hub that fails: it is asked again, and then reported in one sentence."""

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

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
