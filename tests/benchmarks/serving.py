"""The server under load, and for a long time under requests of every kind.

    python -m tests.benchmarks.serving load runs/sentiment_bert/torch-stock-seed0 --clients 1 8 32 128 --seconds 10
    python -m tests.benchmarks.serving soak runs/sentiment_bert/torch-stock-seed0 --clients 8 --seconds 600

`load` needs Debian's program `hey`, and prints requests a second, latencies, and the server's processor time for a
request, with batches and without. `soak` sends good, wrong, oversized, slow and broken requests to a model with one
text field, compares each answer with that of `predict`, and prints what was wrong and the server's memory over time;
then it stops the server under load. Both take a run or an export, and exit with 1 if an answer was wrong or lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx

from pipeline.deploy.manifest import is_export
from pipeline.recipe.overrides import RECIPES
from pipeline.utils.environment import configure_process
from tests.helpers.server_process import ServerProcess, running

# Requests before anything is measured.
WARM_UP = 50
MEMORY_SECONDS = 5


def texts(count):
    """Reviews of the bundled validation split."""
    lines = (RECIPES / "bundled" / "sentiment" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[:count]]


def measured(server: ServerProcess, name: str) -> float:
    """One number of the server's metrics."""
    return float(re.search(rf"^{name} (\S+)$", httpx.get(f"{server.url}/metrics").text, flags=re.M)[1])


def load(folder: Path, clients: list[int], seconds: int, batches: list[int]) -> bool:
    """Print a table; returns whether every request was answered with 200."""
    body, all_failed = json.dumps({"text": texts(1)[0]}), 0
    print("| rows of a batch | clients | requests/s | p50 ms | p99 ms | processor ms a request | failed |")
    print("|---|---|---|---|---|---|---|")
    for batch in batches:
        arguments = ["pipeline", "serve", str(folder.resolve()), "--port", "0", "--batch", str(batch)]
        with tempfile.TemporaryDirectory() as log, running(arguments, Path(log)) as server:
            for _ in range(WARM_UP):
                httpx.post(f"{server.url}/predict", content=body).raise_for_status()
            for count in clients:
                columns, failed = under_load(server, body, count, seconds)
                print(f"| {batch} | {count} | {columns} | {failed} |", flush=True)
                all_failed += failed
    return all_failed == 0


def under_load(server: ServerProcess, body: str, clients: int, seconds: int) -> tuple[str, int]:
    """Requests a second, latencies and processor time with so many clients, and how many requests failed."""
    before = measured(server, "process_cpu_seconds_total")
    command = ["hey", "-z", f"{seconds}s", "-c", str(clients), "-m", "POST", "-T", "application/json", "-d", body]
    said = subprocess.run([*command, f"{server.url}/predict"], capture_output=True, text=True, check=True).stdout
    used = measured(server, "process_cpu_seconds_total") - before
    summary, _, errors = said.partition("Error distribution:")
    statuses = {int(status): int(number) for status, number in re.findall(r"\[(\d+)\]\s+(\d+) responses", summary)}
    num_errors = sum(int(number) for number in re.findall(r"^\s+\[(\d+)\]", errors, flags=re.M))
    num_answers, rate = sum(statuses.values()), float(re.search(r"Requests/sec:\s+(\S+)", summary)[1])
    found = {int(share): float(value) for share, value in re.findall(r"(\d+)%+ in (\S+) secs", summary)}
    median, slowest = (f"{1000 * found[share]:.1f}" if share in found else "too few" for share in (50, 99))
    columns = f"{rate:,.0f} | {median} | {slowest} | {1000 * used / max(1, num_answers):.2f}"
    return columns, num_answers - statuses.get(200, 0) + num_errors


