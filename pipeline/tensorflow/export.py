"""Writes models as graphs that run without this code: SavedModel, and LiteRT.

`pipeline/pytorch/export.py` has the same definitions in the same order.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow import Tensor
from transformers import TFPreTrainedModel

from pipeline.backend import GenerationSettings, WrittenGraph
from pipeline.tensorflow.generation import generate
from pipeline.tensorflow.model import architecture


class Graph(tf.Module):
    """A model with named inputs, each [B, T], that answers its logits, or those of starts and ends of spans."""

    def __init__(self, model: TFPreTrainedModel):
        super().__init__()
        self.model = model

    def answer(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The outputs by the names of `output_names`, fp32."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs |= {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.model(inputs, training=False)
        return {name: tf.cast(outputs[name], tf.float32) for name in output_names(self.model)}


class Writer(tf.Module):
    """A model that writes texts: the texts themselves, greedily, and the logits of given ones."""

    def __init__(self, model: TFPreTrainedModel, settings: GenerationSettings):
        super().__init__()
        self.model, self.settings = model, settings

    def write(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Token ids [B, T], the prompt of a decoder included; padding after the end-of-sequence token."""
        ids = generate(self.model, {"input_ids": input_ids, "attention_mask": attention_mask}, self.settings)
        return {"ids": tf.cast(ids, tf.int32)}

    def answer(
        self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The logits of a decoder's tokens, [B, T, V], fp32."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs |= {} if decoder_input_ids is None else {"decoder_input_ids": decoder_input_ids}
        return {"logits": tf.cast(self.model(inputs, training=False).logits, tf.float32)}


def output_names(model: TFPreTrainedModel) -> tuple[str, ...]:
    """What the model's head answers."""
    return ("start_logits", "end_logits") if architecture(model).endswith("ForQuestionAnswering") else ("logits",)


def write_graph(
    model: TFPreTrainedModel, format: str, path: Path, input_names: Sequence[str], quantize: bool = False
) -> WrittenGraph:
    """Write a model in a format; see `pipeline.backend.Backend`.

    `input_names` are those of its batches. With `quantize` the weights are written as 8-bit integers.
    """
    graph = Graph(model)
    specs = {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in input_names}
    signature = tf.function(graph.answer, autograph=False).get_concrete_function(**specs)
    if format == "savedmodel":
        tf.saved_model.save(graph, str(path), signatures={"serving_default": signature})
        full_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return WrittenGraph("int32", output_names(model), full_bytes)
    return WrittenGraph("int32", output_names(model), convert(graph, signature, path, quantize))


def write_writer(model: TFPreTrainedModel, path: Path, settings: GenerationSettings) -> WrittenGraph:
    """Write a model that writes texts as a SavedModel whose serving_default writes them, and whose logits answers.

    `settings` are part of the graph.
    """
    writer, spec = Writer(model, settings), functools.partial(tf.TensorSpec, [None, None], tf.int32)
    names = ("input_ids", "attention_mask", *(("decoder_input_ids",) if model.config.is_encoder_decoder else ()))
    specs = {name: spec(name=name) for name in names}
    signatures = {
        # The library's loop over tokens becomes one of the graph by AutoGraph.
        "serving_default": tf.function(writer.write).get_concrete_function(
            input_ids=specs["input_ids"], attention_mask=specs["attention_mask"]
        ),
        # Marian's decoder asks in Python whether it reads more than one token.
        "logits": tf.function(writer.answer).get_concrete_function(**specs),
    }
    tf.saved_model.save(writer, str(path), signatures=signatures)
    return WrittenGraph("int32", ("logits",), sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))


def convert(graph: Graph, signature: Any, path: Path, quantize: bool) -> int:
    """Write a graph as a LiteRT file of LiteRT's own operators; int8 weights have a scale for each channel.

    Returns the size in fp32.
    """
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(graph, folder, signatures={"serving_default": signature})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        content = converter.convert()
        full_bytes = len(content)
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            content = converter.convert()
    path.write_bytes(content)
    return full_bytes
