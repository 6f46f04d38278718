"""Causal language modeling: every token is predicted once, and perplexity is that of the saved model."""

import json
import math

import pytest
import torch
import transformers

from pipeline import finetune
from tests.helpers.families import of_rows, prepared, recipe_of, rows_of


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("separator", ["none", "eos"])
def test_blocks_hold_every_token_once_as_input_and_once_as_label(tmp_path, separator):
    rows = [{"text": text} for text in ("Once upon a time\n", "\n", "there lived a queen. Naïve façade – 5 €\n")]
    recipe = of_rows("causal blocks", tmp_path, rows, **{"options.separator": separator, "data.max_length": 7})
    experiment, task, examples = prepared(recipe)
    tokenizer = experiment.tokenizer
    end, kept = [tokenizer.eos_token_id], [tokenizer(row["text"])["input_ids"] for row in rows]
    if separator == "eos":
        kept = [tokenizer(row["text"].rstrip("\n"))["input_ids"] + end for row in (rows[0], rows[2])]
    stream = [token for ids in kept for token in ids]
    assert examples.labels.values.tolist() == stream
    assert examples.features["input_ids"].values.tolist() == end + stream[:-1]
    assert examples.lengths.max() == 7 and (examples.lengths[:-1] == 7).all()
    text = "".join(row["text"] if separator == "none" else row["text"].rstrip("\n") for row in rows)
    assert examples.num_bytes.values.sum() == len(text.encode())


@pytest.mark.slow
def test_perplexity_is_that_of_the_saved_model_in_float64(tmp_path, framework):
    recipe = recipe_of("causal rows", tmp_path)
    run = finetune(recipe, framework=framework, out=tmp_path / "run")
    model = transformers.AutoModelForCausalLM.from_pretrained(run.path / "model").double().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.path / "model")
    total, tokens, num_bytes, floor, first, third_and_fourth = 0.0, 0, 0, 0.0, 0.0, 0.0
    for row in rows_of("causal rows", 16, 1):
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id]])
        with torch.inference_mode():
            log_p = torch.log_softmax(model(ids[:, :-1]).logits, -1)
        of_tokens = -log_p.gather(-1, ids[:, 1:, None]).flatten()
        total += of_tokens.sum().item()
        first, third_and_fourth = first + of_tokens[0].item(), third_and_fourth + of_tokens[2:4].sum().item()
        tokens, num_bytes = tokens + ids.shape[1] - 1, num_bytes + len(row["text"].encode())
        floor += row["floor_nats"]
    assert run.metrics["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert run.metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / num_bytes, rel=1e-4)
    found = lines(run.path / "predictions.jsonl")
    assert sum(line["loss_sum"] for line in found) == pytest.approx(total, rel=1e-4)
    positions = [line["position_losses"] for line in found]
    assert sum(row[0] for row in positions) == pytest.approx(first, rel=1e-4)
    assert sum(sum(row[2:3]) for row in positions) == pytest.approx(third_and_fourth, rel=1e-4)
    assert (sum(line["tokens"] for line in found), sum(line["bytes"] for line in found)) == (tokens, num_bytes)
