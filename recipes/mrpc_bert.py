r"""MRPC: decide whether two sentences from the news mean the same, with BERT-base.

    make finetune RECIPE=mrpc_bert

On local copies of the files that GLUE distributes (their column names hold a space, which SET cannot):

    .venv/bin/python -m pipeline finetune mrpc_bert --set data.files.train=train.tsv \
        --set data.files.validation=dev.tsv --set data.columns.label=Quality \
        --set data.columns.text="'#1 String'" --set data.columns.text_pair="'#2 String'"

Not yet measured with this pipeline. Published: F1 0.889 on the hidden test set of GLUE (Devlin et al. 2018, table 1,
BERT-base). Hyperparameters: appendix A.3 of that paper. Data card: nyu-mll/glue, configuration mrpc.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="mrpc_bert",
    task="sequence-classification",
    checkpoint="google-bert/bert-base-uncased",
    data=Data(
        path="nyu-mll/glue",
        name="mrpc",
        train="train",
        validation="validation",
        columns={"text": "sentence1", "text_pair": "sentence2", "label": "label"},
        max_length=128,
    ),
    train=Train(epochs=3, batch_size=16, learning_rate=3e-5, weight_decay=0.01, warmup_ratio=0.1),
    metrics=("accuracy", "f1"),
)
