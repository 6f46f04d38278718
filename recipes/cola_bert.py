r"""CoLA: decide whether a sentence is acceptable English, with BERT-base.

    make finetune RECIPE=cola_bert

On local copies of the files that GLUE distributes, which have no header:

    make finetune RECIPE=cola_bert SET="data.files.train=train.tsv data.files.validation=dev.tsv \
        data.columns.text=3 data.columns.label=1"

Not yet measured with this pipeline. Published: Matthews correlation 0.521 on the hidden test set of GLUE (Devlin et
al. 2018, table 1, BERT-base). Hyperparameters: appendix A.3 of that paper. Data card: nyu-mll/glue, configuration
cola.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="cola_bert",
    task="sequence-classification",
    checkpoint="google-bert/bert-base-uncased",
    data=Data(
        path="nyu-mll/glue",
        name="cola",
        train="train",
        validation="validation",
        columns={"text": "sentence", "label": "label"},
        max_length=128,
    ),
    train=Train(epochs=3, batch_size=32, learning_rate=2e-5, weight_decay=0.01, warmup_ratio=0.1),
    metrics=("matthews_correlation", "accuracy"),
)
