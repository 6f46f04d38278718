"""A headless Chromium driven over a pipe, for tests that look at pages; no package of its own is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--hide-scrollbars", "--remote-debugging-pipe",
]  # fmt: skip

# The texts of a page that are hard to read. WCAG 2.2: relative luminance, and a ratio of 4.5, also in figures.
CONTRAST = """
(() => {
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3]) return c; } return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const svg = e.ownerSVGElement;
    if (svg && e.tagName !== 'text' && e.tagName !== 'tspan') continue;
    const style = getComputedStyle(e), a = light(rgb(svg ? style.fill : style.color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push([e.textContent.slice(0, 40), ratio]);
  }
  return poor;
})()
"""


def program(name: str) -> str:
    """The path of a Debian program; without it the test is skipped, but not where everything must be tested."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed, and CI=true lets nothing be skipped")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


class Page:
    """One tab. What it asks of a network is in `requests`; its own file is not counted."""

    def __init__(self, write: Any, read: Any) -> None:
        self.write, self.read, self.count, self.session = write, read, 0, None
        self.requests: list[str] = []
        self.events: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Network.enable")
        self.call("Page.setBypassCSP", enabled=True)  # measuring needs a script where the page allows none

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        self.write.write(json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        self.write.flush()
        while (answer := self._next()).get("id") != self.count:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, page: Path | str, width: int, height: int, dark: bool = False) -> None:
        """Show a file or a URL in a window of this size and wait until it is loaded."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.requests.clear()
        own = page if isinstance(page, str) else page.resolve().as_uri()
        self.call("Page.navigate", url=own)
        while "Page.loadEventFired" not in self.events:
            self._next()
        self.requests = [url for url in self.requests if url != own]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write what is seen, or the whole page, as PNG."""
        found = self.call(
            "Page.captureScreenshot", captureBeyondViewport=whole, **({"clip": self._all()} if whole else {})
        )
        path.write_bytes(base64.b64decode(found["data"]))

    def print(self, path: Path) -> None:
        """Write the page as it is printed on A4."""
        found = self.call(
            "Page.printToPDF", preferCSSPageSize=True, printBackground=True, paperWidth=8.27, paperHeight=11.7
        )
        path.write_bytes(base64.b64decode(found["data"]))

    def _all(self) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    def _next(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self.read.read(1)) != b"\0":
            assert byte, "the browser ended"
            data += byte
        message = json.loads(data)
        if "method" in message:
            self.events.append(message["method"])
        if message.get("method") == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            self.requests += [] if url.startswith("data:") else [url]
        return message


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A fresh Chromium with a fresh profile, ended when the block ends."""
    chromium = program("chromium")
    to_browser, from_browser = os.pipe(), os.pipe()

    def pipes() -> None:
        # Chromium reads commands from 3 and writes answers to 4.
        source, target = os.dup(to_browser[0]), os.dup(from_browser[1])
        os.dup2(source, 3)
        os.dup2(target, 4)

    process = subprocess.Popen(
        [chromium, *FLAGS, f"--user-data-dir={profile}"],
        preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        with os.fdopen(to_browser[1], "wb") as write, os.fdopen(from_browser[0], "rb", buffering=1 << 16) as read:
            yield Page(write, read)
    finally:
        process.terminate()
        process.wait(timeout=20)
