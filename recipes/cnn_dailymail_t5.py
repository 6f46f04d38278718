"""Summarize CNN and Daily Mail news articles into their highlights, with T5-small.

    make finetune RECIPE=cnn_dailymail_t5

On local JSON-lines files with the same keys as the data set on the Hub:

    make finetune RECIPE=cnn_dailymail_t5 SET="data.files.train=train.jsonl data.files.validation=validation.jsonl"

Not yet measured with this pipeline. Published: ROUGE-1 of about 0.41 and ROUGE-2 of about 0.20 on the test set
(Raffel et al. 2020, table 14, T5-small, fine-tuned for 2^18 steps from another mixture). Their ROUGE-L of about 0.38
scores each sentence alone; `rougeL` here scores the whole text as one sequence and is lower.

Prefix, source length, beams and length penalty follow the paper; the learning rate follows the advice on AdamW in
the T5 page of transformers. Data card: abisee/cnn_dailymail, configuration 3.0.0.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="cnn_dailymail_t5",
    task="sequence-to-sequence",
    checkpoint="google-t5/t5-small",
    data=Data(
        path="abisee/cnn_dailymail",
        name="3.0.0",
        train="train",
        validation="validation",
        columns={"source": "article", "target": "highlights"},
        max_length=512,
    ),
    train=Train(epochs=1, batch_size=32, learning_rate=3e-4, weight_decay=0.0, warmup_ratio=0.0),
    options={
        "prefix": "summarize: ",
        "max_target_length": 128,
        "max_new_tokens": 128,
        "num_beams": 4,
        "length_penalty": 0.6,
    },
    metrics=("rouge1", "rouge2", "rougeL"),
)
