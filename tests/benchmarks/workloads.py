"""The workloads of `make bench`: three tasks, each a folder with rows, a tokenizer and random weights.

    python -m tests.benchmarks.workloads FOLDER NAME ROWS SHAPE BATCH_SIZE [DATA]

writes FOLDER with train.jsonl, validation.jsonl, `model/` (a stock PyTorch checkpoint), where TensorFlow is installed
`tf_model/` (the same weights in a TensorFlow file, for TFAuto...from_pretrained), and workload.json.
"""

import importlib.util
import json
import math
import os
import random
import sys
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # transformers' TensorFlow classes are Keras 2
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

VOCABULARY = 8000  # the most tokens that a tokenizer learns
# Of the models, by the name of the workload; `vocabulary` is the least number of rows of the embeddings.
SMALL = {"width": 256, "inner": 1024, "layers": 4, "heads": 4, "vocabulary": 0}
SHAPES = {
    "small": dict.fromkeys(("classification", "causal", "seq2seq"), SMALL),
    # Those of BERT-base, GPT-2 small and T5-small.
    "published": {
        "classification": {"width": 768, "inner": 3072, "layers": 12, "heads": 12, "vocabulary": 30522},
        "causal": {"width": 768, "inner": 3072, "layers": 12, "heads": 12, "vocabulary": 50257},
        "seq2seq": {"width": 512, "inner": 2048, "layers": 6, "heads": 8, "vocabulary": 32128},
    },
}
BUNDLED = Path(__file__).resolve().parents[2] / "recipes" / "bundled"
# `rows` is the largest number of training rows; ROWS of the command line can only lower it.
SETTINGS = {
    "classification": {
        "task": "sequence-classification", "auto_class": "AutoModelForSequenceClassification", "rows": 8192,
        "validation_rows": 1000, "max_length": 128, "learning_rate": 5e-4, "epochs": 1, "score": "accuracy",
    },
    "causal": {
        "task": "causal-language-modeling", "auto_class": "AutoModelForCausalLM", "rows": 3744,
        "validation_rows": 1000, "max_length": 128, "learning_rate": 5e-4, "epochs": 1, "score": "loss",
    },
    "seq2seq": {
        "task": "sequence-to-sequence", "auto_class": "AutoModelForSeq2SeqLM", "rows": 4480,
        "validation_rows": 500, "max_length": 64, "learning_rate": 1e-3, "epochs": 2, "score": "loss",
    },
}  # fmt: skip


