"""Writes models as graphs that run without this code: torch.export's program, and ONNX.

`pipeline/tensorflow/export.py` has the same definitions in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from pipeline.backend import GenerationSettings, WrittenGraph
from pipeline.models.families import family_of
from pipeline.pytorch.library import CACHE
from pipeline.pytorch.model import architecture

# Of ONNX's set of operators, the version that the graphs are written in.
OPSET = 20
# The most rows of a batch that torch.export's program takes.
MOST_ROWS = 1024
# The longest input of a model that has no limit of its own.
MOST_POSITIONS = 8192
# Sizes of the batch from which a graph is traced: unlike each other and no 1, which would be taken for constants.
TRACED_ROWS, TRACED_LENGTH, TRACED_TOKENS, TRACED_PAST = 3, 7, 2, 5


class Graph(nn.Module):
    """A model with named inputs, each [B, T], that answers its logits, or those of starts and ends of spans."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self.is_decoder = family_of(model.config).architecture == "decoder"

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The outputs in the order of `output_names`, fp32."""
        mask = self.causal_bias(attention_mask, input_ids.shape[1]) if self.is_decoder else attention_mask
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.model(input_ids=input_ids, attention_mask=mask, **types)
        return tuple(outputs[name].float() for name in output_names(self.model))

    @staticmethod
    def causal_bias(mask_BS: Tensor, num_queries: int) -> Tensor:
        """What is added to a decoder's scores, [B, 1, T, S]: the library's own mask cannot be written into a graph.

        The queries are the last T of the S tokens of the mask.
        """
        length = mask_BS.shape[1]
        is_earlier_SS = torch.ones(length, length, dtype=torch.bool, device=mask_BS.device).tril()
        is_seen = is_earlier_SS[length - num_queries :] & mask_BS[:, None, None].bool()
        return torch.zeros(is_seen.shape, dtype=torch.float32).masked_fill(~is_seen, torch.finfo(torch.float32).min)


class Writer(nn.Module):
    """One pass of a model that writes texts: the logits of the tokens that it reads, and their keys and values.

    `past` [2 * layers, B, heads, P, width] has the keys and values of the tokens before; at first P is 0.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, T, V] and the new past.

        `beside` is the encoded source [B, S, D], whose mask is `attention_mask` [B, S]. Of a model without sources it
        has the positions of the tokens, and the mask is [B, P + T].
        """
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        inputs: dict[str, Any]
        if self.model.config.is_encoder_decoder:
            inputs = {"decoder_input_ids": input_ids, "attention_mask": attention_mask, "encoder_outputs": (beside,)}
            inputs[CACHE] = EncoderDecoderCache(cache, DynamicCache())
        else:
            bias = Graph.causal_bias(attention_mask, input_ids.shape[1])
            inputs = {"input_ids": input_ids, "attention_mask": bias, "position_ids": beside, CACHE: cache}
        logits = self.model(**inputs, use_cache=True).logits
        return logits.float(), Writer.keys_and_values(cache)

    @staticmethod
    def keys_and_values(cache: DynamicCache) -> Tensor:
        """What the library keeps of each layer as one array, [2 * layers, B, heads, P, width]."""
        kept = [each for layer in cache.layers for each in (layer.keys, layer.values) if each is not None]
        return torch.stack(kept)


def output_names(model: PreTrainedModel) -> tuple[str, ...]:
    """What the model's head answers."""
    return ("start_logits", "end_logits") if architecture(model).endswith("ForQuestionAnswering") else ("logits",)


