r"""WNUT 2017: find rare and new names in social media, six types, with BERT-base.

    make finetune RECIPE=wnut17_bert

On local copies of the files of the shared task:

    make finetune RECIPE=wnut17_bert SET="data.path=conll data.files.train=wnut17train.conll \
        data.files.validation=emerging.dev.conll data.columns.tokens=0 data.columns.tags=1"

Not yet measured with this pipeline, and no figure is published for these settings. The best system of the shared task
has an entity F1 of 0.419 on the test set (Derczynski et al. 2017, table 4). The validation split, which this recipe
scores, cannot be compared with it: its texts are YouTube comments, those of the test set come from other sites.
Hyperparameters: within the ranges of Devlin et al. 2018, appendix A.3. Data card: leondz/wnut_17, in the parquet
conversion of the Hub.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="wnut17_bert",
    task="token-classification",
    checkpoint="google-bert/bert-base-cased",
    data=Data(
        path="leondz/wnut_17",
        revision="refs/convert/parquet",
        train="train",
        validation="validation",
        test="test",
        columns={"tokens": "tokens", "tags": "ner_tags"},
        max_length=128,
    ),
    train=Train(epochs=4, batch_size=16, learning_rate=5e-5, weight_decay=0.01, warmup_ratio=0.1),
    metrics=("seqeval_f1", "seqeval_precision", "seqeval_recall"),
)
