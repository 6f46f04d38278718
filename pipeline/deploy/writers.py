"""Exported models that write texts, in their runtimes: token by token with a cache, or the whole text at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import GenerationSettings, OnToken
from pipeline.deploy.manifest import Manifest
from pipeline.deploy.runtimes import Arrays, OnnxModel, Runtime, SavedModel
from pipeline.models.decoding import beam_search, greedy
from pipeline.models.transformer import TransformerSettings
from pipeline.tasks.numerics import log_softmax


class Writer(Runtime, Protocol):
    """An exported model that writes texts, loaded; `run` answers the logits of a decoder's tokens."""

    def generate(
        self, inputs: Mapping[str, NDArray], settings: GenerationSettings, on_token: OnToken | None = None
    ) -> NDArray[np.int32]:
        """Token ids [B, T], the prompt of a decoder included; padding after the end token."""
        ...


class OnnxWriter:
    """A model that writes texts in onnxruntime: a step that keeps keys and values, and an encoder if it reads sources.

    `pipeline/models/decoding.py` chooses the tokens.
    """

    def __init__(self, path: Path, manifest: Manifest):
        assert manifest.writing is not None
        self.writing, self.padding_id = manifest.writing, manifest.pad_token_id
        self.drops_unfinished = manifest.run.framework == "tensorflow"  # as the run's own beam search does
        self.step = OnnxModel(path / "step.onnx", manifest).session
        self.encoder = OnnxModel(path / "encoder.onnx", manifest).session if self.writing.reads_sources else None

    def run(self, inputs: Mapping[str, NDArray]) -> Arrays:
        """The logits of a decoder's tokens, [B, T, V]."""
        ids = inputs["decoder_input_ids" if self.encoder else "input_ids"]
        return {"logits": self.advance(ids, self.encoded(inputs), self.no_past(len(ids)))[0]}

    def generate(
        self, inputs: Mapping[str, NDArray], settings: GenerationSettings, on_token: OnToken | None = None
    ) -> NDArray[np.int32]:
        """Token ids [B, T], the prompt of a decoder included; padding after the end token."""
        beams, rows = settings["num_beams"], len(inputs["input_ids"])
        text = _TextInProgress(self, inputs, beams, on_token if beams == 1 else None)
        start, end, length = self.writing.start_id, self.writing.end_id, settings["max_new_tokens"]
        how = TransformerSettings(0, start_id=start, end_id=end, padding_id=self.padding_id)
        if beams == 1:
            written = greedy(text.next_tokens, rows, how, length)
        else:
            penalty, drops = settings["length_penalty"], self.drops_unfinished
            written = beam_search(text.next_tokens, rows, how, length, beams, penalty, drops)
        return written if self.encoder else np.concatenate([inputs["input_ids"], written[:, 1:]], axis=1)

    def encoded(self, inputs: Mapping[str, NDArray]) -> Arrays:
        """What each pass reads beside its tokens: a mask, and the encoded source if there is one."""
        mask = inputs["attention_mask"]
        if self.encoder is None:
            return {"attention_mask": mask}
        (encoded,) = self.encoder.run(["encoded"], {"input_ids": inputs["input_ids"], "attention_mask": mask})
        return {"attention_mask": mask, "beside": encoded}

    def no_past(self, rows: int) -> NDArray[np.float32]:
        """The keys and values of no tokens."""
        first, heads, width = self.writing.past
        return np.zeros((first, rows, heads, 0, width), np.float32)

    def advance(self, ids: NDArray, read: Mapping[str, NDArray], past: NDArray) -> tuple[NDArray, NDArray]:
        """One pass: logits of these tokens, and the keys and values after them."""
        inputs = {"input_ids": ids, "past": past, **read}
        if self.encoder is None:
            positions = np.maximum(read["attention_mask"].cumsum(axis=1) - 1, 0)
            inputs["beside"] = positions[:, -ids.shape[1] :].astype(np.int64)
        logits, present = self.step.run(["logits", "present"], inputs)
        return logits, present


class _TextInProgress:
    """The state of the texts that an `OnnxWriter` writes: their keys and values, and the mask of a decoder."""

    def __init__(self, writer: OnnxWriter, inputs: Mapping[str, NDArray], beams: int, on_token: OnToken | None):
        self.writer, self.beams, self.on_token = writer, beams, on_token
        self.read = {name: np.repeat(value, beams, axis=0) for name, value in writer.encoded(inputs).items()}
        self.prompt = np.repeat(inputs["input_ids"], beams, axis=0)
        self.is_done = np.zeros(len(self.prompt), bool)
        self.past: NDArray | None = None
        assert writer.encoder or inputs["attention_mask"][:, -1].all(), "a text is continued from its last token"

    def next_tokens(self, tokens_N: NDArray, rows_N: NDArray) -> tuple[NDArray, NDArray]:
        """The likeliest tokens after the last ones, as `pipeline.models.decoding.NextTokens`."""
        ids = tokens_N[:, None].astype(self.prompt.dtype)
        if self.past is None:
            past = self.writer.no_past(len(ids))
            ids = ids if self.writer.encoder else self.prompt
        else:
            past = self.past[:, rows_N]  # the beams of a text have the same source or prompt
            if not self.writer.encoder:
                self.read["attention_mask"] = np.pad(self.read["attention_mask"], ((0, 0), (0, 1)), constant_values=1)
        logits, self.past = self.writer.advance(ids, self.read, past)
        log_probs = log_softmax(logits[:, -1])
        if not self.writer.writing.writes_padding:
            log_probs[:, self.writer.padding_id] = -np.inf
        best = np.argsort(-log_probs, axis=1, kind="stable")[:, : 2 * self.beams]
        if self.on_token is not None:
            token = np.where(self.is_done, self.writer.padding_id, best[:, 0]).astype(np.int32)
            self.is_done |= token == self.writer.writing.end_id
            self.on_token(token)
        return np.take_along_axis(log_probs, best, axis=1), best


class SavedWriter(SavedModel):
    """A SavedModel that writes texts, with the settings that it was exported with."""

    def __init__(self, path: Path, manifest: Manifest):
        super().__init__(path, manifest)
        assert manifest.writing is not None
        self.reads_sources = manifest.writing.reads_sources

    def run(self, inputs: Mapping[str, NDArray]) -> Arrays:
        """The logits of a decoder's tokens, [B, T, V]."""
        answer = self.model.signatures["logits"](**{k: self.tensorflow.constant(v) for k, v in inputs.items()})
        return {"logits": answer["logits"].numpy()}

    def generate(
        self, inputs: Mapping[str, NDArray], settings: GenerationSettings, on_token: OnToken | None = None
    ) -> NDArray[np.int32]:
        """Token ids [B, T], the prompt of a decoder included; padding after the end token."""
        names = ("input_ids", "attention_mask")
        ids = self.signature(**{name: self.tensorflow.constant(inputs[name]) for name in names})["ids"].numpy()
        if on_token is not None:  # the graph writes the whole text before it answers
            first = 1 if self.reads_sources else inputs["input_ids"].shape[1]
            for token in ids[:, first:].T:
                on_token(token)
        return ids
