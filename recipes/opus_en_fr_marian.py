r"""OPUS Books: translate sentences of novels from English to French, with the Marian model of OPUS-MT.

    make finetune RECIPE=opus_en_fr_marian

On one local file of tab-separated pairs without a header, such as the one of Tatoeba:

    make finetune RECIPE=opus_en_fr_marian SET="data.path=tsv data.files.train=eng-fra.txt \
        data.files.validation=eng-fra.txt data.train=train[:90%] data.validation=validation[90%:] \
        data.columns.source=0 data.columns.target=1"

Other language pairs: `checkpoint` is another model of OPUS-MT (Helsinki-NLP/opus-mt-...). One that writes several
languages reads the language before each source, such as options.prefix=">>fra<< ". Some of these checkpoints have
pickled weights only, which PyTorch alone reads, with ALLOW_PICKLE=1.

Its tokenizer normalizes punctuation as in pretraining only if the package sacremoses is installed.

Not yet measured with this pipeline. The checkpoint was trained on OPUS, of which these books are a part, so scores
before and after say how far the model went toward this style, not how well it translates texts that it has never seen.
Settings: the chapter on translation of Hugging Face's course, which trains this checkpoint on KDE4 (three epochs at
2e-5, BLEU 39 before and 53 after). Data card: Helsinki-NLP/opus_books, configuration en-fr; the last 2% are held out,
as in opus_books_t5.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="opus_en_fr_marian",
    task="sequence-to-sequence",
    checkpoint="Helsinki-NLP/opus-mt-en-fr",
    data=Data(
        path="Helsinki-NLP/opus_books",
        name="en-fr",
        train="train[:98%]",
        validation="train[98%:]",
        columns={"source": "translation.en", "target": "translation.fr"},
        max_length=128,
    ),
    train=Train(epochs=3, batch_size=32, learning_rate=2e-5, weight_decay=0.01, warmup_ratio=0.0),
    options={"max_target_length": 128, "max_new_tokens": 128, "num_beams": 4},
    metrics=("sacrebleu", "chrf"),
)
