"""Sequence to sequence: a text from a text, such as a translation, a summary, or a sentence from a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.data.batches import Batch, Features, Ragged
from pipeline.metrics.specs import default_metrics_for, metrics_for
from pipeline.tasks.base import Examples, ScoredExample, Task, cut_rows, equal_weights, text_problems


class SequenceToSequence(Task):
    """The rules of the family for one recipe; targets end with the tokenizer's end-of-sequence token."""

    auto_class = "AutoModelForSeq2SeqLM"
    required = ("source", "target")
    asked = ("source",)
    metrics = metrics_for("sequence-to-sequence")
    default_metrics = default_metrics_for("sequence-to-sequence")

    def row_problems(self, split: str, rows: datasets.Dataset) -> Iterable[str]:
        """Sources and targets without text."""
        return [text for field in self.required for text in text_problems(split, field, rows)]

    def fit_labels(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> list[str]:
        """Nothing to learn."""
        return self.setting_problems(("label_smoothing",))

    def encode(self, rows: datasets.Dataset) -> Examples:
        """Tokenise sources with the prefix, and targets; what is cut of either is counted."""
        sources = [self.options.prefix + text for text in rows["source"][:]]
        limit = self.recipe.data.max_length
        encoded = self.tokenizer(sources, truncation=True, max_length=limit, return_attention_mask=False)
        features = {"input_ids": Ragged.of(encoded["input_ids"])}
        cut = cut_rows(encoded)
        counts = {"rows": len(rows), "truncated": int(cut.sum())}
        lengths = features["input_ids"].lengths
        if "target" not in rows.column_names:
            return Examples(features, lengths, np.zeros(len(rows), np.int64), counts, {"cut": cut})
        texts, limit = rows["target"][:], self.options.max_target_length
        targets = self.tokenizer(text_target=texts, truncation=True, max_length=limit, return_attention_mask=False)
        counts["targets truncated"] = int(cut_rows(targets).sum())
        labels = Ragged.of(targets["input_ids"])
        both = np.stack([lengths, labels.lengths], axis=1)
        return Examples(features, both, labels.lengths, counts, {"labels": labels, "references": texts})

    def inputs(self, examples: Examples, batch: Batch) -> Features:
        """Source tokens [B, S] and their mask; where there are targets, the decoder's inputs [B, T]."""
        rows, (source, *target) = batch.rows, batch.widths
        lengths = examples.lengths.reshape(len(examples.lengths), -1)[rows]
        features = {
            "input_ids": examples.features["input_ids"].padded(rows, source, self.tokenizer.pad_token_id),
            "attention_mask": (np.arange(source) < lengths[:, :1]).astype(np.int32),
        }
        if target:
            # The decoder reads its own output so far: the start token, then the labels but the last.
            shifted = np.full((len(rows), target[0]), self.config.decoder_start_token_id, np.int32)
            shifted[:, 1:] = examples.extra["labels"].padded(rows, target[0], self.tokenizer.pad_token_id)[:, :-1]
            features["decoder_input_ids"] = shifted
        return features

    def targets(self, examples: Examples, batch: Batch) -> Features:
        """`labels` [B, T], the target's tokens, and `loss_weights` that are 0 on padding."""
        width = batch.widths[1]
        real = np.arange(width) < examples.lengths[batch.rows, 1:]
        labels = examples.extra["labels"].padded(batch.rows, width, self.tokenizer.pad_token_id)
        return {"labels": labels, "loss_weights": equal_weights(real)}

    def outputs(self, learner: Any, inputs: Features, targets: Features | None) -> Any:
        """Each label's loss, computed where the logits are, and a text generated without sight of the labels."""
        chosen = {key: getattr(self.options, key) for key in ("max_new_tokens", "num_beams", "length_penalty")}
        asked = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        generated = learner.generate(asked, chosen)
        return generated if targets is None else (*learner.token_losses(inputs, targets["labels"]), generated)

    def score_batch(
        self, output: tuple[NDArray, NDArray, NDArray], examples: Examples, rows: NDArray
    ) -> list[ScoredExample]:
        """The generated text beside the whole reference, which truncation does not touch."""
        losses, _, generated = output
        scored = []
        for loss, response, row in zip(losses, self.decode_batch(generated, examples, rows), rows, strict=True):
            num_targets, reference = int(examples.lengths[row, 1]), examples.extra["references"][row]
            loss_sum = float(loss[:num_targets].sum(dtype=np.float64))
            line = {"prediction": response["target"], "reference": reference}
            line |= {"loss_sum": loss_sum, "tokens": num_targets}
            columns = {"predictions": response["target"], "references": [reference]}
            columns |= {"loss_sums": loss_sum, "tokens": num_targets}
            scored.append(ScoredExample(line, columns, loss_sum, num_targets))
        return scored

    def decode_batch(self, output: NDArray, examples: Examples, rows: NDArray) -> list[dict[str, Any]]:
        """Each generated text."""
        texts = self.tokenizer.batch_decode(output, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [{"target": text} for text in texts]

    def real_positions(self, inputs: Features) -> NDArray[np.bool_]:
        """Which positions of the decoder are real: the first, and those that read a token of the target."""
        real = inputs["decoder_input_ids"] != self.tokenizer.pad_token_id
        real[:, 0] = True
        return real
