r"""STS-B: rate how similar two sentences are, from 0 to 5, with BERT-base.

    make finetune RECIPE=stsb_bert

On local copies of the files that GLUE distributes:

    make finetune RECIPE=stsb_bert SET="data.files.train=train.tsv data.files.validation=dev.tsv \
        data.columns.label=score"

Not yet measured with this pipeline. Published: Spearman correlation 0.858 on the hidden test set of GLUE (Devlin et
al. 2018, table 1, BERT-base). Hyperparameters: appendix A.3 of that paper. Data card: nyu-mll/glue, configuration
stsb.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="stsb_bert",
    task="sequence-classification",
    checkpoint="google-bert/bert-base-uncased",
    data=Data(
        path="nyu-mll/glue",
        name="stsb",
        train="train",
        validation="validation",
        columns={"text": "sentence1", "text_pair": "sentence2", "label": "label"},
        max_length=128,
    ),
    train=Train(epochs=3, batch_size=16, learning_rate=2e-5, weight_decay=0.01, warmup_ratio=0.1),
    options={"problem_type": "regression"},
    metrics=("pearson", "spearman"),
)
