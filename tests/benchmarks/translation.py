"""Measures translation by small models from random weights: the Transformer of 2017 (Marian) beside T5, of one size.

    python -m tests.benchmarks.translation [--data ../shared] [--seeds 0 1 2 3 4] [--models transformer t5]
        [--frameworks torch tensorflow] [--out reports/translation] [--small]

Without `--data` it is the recipe translate_transformer on its bundled sentences. With it the same recipe translates the
pairs of data/tatoeba_eng_fra from English to French: every tenth English sentence is held out, with all its
translations, and a byte-pair vocabulary of both languages is trained on the others. T5 has the same tokens, width,
heads, layers and steps. Each run is a finetune command in its own process; finished runs are reused.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from pipeline.utils.environment import configure_process
from tests.benchmarks.real_text import trained

RECIPE = "translate_transformer"
# The model of a run: its checkpoint's folder, and what computes it.
MODELS = {
    "transformer": ("marian", "stock"),
    "handwritten-attention": ("marian", "handwritten"),
    "handwritten-model": ("marian", "handwritten-model"),
    "t5": ("t5", "stock"),
}
HELD_OUT = 10
VOCABULARY = 2000
# On real text, which is short, and of which there is little.
REAL = {"train.epochs": 10, "train.dropout": 0.1, "data.max_length": 32, "options.max_target_length": 48,
        "options.max_new_tokens": 47}  # fmt: skip
SMALL = {"data.limit.train": 64, "data.limit.validation": 16, "train.epochs": 1, "options.max_new_tokens": 4}
METRICS = {"sacrebleu": 1, "chrf": 1, "exact_match": 3}


def parsed(arguments):
    """The settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with data/tatoeba_eng_fra; by default the bundled sentences")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--frameworks", nargs="+", default=["torch", "tensorflow"])
    parser.add_argument("--out", type=Path, default=Path("reports/translation"))
    parser.add_argument("--small", action="store_true", help="a few rows and steps, to see that everything runs")
    return parser.parse_args(arguments)


def main(arguments):
    """Run what is missing, print a line for each model and framework; returns 1 if something failed."""
    settings = parsed(arguments)
    out = settings.out.resolve() / ("tatoeba" if settings.data else "bundled")
    changes = real_data(settings.data.resolve(), out / "data") if settings.data else {}
    changes |= SMALL if settings.small else {}
    checkpoints = write_checkpoints(out / "data", changes)
    lines, failed = [HEADER], False
    for model in settings.models:
        folder, attention = MODELS[model]
        for framework in settings.frameworks:
            own = changes | {"checkpoint": str(checkpoints[folder])}
            name = f"{model}-{framework}"
            runs = [
                trained(RECIPE, own, framework, attention, out / f"{name}-seed{seed}", seed) for seed in settings.seeds
            ]
            failed |= any("failed" in run for run in runs)
            lines.append(row(model, framework, out / f"{name}-seed{settings.seeds[0]}", runs))
            print(lines[-1], flush=True)
    (out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return int(failed)


HEADER = "| model | framework | weights | steps | BLEU | chrF | exact match | training, s |\n" + "|---" * 8 + "|"


def row(model, framework, first, runs):
    """A line of the table: means over the seeds, with the standard deviation if there are several."""
    if problems := [run["failed"] for run in runs if "failed" in run]:
        return f"| {model} | {framework} | failed: {problems[0].splitlines()[-1]} |" + " |" * 5
    report = json.loads((first / "metrics.json").read_text(encoding="utf-8"))
    scores = [spread([run["metrics"][name] for run in runs], digits) for name, digits in METRICS.items()]
    seconds = spread([run["train_seconds"] for run in runs], 0)
    cells = [model, framework, f"{num_weights(first):,}", report["train"]["steps"], *scores, seconds]
    return f"| {' | '.join(map(str, cells))} |"


def spread(values, digits):
    """The mean, and in parentheses the standard deviation."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else mean


def num_weights(run):
    """The weights of a run's model that are trained; positions of a Marian are constants."""
    from safetensors.numpy import load_file

    weights = load_file(run / "model" / "model.safetensors")
    constants = ("embed_positions.weight", "final_logits_bias")
    return sum(weight.size for name, weight in weights.items() if not name.endswith(constants))


def real_data(shared, folder):
    """Write the two splits of the English and French pairs; returns the overrides of the recipe that read them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (shared / "data" / "tatoeba_eng_fra" / "eng-fra.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t")[:2] for line in lines]
    number = {english: i for i, english in enumerate(dict.fromkeys(english for english, _ in pairs))}
    splits = {"train": [], "validation": []}
    for english, french in pairs:
        splits["validation" if number[english] % HELD_OUT == 0 else "train"].append((english, french))
    for split, rows in splits.items():
        text = "".join(json.dumps({"english": english, "french": french}) + "\n" for english, french in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    files = {f"data.files.{split}": str(folder / f"{split}.jsonl") for split in splits}
    return {"data.path": "json", **files, "data.columns.source": "english", "data.columns.target": "french", **REAL}


def write_checkpoints(folder, changes):
    """Write configuration and vocabulary of each kind of model; returns {kind: folder}."""
    from transformers import T5Config

    from recipes.bundled.translation import vocabulary

    marian, t5 = folder / "marian", folder / "t5"
    if "data.files.train" in changes:
        lines = Path(changes["data.files.train"]).read_text(encoding="utf-8").splitlines()
        texts = [text for line in lines for text in json.loads(line).values()]
    else:
        texts = [text for row in vocabulary.rows("train") for text in (row.english, row.orlish)]
    tokenizer = vocabulary.new_tokenizer(texts, VOCABULARY if changes.get("data.path") else vocabulary.VOCABULARY_SIZE)
    config = vocabulary.new_config(len(tokenizer))
    same_size = T5Config(
        architectures=["T5ForConditionalGeneration"], vocab_size=len(tokenizer), d_model=config.d_model,
        d_kv=config.d_model // config.encoder_attention_heads, d_ff=config.encoder_ffn_dim,
        num_layers=config.encoder_layers, num_decoder_layers=config.decoder_layers,
        num_heads=config.encoder_attention_heads, dropout_rate=config.dropout, pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id, decoder_start_token_id=config.pad_token_id,
    )  # fmt: skip
    for path, each in ((marian, config), (t5, same_size)):
        tokenizer.save_pretrained(path)
        each.save_pretrained(path)
    return {"marian": marian, "t5": t5}


if __name__ == "__main__":
    configure_process()
    sys.exit(main(sys.argv[1:]))
