"""Packed batches in PyTorch: a row holds several examples, and each token sees those of its own example only.

`pipeline/tensorflow/packed.py` has the same definitions in the same order. The library's T5 encoder takes a mask that
is the same for all tokens of a row, so here its layers are called one after another. So are those of BERT, whose last
layer computes only the tokens that the head reads, where that is not all of them.
"""

# R rows · L positions of a row · P examples that a row may have · S source positions · T target positions · D width
# N tokens that the head reads, of all rows

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import BertForMaskedLM

from pipeline.models.families import family_of, unknown_head
from pipeline.models.optimization import HIDDEN_LOGIT
from pipeline.utils.errors import UserError


def packed_logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The model's logits of a packed batch in fp32, [R, L, classes]; with `pooled_positions`, those of examples.

    These positions [R, P] are where each example of a row is read: the logits are [R, P, classes], or of starts and
    ends of spans [R, P, 2, L].
    """
    positions_RP, read_N = inputs.get("pooled_positions"), tokens_read(model, inputs)
    logits = head(model, packed_hidden_states(model, inputs, read_N))
    if positions_RP is None:
        return logits
    if read_N is None:
        return span_logits(logits, inputs["segment_ids"], positions_RP.shape[1])
    return logits.view(*positions_RP.shape, -1)


def tokens_read(model: Any, batch: dict[str, Tensor]) -> Tensor | None:
    """Which tokens the head of the model reads, [N], counted through all rows; None if all, or if nothing is packed.

    A head for whole examples reads a token of each, and that of a masked language model only those with a loss, if
    `loss_weights` are in the batch.
    """
    if "segment_ids" not in batch:
        return None
    if isinstance(model, BertForMaskedLM) and "loss_weights" in batch:
        return batch["loss_weights"].flatten().nonzero()[:, 0]
    if "pooled_positions" not in batch or hasattr(model, "qa_outputs"):
        return None
    rows, length = batch["segment_ids"].shape
    starts_R1 = torch.arange(0, rows * length, length, device=batch["segment_ids"].device)[:, None]
    return (starts_R1 + batch["pooled_positions"]).flatten()


def chosen(x_RLD: Tensor, tokens_N: Tensor | None) -> Tensor:
    """What `x_RLD` has at these tokens, [1, N, D]; all of it if they are None."""
    return x_RLD if tokens_N is None else x_RLD.flatten(0, 1).index_select(0, tokens_N)[None]


def packed_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None = None) -> Tensor:
    """The last hidden states of a packed batch, [R, L, D], those of the decoder if there is one.

    With `read_N` only those of the tokens that `tokens_read` returned, [1, N, D].
    """
    if model.config.model_type == "bert":
        return bert_hidden_states(model, inputs, read_N)
    states_of = {"gpt2": gpt2_hidden_states, "t5": t5_hidden_states}
    return chosen(states_of[model.config.model_type](model, inputs), read_N)


def bert_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None) -> Tensor:
    """What BERT's embeddings and layers compute, [R, L, D] or [1, N, D]."""
    segment_ids = inputs["segment_ids"]
    hidden_RLD = model.bert.embeddings(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        # The library's own zeros are as long as the longest text that the model takes; a packed row may be wider.
        token_type_ids=inputs.get("token_type_ids", torch.zeros_like(segment_ids)),
    )
    bias_R1LL = bias_of(same_example(segment_ids, segment_ids))
    *layers, last = model.bert.encoder.layer
    for layer in layers:
        hidden_RLD = layer(hidden_RLD, bias_R1LL)[0]
    # After its attention, a layer computes each token for itself.
    mixed_RLD = last.attention.self(hidden_RLD, bias_R1LL)[0]
    return last.feed_forward_chunk(last.attention.output(chosen(mixed_RLD, read_N), chosen(hidden_RLD, read_N)))


def parts_of_tokens_read(model: Any) -> list[Any]:
    """The modules that compute only the tokens of `tokens_read`: the model with its head, and the end of BERT."""
    if model.config.model_type != "bert":
        return [model]
    last = model.bert.encoder.layer[-1]
    return [model, last.attention.output, last.output]


