"""The adapters of LoRA runs as peft reads them."""

import warnings

import numpy as np

from pipeline.training.experiment import prepare


def logits_of(recipe, run):
    """The logits of the run's model, and those of the checkpoint with the adapter in it, on the probe.

    The third are the first as the run keeps them.
    """
    import torch
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PeftModel
    experiment = prepare(recipe)
    auto_class = getattr(transformers, experiment.task.auto_class)
    merged = auto_class.from_pretrained(run.path / "model").eval()
    base = auto_class.from_pretrained(recipe.checkpoint, config=merged.config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = PeftModel.from_pretrained(base, run.path / "adapter").eval()
    batch = {name: torch.from_numpy(value).long() for name, value in experiment.probe().items()}
    with torch.no_grad():
        first, second = (model(**batch).logits.numpy() for model in (merged, adapted))
    assert not np.allclose(
        first, auto_class.from_pretrained(recipe.checkpoint, config=merged.config)(**batch).logits.detach()
    )
    return first, second, experiment.probe_logits(first)
