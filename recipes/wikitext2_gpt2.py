"""WikiText-2: the next token of Wikipedia articles, raw text.

    make finetune RECIPE=wikitext2_gpt2

On local text files:

    make finetune RECIPE=wikitext2_gpt2 SET="data.files.train=train.txt data.files.validation=valid.txt"

Expected: perplexity about 20, of GPT-2's tokens (README of the language-modelling examples of transformers, on the
test file); not yet measured with this pipeline. Radford et al. 2019, table 3, have 29.41 without fine-tuning, but
per word of the tokenised text: not to be compared. The `wiki.*.tokens` files say <unk> for rare words, the raw ones
do not. Hyperparameters: the defaults of run_clm.py there. Data card: Salesforce/wikitext, wikitext-2-raw-v1.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="wikitext2_gpt2",
    task="causal-language-modelling",
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
