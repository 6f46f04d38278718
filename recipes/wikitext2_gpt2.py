"""WikiText-2: predict the next token of Wikipedia articles (raw text), with GPT-2.

    make finetune RECIPE=wikitext2_gpt2

On local text files:

    make finetune RECIPE=wikitext2_gpt2 SET="data.files.train=train.txt data.files.validation=valid.txt"

Not yet measured with this pipeline. Published: perplexity of about 20 per GPT-2 token on the test file (README of the
language modeling examples of transformers). The 29.41 that Radford et al. 2019 report without fine-tuning (table 3)
is per word of the tokenized text and cannot be compared. Use the raw files: `wiki.*.tokens` replace rare words by
<unk>. Hyperparameters: the defaults of run_clm.py in the same examples. Data card: Salesforce/wikitext, configuration
wikitext-2-raw-v1.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="wikitext2_gpt2",
    task="causal-language-modeling",
    checkpoint="openai-community/gpt2",
    data=Data(
        path="Salesforce/wikitext",
        name="wikitext-2-raw-v1",
        train="train",
        validation="validation",
        columns={"text": "text"},
        max_length=1024,
    ),
    train=Train(epochs=3, batch_size=8, learning_rate=5e-5, weight_decay=0.0, warmup_ratio=0.0),
    options={"packing": "blocks", "separator": "none"},
    metrics=("perplexity", "bits_per_byte"),
)
