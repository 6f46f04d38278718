"""The sets of `tests.benchmarks.real_text`: recipes of this project on local real text, with small random models.

Each set is a recipe for the Hub, pointed at local files as its docstring describes, with fewer rows and a small model.
"""

import json
import shutil
from pathlib import Path

TOKENIZERS = {"bert": "bert-base-uncased", "gpt2": "gpt2", "t5": "t5"}
WIDTH, INNER, LAYERS, HEADS, LONGEST = 128, 512, 2, 4, 384
# The overrides of --small: just enough to see that every set runs.
SMALL = {"data.limit.train": 64, "data.limit.validation": 16, "train.epochs": 1}


def sets(shared, work):
    """{name: (recipe, family, overrides)}; `work` is the folder for files that are made for a set."""
    data = shared / "data"
    glue, wikitext, tales = data / "glue", data / "wikitext2", data / "gutenberg" / "tales.txt"
    pairs, e2e, wnut = data / "tatoeba_eng_fra" / "eng-fra.txt", data / "e2e_nlg", data / "wnut17"
    documents = files(wikitext / "valid.txt", wikitext / "test.txt") | {
        "data.max_length": 128, "train.batch_size": 16, "train.learning_rate": 1e-3, "train.warmup_ratio": 0.06,
    }  # fmt: skip
    texts = {"train.learning_rate": 1e-3, "options.num_beams": 1, "data.limit.validation": 200}
    return {
        "sst2": ("sst2_bert", "bert", glue_files(glue / "SST-2") | rows(6144, 2)),
        "mrpc": ("mrpc_bert", "bert", glue_files(glue / "MRPC") | rows(None, 3) | {
            "data.columns.label": "Quality", "data.columns.text": "#1 String", "data.columns.text_pair": "#2 String",
        }),
        # Without class weights, a model from random weights calls everything acceptable: a correlation of 0.
        "cola": ("cola_bert", "bert", glue_files(glue / "CoLA") | rows(None, 3) | {
            "data.columns.text": 3, "data.columns.label": 1, "train.class_weights": "balanced",
        }),
        "stsb": ("stsb_bert", "bert", glue_files(glue / "STS-B") | rows(None, 3) | {"data.columns.label": "score"}),
        "sst2_gpt2": ("sst2_gpt2", "gpt2", glue_files(glue / "SST-2") | rows(6144, 2)),
        "wnut17": ("wnut17_bert", "bert", files(wnut / "wnut17train.conll", wnut / "emerging.dev.conll") | {
            "data.path": "conll", "data.files.test": str(wnut / "emerging.test.annotated"), "data.columns.tokens": 0,
            "data.columns.tags": 1, "train.epochs": 6, "train.learning_rate": 1e-3,
        }),
        "xquad": ("squad_bert", "bert", files(*split_squad(data / "xquad" / "xquad.en.json", work)) | {
            "data.path": "squad", "train.epochs": 4, "train.learning_rate": 5e-4,
        }),
        "wikitext_causal": ("wikitext2_gpt2", "gpt2", documents | {
            "data.limit.train": 1200, "data.limit.validation": 400, "train.epochs": 1,
        }),
        "wikitext_masked": ("wikitext2_bert_mlm", "bert", documents | {
            "data.limit.train": 1200, "data.limit.validation": 400, "train.epochs": 2,
        }),
        "gutenberg": ("wikitext2_gpt2", "gpt2", documents | files(tales, tales) | {
            "data.train": "train[:90%]", "data.validation": "validation[95%:]", "data.limit.train": 5000,
            "train.epochs": 1,
        }),
        "tatoeba": ("opus_books_t5", "t5", files(pairs, pairs) | texts | {
            "data.path": "tsv", "data.train": "train[:90%]", "data.validation": "validation[90%:]",
            "data.columns.source": 0, "data.columns.target": 1, "data.max_length": 32, "options.max_target_length": 32,
            "options.max_new_tokens": 24, "train.epochs": 3,
        }),
        "e2e": ("e2e_t5", "t5", files(e2e / "devset.csv", e2e / "testset_w_refs.csv") | texts | {
            "data.columns.source": "mr", "data.columns.target": "ref", "options.max_new_tokens": 40,
            "data.limit.train": 2400, "train.epochs": 2,
        }),
    }  # fmt: skip


def files(train, validation):
    return {"data.files.train": str(train), "data.files.validation": str(validation)}


def glue_files(folder):
    return files(folder / "train.tsv", folder / "dev.tsv") | {"train.learning_rate": 5e-4, "train.batch_size": 32}


def rows(limit, epochs):
    return ({"data.limit.train": limit} if limit else {}) | {"train.epochs": epochs}


def split_squad(path, work):
    """Split a SQuAD file in two: its first 1,000 questions, and the rest."""
    parts = [work / "xquad.train.json", work / "xquad.validation.json"]
    if not all(part.is_file() for part in parts):
        articles, seen = json.loads(path.read_text(encoding="utf-8"))["data"], 0
        halves = ([], [])
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    alone = {"context": paragraph["context"], "qas": [question]}
                    halves[seen >= 1000].append({"title": article.get("title", ""), "paragraphs": [alone]})
                    seen += 1
        for part, half in zip(parts, halves, strict=True):
            part.write_text(json.dumps({"version": "1.1", "data": half}), encoding="utf-8")
    return parts


def write_starts(shared, work):
    """Write a folder for each family with a small config and the real tokenizer; runs draw weights from the seed."""
    from transformers import AutoTokenizer, BertConfig, GPT2Config, T5Config

    for family, name in TOKENIZERS.items():
        folder = work / family
        if (folder / "config.json").is_file():
            continue
        shutil.copytree(shared / "tokenizers" / name, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        size = len(AutoTokenizer.from_pretrained(folder))
        if family == "bert":
            config = BertConfig(
                vocab_size=size, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                intermediate_size=INNER, max_position_embeddings=LONGEST,
            )  # fmt: skip
        elif family == "gpt2":
            config = GPT2Config(vocab_size=size, n_positions=LONGEST, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS)
        else:
            config = T5Config(
                vocab_size=size, d_model=WIDTH, d_kv=WIDTH // HEADS, d_ff=INNER, num_layers=LAYERS, num_heads=HEADS,
                decoder_start_token_id=0,
            )  # fmt: skip
        config.save_pretrained(folder)


def overrides(chosen, work, small):
    """The overrides of a set as dotted keys, including its checkpoint."""
    _, family, changes = chosen
    start = {"checkpoint": str((work / family).resolve()), "weights": "random"}
    small_ones = SMALL | ({"data.limit.train": 1500, "data.limit.test": 16} if "data.files.test" in changes else {})
    # Validation tags that do not occur in the training rows are refused, so there must be enough of these.
    return changes | start | (small_ones if small else {})


def as_arguments(changes):
    """--set KEY=VALUE for each override; strings are quoted, because YAML would read "#1 String" as a comment."""
    shown = ((key, f'"{v}"' if isinstance(v, str) else str(v)) for key, v in changes.items())
    return [text for key, value in shown for text in ("--set", f"{key}={value}")]


def read_lines(path: Path):
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
