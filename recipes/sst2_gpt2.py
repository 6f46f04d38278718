"""SST-2 with GPT-2: sentiment of phrases from film reviews, two labels, predicted from the last token.

    make finetune RECIPE=sst2_gpt2

On local copies of the files that GLUE distributes:

    make finetune RECIPE=sst2_gpt2 SET="data.files.train=train.tsv data.files.validation=dev.tsv"

Not yet measured with this pipeline, and no figure is published for GPT-2 at these settings. The first GPT, of about
the same size, has accuracy 0.913 on the hidden test set of GLUE (Radford et al. 2018, table 4). Hyperparameters:
section 4.1 of that paper, with the smaller learning rate of BERT. Data card: nyu-mll/glue, configuration sst2.
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
