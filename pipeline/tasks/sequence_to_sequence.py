"""Sequence to sequence: write a text from a text, such as a translation or a summary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.backend import Predictor
from pipeline.data.batches import Batch, Features
from pipeline.data.ragged import Ragged, Texts
from pipeline.data.table import values_of
from pipeline.data.token_stream import tokenized
from pipeline.tasks.base import Examples, Prediction, ScoredExample, Task, known, token_id
from pipeline.tasks.numerics import equal_weights
from pipeline.tasks.options import SequenceToSequenceOptions
from pipeline.tasks.validation import text_problems


@dataclass(frozen=True, kw_only=True)
class TextPairs(Examples):
    """A tokenized split of sources, with the tokens of the targets and their texts, if there are any."""

    labels: Ragged | None = None
    references: Texts | None = None


class SequenceToSequence(Task[TextPairs, ScoredExample, Prediction]):
    """The task for one recipe; targets end with the tokenizer's end-of-sequence token."""

    auto_class = "AutoModelForSeq2SeqLM"
    architectures = ("encoder-decoder",)
    outcomes = ("text", "token_losses")
    default_metrics = ("sacrebleu", "chrf")
    examples_class = TextPairs
    options: SequenceToSequenceOptions
    required = ("source", "target")
    prediction_fields = ("source",)
    written_field: str = "target"

    def row_problems(self, split: str, rows: datasets.Dataset) -> Iterable[str]:
        """Sources and targets without text."""
        return [text for field in self.required for text in text_problems(split, field, rows)]

    def fit_labels(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> list[str]:
        """There is nothing to take from the rows."""
        return self.setting_problems(("train.label_smoothing",))

    def encode(self, rows: datasets.Dataset) -> TextPairs:
        """Tokenize sources, with the prefix, and targets; counts the truncated ones of both."""
        sources = (f"{self.options.prefix}{text}" for text in values_of(rows, "source"))
        features, truncated = tokenized(self.tokenizer, sources, self.recipe.data.max_length)
        tokens = features["input_ids"]
        examples = TextPairs(
            {"input_ids": tokens},
            lengths=tokens.lengths,
            num_targets=np.zeros(len(rows), np.int64),
            counts={"rows": len(rows), "truncated": int(truncated.sum())},
            truncated=truncated,
        )
        return self._with_targets(examples, rows) if "target" in rows.column_names else examples

    def _with_targets(self, examples: TextPairs, rows: datasets.Dataset) -> TextPairs:
        """Add the targets and their tokens."""
        texts = cast(Iterable[str], values_of(rows, "target"))
        features, truncated = tokenized(self.tokenizer, texts, self.options.max_target_length, is_target=True)
        labels = features["input_ids"]
        return replace(
            examples,
            lengths=np.stack([examples.lengths, labels.lengths], axis=1),
            num_targets=labels.lengths,
            counts=examples.counts | {"targets truncated": int(truncated.sum())},
            labels=labels,
            references=Texts.of(cast(Iterable[str], values_of(rows, "target"))),
        )

    def inputs(self, examples: TextPairs, batch: Batch) -> Features:
        """Source tokens [R, S] and their mask; if there are targets, the decoder's inputs [R, T] too.

        In packed rows `segment_ids` and `decoder_segment_ids` say which tokens are of the same example, `position_ids`
        and `decoder_position_ids` count the tokens of each.
        """
        layout = batch.layout(examples.lengths)
        source, *targets = layout.streams
        features = {
            "input_ids": examples.features["input_ids"].laid_out(batch.rows, source, token_id(self.tokenizer, "pad"))
        }
        if layout.packing is None:
            features["attention_mask"] = source.is_real.astype(np.int32)
        else:
            features |= {"segment_ids": source.segments, "position_ids": source.positions}
        for target in targets:
            # The decoder reads the start token, then all labels except the last.
            labels = known(examples.labels).laid_out(batch.rows, target, token_id(self.tokenizer, "pad"))
            shifted = np.pad(labels[:, :-1], ((0, 0), (1, 0)))
            shifted[target.is_real & (target.positions == 0)] = self.config.decoder_start_token_id
            features["decoder_input_ids"] = shifted
            if layout.packing is not None:
                features |= {"decoder_segment_ids": target.segments, "decoder_position_ids": target.positions}
        return features

    def targets(self, examples: TextPairs, batch: Batch) -> Features:
        """`labels` [R, T], the target's tokens, and `loss_weights` that are 0 on padding."""
        _, target = batch.layout(examples.lengths).streams
        labels = known(examples.labels).laid_out(batch.rows, target, token_id(self.tokenizer, "pad"))
        return {"labels": labels, "loss_weights": equal_weights(target.is_real)}

    def outputs(
        self, model: Predictor, inputs: Features, targets: Features | None
    ) -> NDArray | tuple[NDArray, NDArray, NDArray]:
        """The generated texts; with targets, also each label's loss, so that logits stay inside the framework."""
        sources = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        generated = model.generate(sources, self.options.generation_settings())
        return generated if targets is None else (*model.token_losses(inputs, targets), generated)

    def score_batch(
        self, output: tuple[NDArray, NDArray, NDArray], examples: TextPairs, rows: NDArray
    ) -> list[ScoredExample]:
        """The generated text beside the whole reference, which is never truncated."""
        losses, _, generated = output
        scored = []
        for loss, predicted, row in zip(losses, self.decode_batch(generated, examples, rows), rows, strict=True):
            num_targets, reference = int(examples.lengths[row, 1]), known(examples.references)[row]
            loss_sum = float(loss[:num_targets].sum(dtype=np.float64))
            line = {"prediction": predicted["target"], "reference": reference}
            line |= {"loss_sum": loss_sum, "tokens": num_targets}
            columns = {"predictions": predicted["target"], "references": [reference]}
            columns |= {"loss_sums": loss_sum, "tokens": num_targets}
            scored.append(ScoredExample(line, columns, loss_sum, num_targets))
        return scored

    def decode_batch(self, output: NDArray, examples: TextPairs, rows: NDArray) -> list[Prediction]:
        """Each generated text."""
        return [{self.written_field: self.text_of(ids)} for ids in output]

    def real_positions(self, inputs: Features) -> NDArray[np.bool_]:
        """Which positions of the decoder are real: the first, and those that read a token of the target."""
        real = inputs["decoder_input_ids"] != token_id(self.tokenizer, "pad")
        real[:, 0] = True
        return real
