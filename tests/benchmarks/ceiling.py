"""Measures the ceiling of this machine: GFLOP/s of matrix products of the shapes that a workload uses.

    python -m tests.benchmarks.ceiling SPEC.json

A training step consists of such products and of everything between them. The share of the ceiling that a contestant
reaches on real tokens shows how much is lost to padding, small operations, the optimizer and Python.
"""

import json
import sys
import time
from pathlib import Path

SECONDS = 0.4
BURSTS = 5


def products(workload):
    """(M, K, N, count) of the products [M, K] x [K, N] in the forward pass of a step over real tokens."""
    width, inner, layers = (workload["shape"][key] for key in ("width", "inner", "layers"))
    tokens = max(1, round(workload["tokens"] / workload["rows"] * workload["batch_size"]))
    shapes = [(tokens, width, width, 4 * layers), (tokens, width, inner, layers), (tokens, inner, width, layers)]
    if workload["name"] != "classification":
        shapes.append((tokens, width, workload["vocabulary"], 1))
    return shapes


def measure(workload):
    """GFLOP/s of these products by precision; each product counts with its fastest burst.

    A bf16 product is computed in bf16, and in fp32 with conversions before and after; the faster way counts.
    """
    from torch import bfloat16, cuda, float32, randn
    from torch.nn.functional import linear

    device = "cuda" if cuda.is_available() else "cpu"

    ways = {
        "fp32": (float32, [linear]),
        "bf16": (bfloat16, [linear, lambda inputs, weight: linear(inputs.float(), weight.float()).bfloat16()]),
    }
    gflops = {}
    for precision, (dtype, alternatives) in ways.items():
        flops = seconds = 0.0
        for m, k, n, times in products(workload):
            inputs, weight = (randn(rows, k, device=device).to(dtype) for rows in (m, n))
            flops += 2 * m * k * n * times
            seconds += min(_fastest(way, inputs, weight) for way in alternatives) * times
        gflops[precision] = flops / seconds / 1e9
    return gflops


def _fastest(product, *matrices):
    """Seconds of one product in the fastest of several bursts, after a warm-up burst."""
    from torch import cuda

    wait = cuda.synchronize if matrices[0].is_cuda else lambda: None
    bursts = []
    for _ in range(BURSTS + 1):
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS / BURSTS or count < 3:
            product(*matrices)
            count += 1
            if count % 10 == 0:
                wait()  # a GPU takes on work faster than it does it
        wait()
        bursts.append((time.perf_counter() - began) / count)
    return min(bursts[1:])


if __name__ == "__main__":
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    workload = json.loads((Path(spec["folder"]) / "workload.json").read_text(encoding="utf-8"))
    Path(spec["result"]).write_text(json.dumps({"gflops": measure(workload)}), encoding="utf-8")
