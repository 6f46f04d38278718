"""Measures how reading and tokenizing grow with the data, beside `datasets` with `map`.

    python -m tests.benchmarks.data_size [--rows 10000 100000 1000000] [--folder scratch] [--only check] [--repeats 1]

Writes that many short reviews as JSON lines, about 120 bytes each, and has every contestant read, check and tokenize
them in a process of its own with an empty cache; in every repeat they take turns. Prints seconds, seconds of
processor time, and two peaks of memory, all of the whole process: `peak` has also the pages of mapped files, which the
system drops when it needs room, `own` only what it cannot drop. The first size shows what starting costs. `again` is
`check` with the cache that the first one left; `train` is a run that is stopped after `--steps` steps, with that cache
too.
"""

import argparse
import contextlib
import json
import os
import re
import tempfile
import threading
import time
from pathlib import Path

from pipeline.recipe.overrides import RECIPES
from pipeline.runs.machine import peak_memory_bytes
from pipeline.utils.processes import call

BUNDLED = RECIPES / "bundled" / "sentiment"
STEPS = 200


def write_reviews(path, num_rows):
    """Bundled reviews with a number in each, so that no two rows are the same."""
    rows = [json.loads(line) for line in (BUNDLED / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    with open(path, "w", encoding="utf-8") as file:
        for number in range(num_rows):
            row = rows[number % len(rows)]
            text = f"{row['text'][:-1]} {number}{row['text'][-1]}"
            file.write(json.dumps({"label": row["label"], "text": text}) + "\n")


def recipe_for(path):
    """sentiment_bert on other training rows."""
    from recipes.sentiment_bert import RECIPE

    return RECIPE.override({"data.files.train": str(path), "train.epochs": 1})


def use_cache(folder):
    """Have `datasets` and the tokenized cache write into a folder."""
    from datasets import config

    config.HF_DATASETS_CACHE = Path(folder)


def check(path, cache, steps):
    """This pipeline, up to the first step."""
    use_cache(cache)
    from pipeline import check

    check(recipe_for(path))


def train(path, cache, steps):
    """This pipeline, with some steps of training."""
    use_cache(cache)
    from pipeline import finetune
    from pipeline.training.callbacks import TrainingCallback
    from pipeline.training.signals import StopRequest
    from pipeline.utils.errors import Stopped

    stop = StopRequest()

    class StopSoon(TrainingCallback):
        def on_step_end(self, record):
            stop.requested = record.step >= steps

    with contextlib.suppress(Stopped):
        finetune(recipe_for(path), out=Path(cache) / "run", stop=stop, callback=StopSoon())


def library(path, cache, steps):
    """The usual way: `load_dataset` and a `map` that tokenizes batches."""
    use_cache(cache)
    import datasets
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(BUNDLED / "bert")
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
    rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=64), batched=True)


CONTESTANTS = {"datasets": library, "check": check, "again": check, "train": train}


class OwnMemory(threading.Thread):
    """Watches how many bytes of this process are not pages of files; `peak` is the most that was seen."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.is_over = 0, threading.Event()

    def run(self):
        while not self.is_over.wait(0.02):
            status = Path("/proc/self/status").read_text(encoding="ascii")
            self.peak = max(self.peak, int(re.search(r"RssAnon:\s*(\d+) kB", status)[1]) * 1024)


def measure(name, path, cache, steps):
    """Seconds, seconds of processor time, peak memory and peak of own memory in MB of a contestant, in this process."""
    own, start, processor_start = OwnMemory(), time.perf_counter(), time.process_time()
    own.start()
    CONTESTANTS[name](path, cache, steps)
    own.is_over.set()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor_start
    return seconds, processor, peak_memory_bytes() / 1e6, own.peak / 1e6


def main(words=None):
    """Print a line for each size and contestant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", default=None)
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args(words)
    print(f"{'rows':>10} {'contestant':<10} {'seconds':>8} {'processor':>9} {'peak MB':>8} {'own MB':>7}   load")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for num_rows in arguments.rows:
            path = Path(folder) / f"{num_rows}.jsonl"
            write_reviews(path, num_rows)
            for repeat in range(arguments.repeats):
                for name in arguments.only:
                    cache = Path(folder) / f"{'datasets' if name == 'datasets' else 'ours'}-{num_rows}-{repeat}"
                    seconds, processor, peak, own = call(
                        measure, name, path, str(cache), arguments.steps, framework="torch"
                    )
                    print(
                        f"{num_rows:>10} {name:<10} {seconds:>8.1f} {processor:>9.1f} {peak:>8.0f} {own:>7.0f}   "
                        f"{os.getloadavg()[0]:.1f}",
                        flush=True,
                    )


if __name__ == "__main__":
    from tests.benchmarks import data_size  # the functions of this program itself cannot be sent to other processes

    data_size.main()
