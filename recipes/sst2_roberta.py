"""SST-2: sentiment of phrases from film reviews, two labels, with RoBERTa-base.

    make finetune RECIPE=sst2_roberta

Not yet measured with this pipeline. Hyperparameters: from the ranges of Liu et al. 2019, "RoBERTa: A Robustly Optimized
BERT Pretraining Approach", table 10, with fewer epochs. Data card: nyu-mll/glue, configuration sst2.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="sst2_roberta",
    task="sequence-classification",
    checkpoint="FacebookAI/roberta-base",
    data=Data(
        path="nyu-mll/glue",
        name="sst2",
        train="train",
        validation="validation",
        columns={"text": "sentence", "label": "label"},
        max_length=128,
    ),
    train=Train(epochs=3, batch_size=32, learning_rate=1e-5, weight_decay=0.1, warmup_ratio=0.06),
    metrics=("accuracy", "f1"),
)
