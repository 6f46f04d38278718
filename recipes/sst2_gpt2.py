"""SST-2 with GPT-2: sentiment of film-review phrases, two labels, read off the last token.

    make finetune RECIPE=sst2_gpt2

On local copies of GLUE's own files:

    make finetune RECIPE=sst2_gpt2 SET="data.files.train=train.tsv data.files.validation=dev.tsv"

Expected: no published figure for GPT-2 at these settings; the first GPT, of about the same size, has accuracy 0.913
on GLUE's hidden test set (Radford et al. 2018, table 4). Not yet measured with this pipeline. Hyperparameters:
section 4.1 of that paper, but BERT's smaller learning rate. Data card: nyu-mll/glue, sst2.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="sst2_gpt2",
    task="sequence-classification",
    checkpoint="openai-community/gpt2",
    data=Data(
        path="nyu-mll/glue",
        name="sst2",
        train="train",
        validation="validation",
        columns={"text": "sentence", "label": "label"},
        max_length=128,
    ),
    train=Train(epochs=3, batch_size=32, learning_rate=2e-5, weight_decay=0.01, warmup_ratio=0.1),
    metrics=("accuracy",),
)
