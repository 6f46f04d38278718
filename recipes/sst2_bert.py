"""SST-2: sentiment of phrases from film reviews, two labels, with BERT-base.

    make finetune RECIPE=sst2_bert

On local copies of the files that GLUE distributes:

    make finetune RECIPE=sst2_bert SET="data.files.train=train.tsv data.files.validation=dev.tsv"

Not yet measured with this pipeline. Published: accuracy 0.935 on the hidden test set of GLUE (Devlin et al. 2018,
table 1, BERT-base). Hyperparameters: appendix A.3 of that paper. Data card: nyu-mll/glue, configuration sst2.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="sst2_bert",
    task="sequence-classification",
    checkpoint="google-bert/bert-base-uncased",
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
