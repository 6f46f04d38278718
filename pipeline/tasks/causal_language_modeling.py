"""Causal language modelling: each token from those before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.data.batches import Batch, Features, Ragged
from pipeline.data.token_stream import Document, read_documents
from pipeline.metrics.specs import default_metrics_for, metrics_for
from pipeline.tasks.base import Examples, ScoredExample, Task, equal_weights, text_problems
from pipeline.utils.errors import UserError


class CausalLanguageModeling(Task):
    """The rules of the family for one recipe.

    Every token of the texts is predicted exactly once. The first is predicted from the tokenizer's begin-of-text
    token; blocks follow each other so that the last token of one is the first input of the next.
    """

    auto_class = "AutoModelForCausalLM"
    reads_beginnings = False
    required = ("text",)
    optional = ("floor",)
    metrics = metrics_for("causal-language-modeling")
    default_metrics = default_metrics_for("causal-language-modeling")

    def row_problems(self, split: str, rows: datasets.Dataset) -> Iterable[str]:
        """Texts that are null; blank ones are dropped and counted. A floor must be a number of nats a row."""
        yield from text_problems(split, "text", rows, blank_is_wrong=False)
        if "floor" in rows.column_names and self.options.packing != "rows":
            yield "data.columns.floor is a row's own, so options.packing must be rows"
        elif "floor" in rows.column_names:
            wrong = (i for i, v in enumerate(rows["floor"][:], start=1) if not isinstance(v, int | float) or not v >= 0)
            yield from (f"{split} row {number}: floor wants a number of nats, 0 or more" for number in list(wrong)[:3])

    def fit_labels(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> list[str]:
        """Nothing to learn; a metric without its column is refused."""
        problems = self.setting_problems(("label_smoothing",))
        if "perplexity_floor" in self.recipe.metrics and "floor" not in splits["train"].column_names:
            problems.append("metrics: perplexity_floor wants data.columns.floor, each text's -log p in nats")
        return problems

    def setup(self, config: Any, tokenizer: Any) -> None:
        """Take config and tokenizer. Raises UserError where no token can stand before or after a text."""
        super().setup(config, tokenizer)
        if tokenizer.eos_token_id is None:
            raise UserError(f"recipe {self.recipe.name}: the tokenizer of {self.recipe.checkpoint} has no eos_token")

    def encode(self, rows: datasets.Dataset) -> Examples:
        """Lay texts into blocks or rows of at most `data.max_length` tokens."""
        is_packed = self.options.packing == "blocks"
        keep_line_breaks = is_packed and self.options.separator == "none"
        documents, sources = read_documents(rows, self.tokenizer, keep_line_breaks)
        counts = {"rows": len(rows), "blank rows dropped": len(rows) - len(documents)}
        layout = self._blocks(documents) if is_packed else self._rows(documents)
        if not is_packed:
            cut = np.array([len(d.ids) + 1 > self.recipe.data.max_length for d in documents], dtype=bool)
            counts["truncated"] = int(cut.sum())
        inputs, labels, num_bytes = (Ragged.of([row[i] for row in layout]) for i in range(3))
        counts["tokens"] = len(labels.values)
        extra = {"sources": sources, "labels": labels, "bytes": num_bytes} | ({} if is_packed else {"cut": cut})
        if "floor" in rows.column_names:
            if counts.get("truncated"):
                raise UserError(
                    f"recipe {self.recipe.name}: data.columns.floor is of whole texts, but {counts['truncated']} are "
                    f"longer than data.max_length={self.recipe.data.max_length}; raise it, or leave the column out"
                )
            extra["floor"] = np.array(rows["floor"][:], np.float64)[sources]
        return Examples({"input_ids": inputs}, inputs.lengths, labels.lengths, counts, extra)

    def targets(self, examples: Examples, batch: Batch) -> Features:
        """`labels` [B, width], the token after each position, and `loss_weights` that are 0 on padding."""
        (width,) = batch.widths
        real = np.arange(width) < examples.lengths[batch.rows][:, None]
        return {
            "labels": examples.extra["labels"].padded(batch.rows, width, 0),
            "loss_weights": equal_weights(real),
        }

    def outputs(self, learner: Any, inputs: Features, targets: Features | None) -> Any:
        """Each label's loss, computed where the logits are; or, of a text to go on from, what follows it."""
        if targets is not None:
            return learner.token_losses(inputs, targets["labels"])
        # A row at a time: padding in the middle of a text is nothing that GPT-2 has learned.
        chosen = {key: getattr(self.options, key) for key in ("max_new_tokens", "num_beams", "length_penalty")}
        generated = []
        for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            prompt = row[mask != 0][None]
            ids = learner.generate({"input_ids": prompt, "attention_mask": np.ones_like(prompt)}, chosen)
            generated.append(ids[0, prompt.shape[1] :])
        return generated

    def score_batch(self, output: tuple[NDArray, NDArray], examples: Examples, rows: NDArray) -> list[ScoredExample]:
        """Summed loss, tokens and bytes of each row; the tokens that were the likeliest ones."""
        scored = []
        for losses, predicted, row in zip(*output, rows, strict=True):
            labels = examples.extra["labels"][row]
            loss, correct = float(losses[: len(labels)].sum(dtype=np.float64)), predicted[: len(labels)] == labels
            line = {
                "loss_sum": loss,
                "tokens": len(labels),
                "bytes": int(examples.extra["bytes"][row].sum()),
                "correct": int(correct.sum()),
            }
            columns = {"loss_sums": loss, "tokens": len(labels), "bytes": line["bytes"]}
            if "floor" in examples.extra:
                line["floor"] = columns["floor_nats"] = float(examples.extra["floor"][row])
            scored.append(ScoredExample(line, columns, loss, len(labels)))
        return scored

    def decode_batch(self, output: list[NDArray], examples: Examples, rows: NDArray) -> list[dict[str, Any]]:
        """What follows each text."""
        continuations = (self.tokenizer.decode(ids, skip_special_tokens=True) for ids in output)
        return [{"continuation": text} for text in continuations]

    def prediction_changes(self, config: Any) -> dict[str, Any]:
        """A text is a row of its own, and leaves room for what follows it."""
        room = config.n_positions - self.options.max_new_tokens
        if room < 4:
            raise UserError(
                f"options.max_new_tokens is {self.options.max_new_tokens}, which leaves no room for a text in the "
                f"model's {config.n_positions} positions"
            )
        room = min(room, self.recipe.data.max_length)
        return {"options.packing": "rows", "options.separator": None, "data.max_length": room}

    def _blocks(self, documents: list[Document]) -> list[tuple[NDArray, NDArray, NDArray]]:
        """(inputs, labels, bytes of the labels) of each block: all texts end to end, cut every max_length tokens."""
        eos = np.array([self.tokenizer.eos_token_id], np.int32)
        nothing = np.zeros(1, np.int64)
        ids, num_bytes = [eos], [nothing]
        for document in documents:
            ids.append(document.ids)
            num_bytes.append(document.num_bytes)
            if self.options.separator != "none":
                ids.append(eos)
                num_bytes.append(nothing)
        stream, sizes, length = np.concatenate(ids), np.concatenate(num_bytes), self.recipe.data.max_length
        bounds = range(0, len(stream) - 1, length)
        return [(stream[:-1][i : i + length], stream[1:][i : i + length], sizes[1:][i : i + length]) for i in bounds]

    def _rows(self, documents: list[Document]) -> list[tuple[NDArray, NDArray, NDArray]]:
        """(inputs, labels, bytes of the labels) of each text on its own, its end among the labels."""
        eos, length = np.array([self.tokenizer.eos_token_id], np.int32), self.recipe.data.max_length
        return [
            (
                np.concatenate([eos, document.ids])[:length],
                np.concatenate([document.ids, eos])[:length],
                np.concatenate([document.num_bytes, [0]])[:length],
            )
            for document in documents
        ]
