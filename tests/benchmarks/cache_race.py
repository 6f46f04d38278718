"""Fills one cache of tokenized splits from several processes at once and kills one of them, again and again.

    python -m tests.benchmarks.cache_race [--rounds 40] [--rows 4000] [--seed 0]

In each round three processes begin at the same moment with an empty cache, and one is killed at a random moment. The
other two must get what one process alone gets, and nothing but the two entries may be left in the cache. The exit code
is 1 if that does not hold in a round.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from dataclasses import astuple
from pathlib import Path

from tests.helpers.cache_race import NUM_PROCESSES, play
from tests.helpers.families import recipe_of, rows_of


def main(words=None):
    """Play the rounds and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    rng, counts = random.Random(arguments.seed), Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = rows_of("single-label", arguments.rows, 0)
        recipe = recipe_of("single-label", folder, rows, rows_of("single-label", 16, 1))
        play(recipe, folder / "first")  # only to import
        alone = play(recipe, folder / "alone")
        for number in range(arguments.rounds):
            ended = play(recipe, folder / str(number), rng.uniform(0, alone.seconds))
            is_right = ended.digests == alone.digests * (NUM_PROCESSES - 1) and ended.left == alone.left
            counts[("right" if is_right else "wrong", "killed" if ended.was_killed else "ended before")] += 1
            if not is_right:
                print(f"round {number}: {astuple(ended)}", file=sys.stderr)
    print(f"| rounds | one killed while it filled | wrong |\n|---|---|---|\n| {arguments.rounds} |", end="")
    killed, wrong = (sum(n for key, n in counts.items() if name in key) for name in ("killed", "wrong"))
    print(f" {killed} | {wrong} |")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
