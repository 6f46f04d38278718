"""Writing texts token by token, greedily or by beam search, in NumPy: one way for both hand-written Transformers.

The scores of tokens come from a function of the framework, which also keeps the keys and values of earlier tokens. The
library's PyTorch and TensorFlow differ in beam search; `beam_search` can do both.
"""

# B texts · W beams of a text · N = B * W · C candidates, 2 * W · T tokens

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.models.transformer import TransformerSettings

# Takes the last tokens [N], and which row each continues [N]; returns the log-probabilities of each row's likeliest
# next tokens and their ids, both [N, C], the best first.
NextTokens = Callable[[NDArray, NDArray], tuple[NDArray, NDArray]]
# The score of what must not be chosen.
_HIDDEN = np.float32(-1e9)


def greedy(
    next_tokens: NextTokens, num_texts: int, settings: TransformerSettings, max_new_tokens: int
) -> NDArray[np.int32]:
    """The likeliest token each time: ids [B, T], which begin with `start_id`; padding after `end_id`."""
    rows_B, is_done_B = np.arange(num_texts), np.zeros(num_texts, bool)
    written = [np.full(num_texts, settings.start_id, np.int32)]
    for _ in range(max_new_tokens):
        _, ids_BC = next_tokens(written[-1], rows_B)
        written.append(np.where(is_done_B, settings.padding_id, ids_BC[:, 0]).astype(np.int32))
        is_done_B |= written[-1] == settings.end_id
        if is_done_B.all():
            break
    return np.stack(written, axis=1)  # [B, T]


def beam_search(
    next_tokens: NextTokens,
    num_texts: int,
    settings: TransformerSettings,
    max_new_tokens: int,
    num_beams: int,
    length_penalty: float = 1.0,
    drops_unfinished: bool = False,
) -> NDArray[np.int32]:
    """The best text that `num_beams` beams find: ids [B, T], which begin with `start_id`; padding after `end_id`.

    A finished text's score is its log-probability over its length to the power of `length_penalty`. A search ends once
    all beams are finished and the best unfinished one, scored like them, is no better than the worst.

    At the longest length that is allowed, unfinished texts are compared with the finished ones, as in the library's
    PyTorch. With `drops_unfinished` they count only if no text is finished, and all searches go on until the last one
    ends, as in its TensorFlow.
    """
    texts_BWT = np.full((num_texts, num_beams, max_new_tokens + 1), settings.padding_id, np.int32)
    texts_BWT[:, :, 0] = settings.start_id
    finished_BWT, finished_scores_BW = texts_BWT, np.full((num_texts, num_beams), _HIDDEN)
    # The beams of a text are equal at first, so only one of them counts.
    scores_BW = np.where(np.arange(num_beams) == 0, np.float32(0), finished_scores_BW)
    rows_BW = np.arange(num_texts * num_beams).reshape(num_texts, num_beams)
    is_open_B1 = np.ones((num_texts, 1), bool)
    for length in range(1, max_new_tokens + 1):
        log_probs_NC, ids_NC = next_tokens(texts_BWT[:, :, length - 1].ravel(), rows_BW.ravel())
        num_candidates = ids_NC.shape[1]
        totals_BX = (scores_BW.reshape(-1, 1) + log_probs_NC).reshape(num_texts, -1)  # [B, W * C]
        chosen_BC = _best(totals_BX, 2 * num_beams)
        totals_BC, beams_BC = _take(totals_BX, chosen_BC), chosen_BC // num_candidates
        texts_BCT = _take(texts_BWT, beams_BC)
        texts_BCT[:, :, length] = _take(ids_NC.reshape(num_texts, -1), chosen_BC)
        is_last_BC = texts_BCT[:, :, length] == settings.end_id
        if length == max_new_tokens and not drops_unfinished:
            is_last_BC[:] = True

        # The better half of the candidates may finish; the other half is there to go on if they do.
        may_finish_BC = is_last_BC & (np.arange(2 * num_beams) < num_beams) & is_open_B1
        finals_BC = totals_BC / length**length_penalty + ~may_finish_BC * _HIDDEN
        all_scores, all_texts = (
            np.concatenate(pair, axis=1) for pair in ((finished_scores_BW, finals_BC), (finished_BWT, texts_BCT))
        )
        best_BW = _best(all_scores, num_beams)
        finished_scores_BW, finished_BWT = _take(all_scores, best_BW), _take(all_texts, best_BW)

        running_BC = totals_BC + is_last_BC * _HIDDEN
        kept_BW = _best(running_BC, num_beams)
        scores_BW, texts_BWT = _take(running_BC, kept_BW), _take(texts_BCT, kept_BW)
        rows_BW = np.arange(num_texts)[:, None] * num_beams + _take(beams_BC, kept_BW)
        hope_B1 = scores_BW[:, :1] / length**length_penalty
        can_improve_B1 = hope_B1 > finished_scores_BW[:, -1:]
        is_open_B1 = is_open_B1 & (can_improve_B1.any() if drops_unfinished else can_improve_B1)
        if not is_open_B1.any():
            break
    has_finished_B1 = finished_scores_BW[:, :1] > _HIDDEN / 2
    best_BT = np.where(has_finished_B1, finished_BWT[:, 0], texts_BWT[:, 0])
    return _without_padding_columns(best_BT, settings.padding_id)


def _best(scores_BX: NDArray, count: int) -> NDArray:
    """Where the largest scores of each row are, the largest first: [B, count]."""
    return np.argsort(-scores_BX, axis=1, kind="stable")[:, :count]


def _take(values: NDArray, indices_BX: NDArray) -> NDArray:
    """Of each row of the values [B, ...] those with these indices: [B, X, ...]; a copy."""
    return values[np.arange(len(values))[:, None], indices_BX]


def _without_padding_columns(texts_BT: NDArray[np.int32], padding_id: int) -> NDArray[np.int32]:
    """The texts without the last columns that are all padding."""
    is_written_T = (texts_BT != padding_id).any(axis=0)
    is_written_T[0] = True  # the start token may be padding
    return texts_BT[:, : len(is_written_T) - is_written_T[::-1].argmax()]
