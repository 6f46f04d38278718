"""Prints how far the gradients on packed rows are from those on the padded batch of the same examples.

    python -m tests.benchmarks.packed_gradients [--frameworks torch tensorflow] [--heads "bert pairs" t5]

Tiny models with random weights, fp32, every head with both attentions, without dropout and with a tenth of it from
shared masks. A cell has the norm of the difference of all gradients over their norm, and the largest such quotient of
a single weight; one unit in the last place of fp32 is 1.2e-07.
"""

import argparse

import numpy as np

from pipeline.utils.environment import configure_process
from tests.helpers.packed_batches import HEADS, learner_of, loss_and_gradients, with_dropout_keys
from tests.helpers.tiny_models import relative

# Weights that the loss hardly depends on, such as BERT's key bias, have gradients of rounding alone.
SMALLEST_SHARE = 1e-5
ATTENTIONS = ("stock", "handwritten")


def differences(framework, head, attention, dropout):
    """Relative differences packed against padded: of all gradients together, and the largest of a weight."""
    batches = with_dropout_keys(head) if dropout else HEADS[head][4]()
    masks = "shared" if dropout else "framework"
    learner = learner_of(framework, head, attention, dropout=dropout, dropout_masks=masks)
    padded, packed = (loss_and_gradients(framework, learner, batch)[1] for batch in batches)
    total = np.sqrt(sum(np.square(gradient).sum() for gradient in padded.values()))
    named = [name for name in padded if np.linalg.norm(padded[name]) > SMALLEST_SHARE * total]
    return relative(packed, padded), max(relative(packed[name], padded[name]) for name in named)


def main(words=None):
    """Print a table for each framework."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frameworks", nargs="+", default=["torch", "tensorflow"], choices=["torch", "tensorflow"])
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    arguments = parser.parse_args(words)
    configure_process()
    kinds = [(attention, dropout) for attention in ATTENTIONS for dropout in (0.0, 0.1)]
    for framework in arguments.frameworks:
        titles = [f"{attention}{', dropout' if dropout else ''}" for attention, dropout in kinds]
        print(f"\n| {framework} | {' | '.join(titles)} |\n|---|{'---|' * len(kinds)}")
        for head in arguments.heads:
            found = (differences(framework, head, *kind) for kind in kinds)
            print(f"| {head} | {' | '.join(f'{whole:.1e}, {worst:.1e}' for whole, worst in found)} |", flush=True)


if __name__ == "__main__":
    main()