def read_rows(name, data):
    """(training rows, validation rows, source): real text from the folder `data`, or a bundled set if it is None."""
    if data is None:
        folder = BUNDLED / {"classification": "sentiment", "causal": "stories", "seq2seq": "dates"}[name]
        splits = [
            [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
            for split in ("train", "validation")
        ]
        if name == "classification":
            splits = [[r | {"label": int(r["label"] == "positive")} for r in rows] for rows in splits]
        keys = {"classification": ("text", "label"), "causal": ("text",), "seq2seq": ("source", "target")}[name]
        return *([{key: row[key] for key in keys} for row in rows] for rows in splits), f"bundled {folder.name}"
    if name == "classification":
        splits = [_sst2(data / "glue" / "SST-2" / file) for file in ("train.tsv", "dev.tsv")]
        return *splits, "SST-2"
    if name == "causal":
        files = [data / "wikitext2" / file for file in ("valid.txt", "test.txt")]
        splits = [[{"text": line + "\n"} for line in f.read_text(encoding="utf-8").split("\n")] for f in files]
        return *splits, "WikiText-2 (valid to train, test to validate)"
    lines = (data / "tatoeba_eng_fra" / "eng-fra.txt").read_text(encoding="utf-8").splitlines()
    pairs = [dict(zip(("source", "target"), line.split("\t"), strict=False)) for line in lines]
    random.Random(0).shuffle(pairs)  # the lines of the file are sorted by length
    return pairs[:4480], pairs[4480:], "Tatoeba English to French"


def _sst2(path):
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [{"text": text, "label": int(label)} for text, label in (line.split("\t") for line in lines if line)]


def train_tokenizer(name, texts, max_length, folder):
    """A tokenizer of the kind that the model family uses, trained on the texts, with at most VOCABULARY tokens."""
    from tokenizers import (
        BertWordPieceTokenizer,
        ByteLevelBPETokenizer,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import BertTokenizerFast, GPT2TokenizerFast, T5TokenizerFast

    if name == "classification":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        learned = BertWordPieceTokenizer(lowercase=True)
        learned.train_from_iterator(texts, vocab_size=VOCABULARY, show_progress=False, special_tokens=special)
        # The trainer learns the same tokens every time, but numbers them differently; sorting makes them the same.
        vocabulary = folder / "vocab.txt"
        vocabulary.write_text("\n".join([*special, *sorted(set(learned.get_vocab()) - {*special})]), encoding="utf-8")
        return BertTokenizerFast(str(vocabulary), model_max_length=max_length)
    if name == "causal":
        learned, end = ByteLevelBPETokenizer(), "<|endoftext|>"
        learned.train_from_iterator(texts, vocab_size=VOCABULARY, show_progress=False, special_tokens=[end])
        return GPT2TokenizerFast(tokenizer_object=learned._tokenizer, model_max_length=10**9)
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.pre_tokenizer, learned.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    learned.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    learned.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=learned, extra_ids=0, model_max_length=max_length)


def build_config(name, tokenizer, max_length, shape):
    """BERT, GPT-2 or T5 of this shape (T5: as many layers in the decoder), with the family's default dropout, 0.1."""
    from transformers import BertConfig, GPT2Config, T5Config

    vocabulary = max(len(tokenizer), shape["vocabulary"])
    width, inner, layers, heads = (shape[key] for key in ("width", "inner", "layers", "heads"))
    if name == "classification":
        return BertConfig(
            vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=inner, max_position_embeddings=max_length, num_labels=2, id2label={0: "0", 1: "1"},
            label2id={"0": 0, "1": 1}, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    if name == "causal":
        end = tokenizer.eos_token_id
        return GPT2Config(
            vocab_size=vocabulary, n_positions=max_length, n_embd=width, n_layer=layers, n_head=heads, n_inner=inner,
            bos_token_id=end, eos_token_id=end,
        )  # fmt: skip
    return T5Config(
        vocab_size=vocabulary, d_model=width, d_kv=width // heads, d_ff=inner, num_layers=layers, num_heads=heads,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip


def forward_flops(name, lengths, shape, vocabulary):
    """Floating-point operations of one forward pass over the real tokens of rows with these lengths.

    Only matrix products count, a multiplication and an addition each; attention counts every pair of tokens in a row,
    masked or not, because every contestant computes them all. `lengths` are numbers, or (source, target) pairs for T5.
    """
    width, layers = shape["width"], shape["layers"]
    square, inner = 2 * width * width, 4 * width * shape["inner"]
    if name == "seq2seq":
        encoder = sum(layers * (s * (4 * square + inner) + 4 * s * s * width) for s, _ in lengths)
        decoder = sum(
            layers * (t * (6 * square + inner) + 2 * s * square + 4 * t * (t + s) * width) + 2 * t * width * vocabulary
            for s, t in lengths
        )
        return encoder + decoder
    body = sum(layers * (t * (4 * square + inner) + 4 * t * t * width) for t in lengths)
    head = 2 * width * vocabulary * sum(lengths) if name == "causal" else square * len(lengths)
    return body + head


def row_lengths(name, rows, tokenizer, max_length):
    """The number of real tokens of each text or block, or of (source, target)."""
    if name == "causal":
        total = sum(map(len, tokenizer([row["text"] for row in rows])["input_ids"]))
        return [max_length] * (total // max_length) + ([total % max_length] if total % max_length else [])
    sides = ("source", "target") if name == "seq2seq" else ("text",)
    encoded = [tokenizer([r[s] for r in rows], truncation=True, max_length=max_length)["input_ids"] for s in sides]
    lengths = [tuple(map(len, row)) for row in zip(*encoded, strict=True)]
    return lengths if name == "seq2seq" else [length for (length,) in lengths]


def prepare(folder, name, max_rows, shape, batch_size, data):
    """Write the folder of a workload; workload.json comes last, so its presence means that the folder is complete."""
    import torch
    import transformers

    settings, shape = SETTINGS[name], SHAPES[shape][name]
    train, validation, source = read_rows(name, data)
    num_rows = min(max_rows, settings["rows"], len(train)) // batch_size * batch_size
    train, validation = train[:num_rows], validation[: min(max_rows, settings["validation_rows"])]
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", train), ("validation", validation)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    texts = [row[key] for row in train for key in row if key != "label"]
    tokenizer = train_tokenizer(name, texts, settings["max_length"], folder)
    torch.manual_seed(0)
    config = build_config(name, tokenizer, settings["max_length"], shape)
    model = getattr(transformers, settings["auto_class"]).from_config(config)
    tokenizer.save_pretrained(folder / "model")
    model.save_pretrained(folder / "model")
    if importlib.util.find_spec("tensorflow") is not None:
        same = getattr(transformers, "TF" + settings["auto_class"]).from_pretrained(folder / "model", from_pt=True)
        tokenizer.save_pretrained(folder / "tf_model")
        same.save_pretrained(folder / "tf_model")
    lengths = row_lengths(name, train, tokenizer, settings["max_length"])
    tokens = sum(map(sum, lengths)) if name == "seq2seq" else sum(lengths)
    workload = settings | {
        "name": name, "source": source, "rows": len(lengths), "validation_rows": len(validation),
        "batch_size": batch_size, "vocabulary": config.vocab_size, "tokens": tokens, "shape": shape,
        "steps": math.ceil(len(lengths) / batch_size) * settings["epochs"],
        "training_flops": 3 * forward_flops(name, lengths, shape, config.vocab_size) * settings["epochs"],
    }  # fmt: skip
    (folder / "workload.json").write_text(json.dumps(workload, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    folder, name, rows, shape, batch_size, *data = sys.argv[1:]
    prepare(Path(folder), name, int(rows), shape, int(batch_size), Path(data[0]) if data else None)
