"""Exports of every kind of task from runs of both frameworks to every format: size, difference and agreement.

    .venv/bin/python -m tests.benchmarks.export_matrix
    .venv/bin/python -m tests.benchmarks.export_matrix --kinds single-label "gpt2 single-label" --formats onnx litert

Each kind is trained for an epoch on a few bundled texts, and each row of the table is from the real runtime, with the
validation split and the batches of other shapes that the proof asks for.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

from pipeline import ProofError, UserError, configure_process, export_run, finetune
from pipeline.deploy.manifest import FORMATS
from tests.helpers.families import KINDS, recipe_of

HEADER = "| kind | run | format | size, KB | of fp32 | largest difference | agreement | metric of run and export |"


def main(arguments: list[str] | None = None) -> int:
    """Print the table as it grows; returns how many exports did not answer as their run."""
    options = parsed(arguments)
    configure_process()
    print(HEADER, "|---|---|---|---|---|---|---|---|", sep="\n", flush=True)
    wrong = 0
    for kind, framework in itertools.product(options.kinds, options.frameworks):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            run = finetune(recipe_of(kind, folder), framework=framework, out=folder / "run")
            for format in options.formats:
                for quantize in (None, *FORMATS[format].quantizations):
                    row, is_wrong = exported(run, format, quantize, folder / "exports")
                    wrong += is_wrong
                    print(f"| {kind} | {framework} | {format}{f' {quantize}' if quantize else ''} | {row}", flush=True)
    return wrong


def exported(run, format, quantize, folder):
    """The rest of an export's row, and whether it answered otherwise than its run."""
    try:
        (export,) = export_run(run, format, quantize=quantize, out=folder)
    except UserError as error:
        return f"not possible: {' '.join(str(error).split())} | | | | |", False
    except ProofError as error:
        return f"wrong: {' '.join(str(error).split())} | | | | |", True
    return described(export.manifest), False


def described(manifest):
    """The last columns of an export's row."""
    proof, metric = manifest.proof, next(iter(manifest.proof.run_metrics))
    share = manifest.model_bytes / manifest.full_bytes
    scores = f"{metric} {proof.run_metrics[metric]} {proof.metrics[metric]}"
    return (
        f"{manifest.model_bytes / 1024:,.0f} | {share:.2f} | {proof.largest_difference:.1e} | {proof.agreement:.4f} | "
        f"{scores} |"
    )


def parsed(arguments):
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, metavar="KIND")
    parser.add_argument("--frameworks", nargs="+", default=["torch", "tensorflow"])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
