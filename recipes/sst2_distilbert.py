"""SST-2: sentiment of phrases from film reviews, two labels, with DistilBERT, which has half of BERT-base's layers.

    make finetune RECIPE=sst2_distilbert

Not yet measured with this pipeline. Published: accuracy 0.913 on the validation split (Sanh et al. 2019, "DistilBERT, a
distilled version of BERT", table 1). Hyperparameters: those of sst2_bert. Data card: nyu-mll/glue, configuration sst2.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="sst2_distilbert",
    task="sequence-classification",
    checkpoint="distilbert/distilbert-base-uncased",
    data=Data(
        path="nyu-mll/glue",
        name="sst2",
        train="train",
        validation="validation",
        columns={"text": "sentence", "label": "label"},
        max_length=128,
    ),
    train=Train(epochs=3, batch_size=32, learning_rate=2e-5, weight_decay=0.01, warmup_ratio=0.1),
    metrics=("accuracy", "f1"),
)
