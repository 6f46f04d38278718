"""Causal language modeling: predict each token from those before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.backend import Predictor
from pipeline.data.batches import Batch, Features
from pipeline.data.ragged import Ragged
from pipeline.data.token_stream import Document, read_documents
from pipeline.tasks.base import Examples, Prediction, ScoredExample, Task
from pipeline.tasks.numerics import equal_weights, sums_by_position
from pipeline.tasks.options import CausalLanguageModelingOptions
from pipeline.tasks.validation import first_problems, number_of, text_problems
from pipeline.utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class TokenStreams(Examples):
    """A tokenized split with the token after each position, and the bytes of text that it stands for.

    `floor` has for each row the nats that no model can do without, if the recipe maps a column to it.
    """

    labels: Ragged
    num_bytes: Ragged
    floor: NDArray[np.float64] | None = None


class CausalLanguageModeling(Task[TokenStreams, ScoredExample, Prediction]):
    """The task for one recipe.

    Every token of the texts is predicted exactly once. The first is predicted from the tokenizer's end-of-text
    token; blocks follow each other so that the last token of one is the first input of the next.
    """

    auto_class = "AutoModelForCausalLM"
    architectures = ("decoder",)
    outcomes = ("token_losses", "token_bytes", "loss_floor")
    default_metrics = ("perplexity", "bits_per_byte")
    examples_class = TokenStreams
    options: CausalLanguageModelingOptions
    has_prediction_per_row = False
    reads_beginnings = False
    written_field: str = "continuation"
    required = ("text",)
    optional = ("floor",)

    def row_problems(self, split: str, rows: datasets.Dataset) -> Iterable[str]:
        """Texts that are null; blank ones are dropped and counted. A floor must be a number of nats a row."""
        yield from text_problems(split, "text", rows, blank_is_wrong=False)
        if "floor" in rows.column_names and self.options.packing != "rows":
            yield "data.columns.floor belongs to a row, so options.packing must be rows"
        elif "floor" in rows.column_names:
            numbered = enumerate(rows["floor"][:], start=1)
            wrong = (number for number, value in numbered if (nats := number_of(value)) is None or nats < 0)
            yield from first_problems(
                split, (f"{split} row {number}: floor must be a number of nats, 0 or more" for number in wrong)
            )

    def fit_labels(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> list[str]:
        """There is nothing to take from the rows; a metric without its column is refused."""
        problems = self.setting_problems(("train.label_smoothing",))
        if "perplexity_floor" in self.recipe.metrics and "floor" not in splits["train"].column_names:
            problems.append("metrics: perplexity_floor needs data.columns.floor, each text's -log p in nats")
        return problems

    def setup(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        """Take config and tokenizer. Raises UserError if there is no token to put before and after a text."""
        super().setup(config, tokenizer)
        if tokenizer.eos_token_id is None:
            raise UserError(f"recipe {self.recipe.name}: the tokenizer of {self.recipe.checkpoint} has no eos_token")

    def encode(self, rows: datasets.Dataset) -> TokenStreams:
        """Lay texts into blocks or rows of at most `data.max_length` tokens. Raises UserError; see `_floor`."""
        is_packed = self.options.packing == "blocks"
        keep_line_breaks = is_packed and self.options.separator == "none"
        documents, rows_read = read_documents(rows, self.tokenizer, keep_line_breaks)
        counts = {"rows": len(rows), "blank rows dropped": len(rows) - len(documents)}
        layout = self._blocks(documents) if is_packed else self._rows(documents)
        truncated = None
        if not is_packed:
            truncated = np.array([len(d.ids) + 1 > self.recipe.data.max_length for d in documents], dtype=bool)
            counts["truncated"] = int(truncated.sum())
        inputs, labels, num_bytes = (Ragged.of([row[i] for row in layout]) for i in range(3))
        counts["tokens"] = len(labels.values)
        return TokenStreams(
            {"input_ids": inputs},
            lengths=inputs.lengths,
            num_targets=labels.lengths,
            counts=counts,
            truncated=truncated,
            rows_read=rows_read,
            labels=labels,
            num_bytes=num_bytes,
            floor=self._floor(rows, rows_read, counts.get("truncated", 0)) if "floor" in rows.column_names else None,
        )

    def _floor(self, rows: datasets.Dataset, rows_read: NDArray[np.int64], num_truncated: int) -> NDArray[np.float64]:
        """The floor of each row that was read. Raises UserError if rows are truncated, for it is of whole texts."""
        if num_truncated:
            raise UserError(
                f"recipe {self.recipe.name}: data.columns.floor is of whole texts, but {num_truncated} are "
                f"longer than data.max_length={self.recipe.data.max_length}; raise it, or leave the column out"
            )
        return np.array([number_of(value) for value in rows["floor"][:]], np.float64)[rows_read]

    def targets(self, examples: TokenStreams, batch: Batch) -> Features:
        """`labels` [R, L], the token after each position, and `loss_weights` that are 0 on padding."""
        (stream,) = batch.layout(examples.lengths).streams
        return {
            "labels": examples.labels.laid_out(batch.rows, stream, 0),
            "loss_weights": equal_weights(stream.is_real),
        }

    def outputs(
        self, model: Predictor, inputs: Features, targets: Features | None
    ) -> tuple[NDArray, NDArray] | list[NDArray]:
        """Each label's loss, so that logits stay inside the framework; without targets, what continues each text."""
        if targets is not None:
            return model.token_losses(inputs, targets)
        # One row at a time: GPT-2 has not learned to continue a text after padding.
        settings, generated = self.options.generation_settings(), []
        for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            prompt = row[mask != 0][None]
            ids = model.generate({"input_ids": prompt, "attention_mask": np.ones_like(prompt)}, settings)
            generated.append(ids[0, prompt.shape[1] :])
        return generated

    def score_batch(
        self, output: tuple[NDArray, NDArray], examples: TokenStreams, rows: NDArray
    ) -> list[ScoredExample]:
        """Summed loss, by position too, tokens and bytes of each row; how many tokens were the most probable ones."""
        scored = []
        for losses, predicted, row in zip(*output, rows, strict=True):
            labels = examples.labels[row]
            loss, correct = float(losses[: len(labels)].sum(dtype=np.float64)), predicted[: len(labels)] == labels
            line = {
                "loss_sum": loss,
                "tokens": len(labels),
                "bytes": int(examples.num_bytes[row].sum()),
                "correct": int(correct.sum()),
                "position_losses": sums_by_position(losses[: len(labels)]),
            }
            columns = {"loss_sums": loss, "tokens": len(labels), "bytes": line["bytes"]}
            if examples.floor is not None:
                line["floor"] = columns["floor_nats"] = float(examples.floor[row])
            scored.append(ScoredExample(line, columns, loss, len(labels)))
        return scored

    def text_of(self, ids: NDArray) -> str:
        """The text of tokens, with spaces as the tokenizer's config has them."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def decode_batch(self, output: list[NDArray], examples: TokenStreams, rows: NDArray) -> list[Prediction]:
        """The continuation of each text."""
        return [{self.written_field: self.text_of(ids)} for ids in output]

    def prediction_changes(self, config: PretrainedConfig) -> dict[str, object]:
        """Each text is an example of its own, and leaves room for its continuation. Raises UserError."""
        room = config.max_position_embeddings - self.options.max_new_tokens
        if room < 4:
            raise UserError(
                f"options.max_new_tokens is {self.options.max_new_tokens}, which leaves no room for a text in the "
                f"model's {config.max_position_embeddings} positions"
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
