"""WikiText-2: predict masked tokens of Wikipedia articles (raw text), with BERT-base.

    make finetune RECIPE=wikitext2_bert_mlm

On local text files:

    make finetune RECIPE=wikitext2_bert_mlm SET="data.files.train=train.txt data.files.validation=valid.txt"

Not yet measured with this pipeline, and no figure is published for BERT-base at these settings. Masking: 15% of the
tokens, as in Devlin et al. 2018, section 3.1. Hyperparameters: the defaults of run_mlm.py in the examples of
transformers. Data card: Salesforce/wikitext, configuration wikitext-2-raw-v1.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="wikitext2_bert_mlm",
    task="masked-language-modeling",
    checkpoint="google-bert/bert-base-uncased",
    data=Data(
        path="Salesforce/wikitext",
        name="wikitext-2-raw-v1",
        train="train",
        validation="validation",
        columns={"text": "text"},
        max_length=512,
    ),
    train=Train(epochs=3, batch_size=8, learning_rate=5e-5, weight_decay=0.0, warmup_ratio=0.0),
    options={"masking_probability": 0.15, "packing": "blocks", "separator": "none"},
    metrics=("perplexity", "masked_accuracy"),
)
