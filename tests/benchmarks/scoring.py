"""Scores models that other programs trained, by the definitions of this pipeline, so that scores can be compared."""

import json

import numpy as np

BATCH = 64


def score(workload, folder, logits):
    """Accuracy, or the mean loss per token in nats; `logits` turns a batch of arrays into an array."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    lines = (folder / "validation.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    kind = {"classification": _accuracy, "causal": _causal_loss, "seq2seq": _seq2seq_loss}[workload["name"]]
    return float(kind(rows, tokenizer, workload["max_length"], logits))


def _accuracy(rows, tokenizer, length, logits):
    correct = 0
    for i in range(0, len(rows), BATCH):
        texts = [row["text"] for row in rows[i : i + BATCH]]
        batch = dict(tokenizer(texts, truncation=True, max_length=length, padding=True, return_tensors="np"))
        labels = [row["label"] for row in rows[i : i + BATCH]]
        correct += int((logits(batch).argmax(axis=-1) == labels).sum())
    return correct / len(rows)


def _causal_loss(rows, tokenizer, length, logits):
    """Score every token once, in blocks as long as the model allows; the end-of-text token predicts the first one."""
    ids = [token for text in tokenizer([row["text"] for row in rows])["input_ids"] for token in text]
    inputs, labels = np.array([tokenizer.eos_token_id, *ids[:-1]]), np.array(ids)
    losses = []
    for i in range(0, len(ids), length):
        predicted = logits({"input_ids": inputs[None, i : i + length]})
        losses.append(token_losses(predicted, labels[None, i : i + length]))
    return np.concatenate(losses, axis=1).mean()


def _seq2seq_loss(rows, tokenizer, length, logits):
    total = count = 0
    for i in range(0, len(rows), BATCH):
        chunk, options = rows[i : i + BATCH], {"truncation": True, "max_length": length, "padding": True}
        batch = tokenizer([row["source"] for row in chunk], return_tensors="np", **options)
        target = tokenizer(text_target=[row["target"] for row in chunk], return_tensors="np", **options)
        labels, mask = target["input_ids"], target["attention_mask"]
        started = np.concatenate([np.full((len(chunk), 1), tokenizer.pad_token_id), labels[:, :-1]], axis=1)
        keys = ("input_ids", "attention_mask")
        predicted = logits({key: batch[key] for key in keys} | {"decoder_input_ids": started})
        total += float((token_losses(predicted, labels) * mask).sum())
        count += int(mask.sum())
    return total / count


def token_losses(logits, labels):
    """Cross-entropy in nats of each label, [B, T], from logits [B, T, V]."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(logits, labels[..., None].astype(np.int64), axis=-1)[..., 0]
    return np.log(np.exp(logits).sum(axis=-1)) - chosen
