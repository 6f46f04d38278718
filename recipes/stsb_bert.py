r"""STS-B: how alike are two sentences, from 0 to 5?

    make finetune RECIPE=stsb_bert

On local copies of GLUE's own files:

    make finetune RECIPE=stsb_bert SET="data.files.train=train.tsv data.files.validation=dev.tsv \
        data.columns.label=score"

Expected: Spearman correlation 0.858 on GLUE's hidden test set (Devlin et al. 2018, table 1, BERT-base); not yet
measured with this pipeline. Hyperparameters: appendix A.3 of the paper. Data card: nyu-mll/glue, stsb.
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