def gpt2_hidden_states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """What GPT-2's embeddings and blocks compute, [R, L, D]."""
    segment_ids = inputs["segment_ids"]
    outputs = model.transformer(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        # Hides later tokens too, since a mask of pairs replaces the causal one.
        attention_mask=bias_of(same_example(segment_ids, segment_ids).tril()),
        use_cache=False,
    )
    return outputs.last_hidden_state


def t5_hidden_states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """What T5's decoder computes, [R, T, D]; each target sees the source of its own example."""
    sources_RS, targets_RT = inputs["segment_ids"], inputs["decoder_segment_ids"]
    encoder, bias_R1SS, position_bias = model.encoder, bias_of(same_example(sources_RS, sources_RS)), None
    encoded = encoder.dropout(encoder.embed_tokens(inputs["input_ids"]))
    positions_S = torch.arange(sources_RS.shape[1], device=sources_RS.device)
    for block in encoder.block:
        # The first block computes a bias from positions and mask, which the others use too.
        encoded, position_bias = block(encoded, bias_R1SS, position_bias, cache_position=positions_S)
    encoded = encoder.dropout(encoder.final_layer_norm(encoded))
    decoded = model.decoder(
        input_ids=inputs["decoder_input_ids"],
        # Hides later tokens too, since a mask of pairs replaces the causal one.
        attention_mask=bias_of(same_example(targets_RT, targets_RT).tril()),
        encoder_hidden_states=encoded,
        encoder_attention_mask=same_example(targets_RT, sources_RS),
        use_cache=False,
    )
    return decoded.last_hidden_state


def same_example(queries_RT: Tensor, keys_RS: Tensor) -> Tensor:
    """1 where query and key belong to the same example, else 0, [R, T, S].

    Padding attends to everything: a query that attends to nothing could become NaN.
    """
    queries_RT1 = queries_RT[:, :, None]
    return ((queries_RT1 == keys_RS[:, None, :]) | (queries_RT1 == 0)).int()


def bias_of(pairs_RTS: Tensor) -> Tensor:
    """What is added to attention scores: 0 where a pair is 1, a large negative number where it is 0, [R, 1, T, S]."""
    return (1 - pairs_RTS[:, None]) * HIDDEN_LOGIT


def head(model: Any, hidden_BTD: Tensor) -> Tensor:
    """The logits in fp32 that the model's head computes from hidden states, each for itself: [B, T, classes].

    Raises UserError for a head that is not known here.
    """
    pooler = getattr(getattr(model, "bert", None), "pooler", None)
    if pooler is not None:  # heads for whole examples have one, those for tokens have none
        hidden_BTD = pooler.activation(pooler.dense(hidden_BTD))
    if hasattr(model, "cls"):
        logits = model.cls(hidden_BTD)
    elif hasattr(model, "qa_outputs"):
        logits = model.qa_outputs(hidden_BTD)
    elif hasattr(model, "score"):
        logits = model.score(hidden_BTD)
    elif hasattr(model, "classifier"):
        logits = model.classifier(model.dropout(hidden_BTD))
    elif hasattr(model, "lm_head"):
        logits = language_model_logits(model, hidden_BTD)
    else:
        raise UserError(unknown_head(model))
    return logits.float()


def language_model_logits(model: Any, hidden_BTD: Tensor) -> Tensor:
    """The logits [B, T, V] of a causal language model or a sequence-to-sequence model."""
    scale = family_of(model.config).tied_output_scale(model.config)
    if model.config.tie_word_embeddings and scale != 1:
        hidden_BTD = hidden_BTD * scale
    return model.lm_head(hidden_BTD)


def span_logits(logits_RL2: Tensor, segment_ids_RL: Tensor, most_examples: int) -> Tensor:
    """For each of at most P examples of a row the logits that its span starts or ends at each position, [R, P, 2, L].

    A span cannot leave its example.
    """
    example_P1 = torch.arange(1, most_examples + 1, device=segment_ids_RL.device)[:, None]
    outside_RPL = (segment_ids_RL[:, None, :] != example_P1).float()
    return logits_RL2.transpose(1, 2)[:, None] + outside_RPL[:, :, None, :] * HIDDEN_LOGIT