class Soak:
    """Clients that send requests of every kind, and check what comes back."""

    def __init__(self, server: ServerProcess, lines: list[dict], name: str):
        self.server, self.lines, self.name = server, lines, name
        self.sent: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.is_over, self.is_stopping = threading.Event(), False

    def work(self, seed: int) -> None:
        """One client, until the soak is over or the server has gone."""
        draws = random.Random(seed)
        kinds = [self.one, self.one, self.several, self.infer, self.bad, self.oversized, self.slow, self.aborted]
        with httpx.Client(timeout=60) as client:
            while not self.is_over.is_set():
                kind = draws.choice(kinds)
                try:
                    problem = kind(client, draws)
                except httpx.ConnectError:
                    if self.is_stopping:
                        return
                    problem = "refused to connect"
                except httpx.TransportError as error:
                    problem = repr(error)
                except OSError as error:
                    problem = None if self.is_stopping else repr(error)
                self.sent[kind.__name__] += 1
                if problem:
                    self.wrong.append(f"{kind.__name__}: {problem}")

    def check(self, found: list[dict], numbers: list[int]) -> str | None:
        """What differs from the lines of `predict`."""
        for i, (line, number) in enumerate(zip(found, numbers, strict=True)):
            expected = self.lines[number] | {"index": i}
            if abs(line.get("score", -1) - expected["score"]) > 1e-5 or line | {"score": 0} != expected | {"score": 0}:
                return f"{line} instead of {expected}"
        return None

    def one(self, client: httpx.Client, draws: random.Random) -> str | None:
        number = draws.randrange(len(self.lines))
        response = client.post(f"{self.server.url}/predict", json={"text": self.lines[number]["text"]})
        return self.check([response.json()], [number]) if response.status_code == 200 else response.text

    def several(self, client: httpx.Client, draws: random.Random) -> str | None:
        numbers = [draws.randrange(len(self.lines)) for _ in range(draws.randint(2, 40))]
        body = "\n".join(self.lines[number]["text"] for number in numbers)
        response = client.post(f"{self.server.url}/predict", content=body.encode())
        found = [json.loads(line) for line in response.text.splitlines()]
        return self.check(found, numbers) if response.status_code == 200 else response.text

    def infer(self, client: httpx.Client, draws: random.Random) -> str | None:
        numbers = [draws.randrange(len(self.lines)) for _ in range(draws.randint(1, 5))]
        asked = [self.lines[number]["text"] for number in numbers]
        tensor = {"name": "text", "shape": [len(asked)], "datatype": "BYTES", "data": asked}
        response = client.post(f"{self.server.url}/v2/models/{self.name}/infer", json={"inputs": [tensor]})
        if response.status_code != 200:
            return response.text
        answer = next(output for output in response.json()["outputs"] if output["name"] == "answer")
        return self.check([json.loads(line) for line in answer["data"]], numbers)

    def bad(self, client: httpx.Client, draws: random.Random) -> str | None:
        body = draws.choice([b"", b"{", b'{"txt": "a"}', b"\xff", b"[1]", b'{"text": "a"}\n{"text": 3}'])
        response = client.post(f"{self.server.url}/predict", content=body)
        return None if response.status_code == 400 and "error" in response.json() else response.text

    def oversized(self, client: httpx.Client, draws: random.Random) -> str | None:
        body = draws.choice([b"x" * 3 * 2**20, json.dumps(["a"] * 300).encode()])
        response = client.post(f"{self.server.url}/predict", content=body)
        return None if response.status_code == 413 else response.text

    def slow(self, client: httpx.Client, draws: random.Random) -> str | None:
        number = draws.randrange(len(self.lines))
        body = self.lines[number]["text"].encode()
        with self.connection(len(body)) as connection:
            for start in range(0, len(body), 20):
                connection.sendall(body[start : start + 20])
                time.sleep(0.05)
            answer = connection.makefile("rb").read()
        head, _, line = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            return None if self.is_stopping and not answer else repr(answer[:200])
        return self.check([json.loads(line)], [number])

    def aborted(self, client: httpx.Client, draws: random.Random) -> str | None:
        with self.connection(10) as connection:
            connection.sendall(b"x" * draws.choice([0, 5, 10]))

    def connection(self, length: int) -> socket.socket:
        """A connection on which a request of this length has begun."""
        host, port = self.server.url.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)), timeout=60)
        head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        return connection


def soak(folder: Path, clients: int, seconds: int) -> bool:
    """Print what was sent and what was wrong; returns whether nothing was."""
    lines, name = expected_lines(folder)
    arguments = ["pipeline", "serve", str(folder.resolve()), "--port", "0"]
    with tempfile.TemporaryDirectory() as log, running(arguments, Path(log)) as server:
        soaking = Soak(server, lines, name)
        threads = [threading.Thread(target=soaking.work, args=[seed]) for seed in range(clients)]
        for thread in threads:
            thread.start()
        memory, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(MEMORY_SECONDS, max(0.0, end - time.monotonic())))
            with contextlib.suppress(httpx.TransportError):
                memory.append(measured(server, "process_resident_memory_bytes") / 2**20)
        soaking.is_stopping = True
        code = server.stop()
        soaking.is_over.set()
        for thread in threads:
            thread.join()
        statuses = Counter(line["status"] for line in server.logged() if line["event"] == "request")
        errors = [line for line in server.logged() if line["event"] == "error"]
    print(f"sent: {dict(soaking.sent)}")
    print(f"statuses: {dict(sorted(statuses.items()))}")
    quarters = [memory[i * len(memory) // 8] for i in range(8)] + memory[-1:]
    print(f"memory in MiB, at each eighth: {', '.join(f'{value:.0f}' for value in quarters)}")
    print(f"exit code {code}; wrong or lost: {len(soaking.wrong)}; errors in the log: {len(errors)}")
    for problem in soaking.wrong[:10]:
        print(f"  {problem[:300]}")
    for error in errors[:3]:
        print(error["traceback"])
    return code == 0 and not soaking.wrong and not errors


def expected_lines(folder: Path) -> tuple[list[dict], str]:
    """What `predict` says of some texts, and the name of the model."""
    from pipeline.deploy.answering import open_export
    from pipeline.runs.directory import load_run
    from pipeline.runs.prediction import open_run, predict_rows

    opened = open_export(folder) if is_export(folder) else open_run(load_run(folder))
    return list(predict_rows(opened, texts(300))), opened.task.recipe.name


def main(words: list[str] | None = None) -> None:
    """Measure, and print; the process ends with 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("drill", choices=["load", "soak"])
    parser.add_argument("folder", type=Path, help="a finished run, or an export")
    parser.add_argument("--clients", type=int, nargs="+", help="by default 1 8 32 128, and 8 for a soak")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 1], help="the most rows of a batch, 1 for none")
    asked = parser.parse_args(words)
    configure_process()
    if asked.drill == "load":
        is_good = load(asked.folder, asked.clients or [1, 8, 32, 128], asked.seconds, asked.batches)
    else:
        is_good = soak(asked.folder, (asked.clients or [8])[0], asked.seconds)
    if not is_good:
        sys.exit(1)


if __name__ == "__main__":
    main()
