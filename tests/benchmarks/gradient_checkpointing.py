"""What gradient checkpointing saves in memory and costs in processor time: training steps with it and without.

    python -m tests.benchmarks.gradient_checkpointing torch|tensorflow [--models bert distilbert gpt2] [--layers 4]
                                                      [--steps 4]

A model of four layers of 256 with random weights and the dropout of its checkpoint trains on packed rows of 512 tokens,
each time in a process of its own. Memory is the most that the process held, and what that is above what it held before
the first step. Time is the processor time of a step, the median without the first.
"""

import argparse
import os
import statistics
import time

import numpy as np
import transformers

from pipeline.backend import load_backend
from pipeline.models.initialization import random_weights
from pipeline.recipe.schema import Train
from pipeline.runs.machine import peak_memory_bytes
from pipeline.utils.environment import configure_process
from pipeline.utils.processes import call

ROWS, LENGTH, VOCABULARY = 8, 512, 2_000
HEADS = {
    "bert": "AutoModelForTokenClassification",
    "distilbert": "AutoModelForTokenClassification",
    "gpt2": "AutoModelForCausalLM",
}


def config(model, num_layers):
    """A model of width 256 with four heads."""
    if model == "bert":
        return transformers.BertConfig(
            vocab_size=VOCABULARY, hidden_size=256, num_attention_heads=4, num_hidden_layers=num_layers,
            intermediate_size=1024, num_labels=5,
        )  # fmt: skip
    if model == "distilbert":
        return transformers.DistilBertConfig(
            vocab_size=VOCABULARY, dim=256, n_heads=4, n_layers=num_layers, hidden_dim=1024, num_labels=5
        )
    return transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=256, n_head=4, n_layer=num_layers, n_positions=LENGTH, pad_token_id=0
    )


def batch(model):
    """Packed rows of two examples each, with a loss at every token."""
    rng, half = np.random.default_rng(0), LENGTH // 2
    shape, most = (ROWS, LENGTH), VOCABULARY if model == "gpt2" else 5
    positions = np.tile(np.arange(half), 2)
    return {
        "input_ids": rng.integers(1, VOCABULARY, shape).astype(np.int32),
        "segment_ids": np.broadcast_to(np.repeat([1, 2], half), shape).astype(np.int32),
        "position_ids": np.broadcast_to(positions, shape).astype(np.int32),
        "labels": rng.integers(0, most, shape).astype(np.int32),
        "loss_weights": np.full(shape, 1 / np.prod(shape), np.float32),
        "dropout_keys": rng.integers(-(2**31), 2**31, shape).astype(np.int32),
    }


def memory():
    """What this process holds now, in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(framework, model, num_layers, steps, is_checkpointed):
    """Memory before the first step and at the peak in MiB, and seconds of processor time of each step."""
    backend, settings = load_backend(framework), Train(gradient_checkpointing=is_checkpointed)
    built = backend.build_model(HEADS[model], config(model, num_layers), "fp32", 0)
    backend.set_weights(built, random_weights(backend.weight_shapes(built), built.config, 0))
    learner = backend.Learner(built, settings, np.full(steps, 1e-4))
    before, times = memory(), [time.process_time()]
    learner.fit([[batch(model)] * steps], lambda report: times.append(time.process_time()), lambda epoch: True)
    return before, peak_memory_bytes() / 2**20, np.diff(times).tolist()


def main():
    from tests.benchmarks.gradient_checkpointing import measure  # another process finds no function of __main__

    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=("torch", "tensorflow"))
    parser.add_argument("--models", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    configure_process(options.framework)
    print("| model | checkpointed | peak, MiB | above the start, MiB | a step, s |\n|---|---|---|---|---|")
    for model in options.models:
        for is_checkpointed in (False, True):
            arguments = options.framework, model, options.layers, options.steps, is_checkpointed
            before, peak, times = call(measure, *arguments, framework=options.framework)
            word = "yes" if is_checkpointed else "no"
            print(f"| {model} | {word} | {peak:.0f} | {peak - before:.0f} | {statistics.median(times[1:]):.2f} |")


if __name__ == "__main__":
    main()