def write_graph(
    model: PreTrainedModel, format: str, path: Path, input_names: Sequence[str], quantize: bool = False
) -> WrittenGraph:
    """Write a model in a format; see `pipeline.backend.Backend`.

    `input_names` are those of its batches. With `quantize` the weights are written as 8-bit integers.
    """
    model.eval()
    inputs = {name: torch.ones(TRACED_ROWS, TRACED_LENGTH, dtype=torch.int64) for name in input_names}
    if format == "torchscript":
        with torch.no_grad():
            traced = torch.jit.trace(Graph(model), example_kwarg_inputs=inputs, check_trace=False)
        torch.jit.save(traced, path)
        return WrittenGraph("int64", output_names(model), path.stat().st_size)
    longest = family_of(model.config).max_positions(model.config) or MOST_POSITIONS
    sizes = {0: Dim("batch", min=1, max=MOST_ROWS), 1: Dim("length", min=2, max=longest)}
    with torch.no_grad():
        program = torch.export.export(
            Graph(model), (), inputs, dynamic_shapes=dict.fromkeys(input_names, sizes), strict=False
        )
    if format == "aoti":
        # One process compiles: others would outlive one that is killed.
        how = {"compile_threads": 1}
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=how)
        return WrittenGraph("int64", output_names(model), path.stat().st_size)
    if format == "pt2":
        torch.export.save(program, path)
        return WrittenGraph("int64", output_names(model), path.stat().st_size)
    return WrittenGraph("int64", output_names(model), convert(program, path, output_names(model), quantize))


def write_writer(model: PreTrainedModel, path: Path, settings: GenerationSettings) -> WrittenGraph:
    """Write a model that writes texts as ONNX: a folder with step.onnx, and encoder.onnx if it reads a source.

    `settings` are no part of the graphs: whoever runs them chooses among the likeliest tokens.
    """
    model.eval()
    path.mkdir(parents=True)
    ids = torch.ones(TRACED_ROWS, TRACED_LENGTH, dtype=torch.int64)
    length = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            encoder = cast(Any, model).get_encoder()
            read = {"input_ids": ids, "attention_mask": ids.clone()}
            graph = torch.export.export(encoder, (), read, dynamic_shapes=dict.fromkeys(read, length), strict=False)
            convert(graph, path / "encoder.onnx", ("encoded",), quantize=False)
            # A tensor of its own: guards of a part of another would speak of that one, too.
            tokens = torch.ones(TRACED_ROWS, TRACED_TOKENS, dtype=torch.int64)
            mask, beside = ids.clone(), encoder(**read).last_hidden_state
            kept = model(decoder_input_ids=ids[:, :TRACED_PAST], encoder_outputs=(beside,), use_cache=True)
            past = Writer.keys_and_values(kept[CACHE].self_attention_cache)
        else:
            tokens, beside = ids, ids.clone()
            mask = torch.ones(TRACED_ROWS, TRACED_PAST + TRACED_LENGTH, dtype=torch.int64)
            past = Writer.keys_and_values(model(input_ids=ids[:, :TRACED_PAST], use_cache=True)[CACHE])
        shapes = (length, length, {1: Dim.DYNAMIC, 3: Dim.DYNAMIC}, length)
        step = torch.export.export(Writer(model), (tokens, mask, past, beside), dynamic_shapes=shapes, strict=False)
        convert(step, path / "step.onnx", ("logits", "present"), quantize=False)
    full_bytes = sum(file.stat().st_size for file in path.iterdir())
    return WrittenGraph("int64", ("logits",), full_bytes, past=(len(past), *past.shape[2::2]))


def convert(program: torch.export.ExportedProgram, path: Path, names: Sequence[str], quantize: bool) -> int:
    """Write a program as an ONNX file; int8 weights have a scale for each channel. Returns the size in fp32."""
    written = torch.onnx.export(program, (), output_names=list(names), opset_version=OPSET, dynamo=True, verbose=False)
    assert written is not None
    written.save(str(path), external_data=False)
    full_bytes = path.stat().st_size
    if quantize:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantized = path.with_name(f"quantized-{path.name}")
        # In a reduced range no sum of products overflows on processors without VNNI.
        quantize_dynamic(path, quantized, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
        quantized.replace(path)
    return full_bytes
