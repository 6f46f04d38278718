"""Write English dates in ISO 8601, with a tiny T5; data and checkpoint are bundled, so no network is needed.

    make finetune RECIPE=dates_t5

Measured over five seeds: exact match 0.934 in PyTorch (standard deviation 0.009) and 0.934 in TensorFlow (0.005).
From random weights, with the best of three learning rates: 0.043. How the data and the checkpoint were made:
bundled/dates/README.md.
"""

from pathlib import Path

from pipeline import Data, Files, Recipe, Train

BUNDLED = Path(__file__).parent / "bundled" / "dates"

RECIPE = Recipe(
    name="dates_t5",
    task="sequence-to-sequence",
    checkpoint=str(BUNDLED / "t5"),
    data=Data(
        path="json",
        files=Files(train=str(BUNDLED / "train.jsonl"), validation=str(BUNDLED / "validation.jsonl")),
        columns={"source": "source", "target": "target"},
        max_length=48,
    ),
    train=Train(epochs=4, batch_size=32, learning_rate=1e-3, dropout=0.0),
    options={"max_target_length": 16, "max_new_tokens": 16},
    metrics=("exact_match",),
)
