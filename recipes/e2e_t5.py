r"""E2E: describe a restaurant in a sentence, given its attributes, with T5-small.

    make finetune RECIPE=e2e_t5

On local copies of the files of the E2E challenge:

    make finetune RECIPE=e2e_t5 SET="data.files.train=trainset.csv data.files.validation=devset.csv \
        data.columns.source=mr data.columns.target=ref"

Not yet measured with this pipeline. Published: the baseline of the challenge has BLEU 65.9 and ROUGE-L 0.685 on the
test set (Dusek et al. 2020, TGen), scored against all references of a meaning at once. Here each reference is an
example of its own, which gives far lower scores: the two cannot be compared.

Hyperparameters: the advice on AdamW in the T5 page of transformers. Data card: tuetschek/e2e_nlg, in the parquet
conversion of the Hub.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="e2e_t5",
    task="sequence-to-sequence",
    checkpoint="google-t5/t5-small",
    data=Data(
        path="tuetschek/e2e_nlg",
        revision="refs/convert/parquet",
        train="train",
        validation="validation",
        columns={"source": "meaning_representation", "target": "human_reference"},
        max_length=128,
    ),
    train=Train(epochs=3, batch_size=32, learning_rate=3e-4, weight_decay=0.0, warmup_ratio=0.0),
    options={"prefix": "describe: ", "max_target_length": 96, "max_new_tokens": 96, "num_beams": 4},
    metrics=("sacrebleu", "rougeL"),
)
