"""Compares trainings and answers of PyTorch on two versions of transformers, each in an environment of its own.

    python -m tests.benchmarks.library_versions PYTHON [PYTHON] [--recipes dates_t5] [--attentions stock] [--steps 50]

Each PYTHON is an interpreter with this package; without a second one, the first is compared with the one that runs
this. Both take the same steps from the same start, with dropout on, and then write texts or attention maps with what
they have trained. Differences are those of lock-step: of logits before the first step, of losses, and of what training
moved each parameter by.
"""

import argparse
import os
import sys

import numpy as np

from pipeline.backend import load_backend
from pipeline.comparison.traces import Trace, distance, record
from pipeline.models.attention import ATTENTIONS
from pipeline.recipe.loading import load_recipe
from pipeline.recipe.schema import Recipe
from pipeline.training.experiment import prepare, start
from pipeline.utils import processes

PROMPT = 16
RECIPES = ("sentiment_bert", "stories_gpt2", "dates_t5", "translate_transformer")


def answers(recipe: Recipe, trace: Trace, attention: str):
    """The version of transformers; the texts that the trained model writes, as token ids, or its predictions' logits;
    and the attention maps of the first text of the probe."""
    import transformers

    experiment, backend = prepare(recipe, attention), load_backend("torch")
    model = start(experiment, backend, 0).model
    backend.set_weights(model, trace.after)
    probe = experiment.probe()
    settings = getattr(experiment.task.options, "generation_settings", lambda: None)()
    predictor = backend.Predictor(model)
    if settings is None:
        written = predictor.logits(probe)
    else:
        is_decoder = "decoder_input_ids" not in probe  # which continues the beginning of each text
        starts = {key: value[:, :PROMPT] for key, value in probe.items()} if is_decoder else probe
        written = predictor.generate(starts, settings)
    backend.swap_attention(model, "handwritten")
    length = int(probe["attention_mask"][0].sum())
    text = {key: value[:1, :length] for key, value in probe.items() if not key.startswith("decoder")}
    return transformers.__version__, written, backend.attention_weights(model, text)


def trained(recipe: Recipe, steps: int, attention: str):
    """What the first steps of a recipe do, and the answers of what they have trained."""
    trace = record(recipe, "torch", steps, attention)
    return trace, *answers(recipe, trace, attention)


def differences(first, second):
    """What a row of the table says of two results of `trained`."""
    (ours, _, written, maps), (theirs, _, their_written, their_maps) = first, second
    apart = distance(ours, theirs).largest
    same_bits = all(np.array_equal(value, theirs.after[name]) for name, value in ours.after.items())
    same_bits &= np.array_equal(ours.loss, theirs.loss)
    if written.dtype.kind == "i":
        answer = "same ids" if np.array_equal(written, their_written) else "other ids"
    else:
        answer = f"logits {np.abs(written - their_written).max():.1e}"
    apart_maps = np.abs(maps - their_maps).max()
    figures = " | ".join(f"{apart[name]:.1e}" for name in ("logits", "loss", "parameters"))
    return f"{'same bits' if same_bits else 'not the same'} | {figures} | {answer} | {apart_maps:.1e}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--attentions", nargs="+", default=ATTENTIONS)
    parser.add_argument("--steps", type=int, default=50)
    settings = parser.parse_args(arguments)
    pythons = [*settings.pythons, sys.executable][:2]
    print(
        "| recipe | attention | versions | weights | logits before | loss | parameters | answers | maps |", flush=True
    )
    for name in settings.recipes:
        recipe = load_recipe(name)
        for attention in settings.attentions:
            results = []
            for python in pythons:
                os.environ["TWINSTEP_PYTHON_TORCH"] = python
                call = (trained, recipe, settings.steps, attention)
                results.append(processes.call(*call, framework="torch"))
            versions = " and ".join(version for _, version, *_ in results)
            print(f"| {name} | {attention} | {versions} | {differences(*results)} |", flush=True)


if __name__ == "__main__":
    from tests.benchmarks import library_versions  # other processes import `trained` from there

    library_versions.main()
