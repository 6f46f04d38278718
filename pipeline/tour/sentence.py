"""A sentence followed through a tiny Transformer: its language, its first weights, and every step of its computation.

The model learns to translate a few English sentences into French, in both frameworks from the same weights, and then
reads one that it has not seen. Adjectives stand behind French nouns, so words change places.
"""

# B batch · S source tokens · T target tokens · H heads · K head width · D model width · V vocabulary

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison.lockstep import ROUNDING
from pipeline.models.transformer import TransformerSettings, sinusoids
from pipeline.tour.results import SentenceTour, Stage

SENTENCE = ("the black cat sleeps", "le chat noir dort")
STEPS, LEARNING_RATE = 150, 0.01
# Of an array, so many rows and columns are shown.
MOST_ROWS, MOST_COLUMNS = 6, 8
_SPECIAL = ("<padding>", "<end>", "<start>")
_NOUNS = {"cat": "chat", "dog": "chien", "horse": "cheval"}
_ADJECTIVES = {"black": "noir", "white": "blanc"}
_VERBS = {"sleeps": "dort", "eats": "mange", "runs": "court"}
# Each stage: the letters of its dimensions, and what it is.
STAGES = {
    "source tokens": ("BS", "Each word is a number of the vocabulary; the last one marks the end."),
    "embeddings": ("BSD", "Each number picks its row of a table, which is trained; the row is multiplied by √D."),
    "positions": ("SD", "Sines and cosines of the position tell the model where a word stands."),
    "encoder input": ("BSD", "The sum of the two."),
    "queries": ("BHSK", "A linear layer makes of each word what it asks for, cut into heads."),
    "keys": ("BHSK", "Another makes what it answers to."),
    "values": ("BHSK", "A third makes what it hands over."),
    "scores": ("BHSS", "Each query times each key, over √K: how well they fit. A row asks, a column answers."),
    "attention weights": ("BHSS", "Softmax turns each row of scores into shares that add up to 1."),
    "mixed values": ("BHSK", "Each word takes the values of all words, by these shares."),
    "heads joined": ("BSD", "The heads stand side by side again and go through one more linear layer."),
    "residual and norm": ("BSD", "The input is added, and each row gets mean 0 and variance 1, scaled and shifted."),
    "feed-forward": ("BSD", "Two linear layers with max(0, x) between them, for each word by itself."),
    "encoder output": ("BSD", "Added and normalized once more: what the decoder reads of each word."),
    "target tokens": ("BT", "What is written so far; each position predicts the word after it."),
    "masked self-attention": ("BHTT", "The written words attend to each other; 0 hides the words that come later."),
    "cross-attention": ("BHTS", "Queries of the written words, keys of the source: where the decoder looks."),
    "decoder output": ("BTD", "After cross-attention, feed-forward, residuals and norms."),
    "logits": ("BTV", "Times the table of embeddings: a score for each word of the vocabulary."),
    "probabilities": ("BTV", "Softmax makes them add up to 1."),
    "chosen tokens": ("BT", "The likeliest word after each position is the next word of the text."),
}  # fmt: skip


class Language(NamedTuple):
    """The training sentences as token ids, the sentence to follow, and the words by their ids."""

    source_BS: NDArray[np.int64]
    target_BT: NDArray[np.int64]
    sentence_1S: NDArray[np.int64]
    words: list[str]


class Followed(NamedTuple):
    """What one framework found: losses, its trained weights, the tokens that it then writes; every stage, and the
    model's own logits, with weights that both frameworks share.
    """

    losses: list[float]
    weights: dict[str, NDArray]
    written_1T: NDArray[np.int32]
    stages: dict[str, NDArray]
    logits_1TV: NDArray


def language() -> Language:
    """All sentences but the one to follow."""
    pairs = []
    for (noun, nom), (verb, verbe) in itertools.product(_NOUNS.items(), _VERBS.items()):
        pairs.append((f"the {noun} {verb}", f"le {nom} {verbe}"))
        pairs += [
            (f"the {english} {noun} {verb}", f"le {nom} {french} {verbe}") for english, french in _ADJECTIVES.items()
        ]
    pairs.remove(SENTENCE)
    of_each_side = [sorted({word for pair in pairs for word in pair[side].split()}) for side in (0, 1)]
    words = [*_SPECIAL, *of_each_side[0], *of_each_side[1]]
    ids = {word: number for number, word in enumerate(words)}

    def numbers(text: str) -> list[int]:
        return [ids[word] for word in f"{text} <end>".split()]

    return Language(
        _padded(numbers(source) for source, _ in pairs),
        _padded([ids["<start>"], *numbers(target)] for _, target in pairs),
        _padded([numbers(SENTENCE[0])]),
        words,
    )


def settings(num_words: int) -> TransformerSettings:
    """A Transformer of one layer on each side, so small that its arrays can be read."""
    return TransformerSettings(
        vocab_size=num_words, width=8, num_heads=2, feed_forward_width=16, num_encoder_layers=1, num_decoder_layers=1,
        max_positions=16, dropout=0.0, start_id=_SPECIAL.index("<start>"),
    )  # fmt: skip


def first_weights(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights for names and shapes in the PyTorch layout: matrices are drawn, norms are 1, biases are 0."""
    rng, weights = np.random.default_rng(seed), {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        if name == "positions":
            value = sinusoids(*shape)
        elif len(shape) == 1:
            value = np.full(shape, float(name.endswith("norm.weight")))
        else:
            value = rng.normal(0.0, shape[1] ** -0.5, shape)
        weights[name] = value.astype(np.float32)
    return weights


def compared(found: Mapping[str, Followed], spoken: Language, num_parameters: int) -> SentenceTour:
    """What both frameworks found, side by side."""
    size, first = settings(len(spoken.words)), next(iter(found.values()))
    losses = np.array([each.losses for each in found.values()])
    apart = np.flatnonzero(np.ptp(losses, axis=0) > ROUNDING * np.maximum(losses.max(axis=0), 1))
    labels = {
        letter: [spoken.words[number] for number in ids[0]]
        for letter, ids in (("S", spoken.sentence_1S), ("T", first.stages["target tokens"]))
    } | {"V": spoken.words}
    return SentenceTour(
        source=SENTENCE[0],
        expected=SENTENCE[1],
        translations={name: _text(each.written_1T[0], spoken.words) for name, each in found.items()},
        training_sentences=len(spoken.source_BS),
        vocabulary=spoken.words,
        sizes={
            "D model width": size.width,
            "H heads": size.num_heads,
            "K head width": size.width // size.num_heads,
            "F feed-forward width": size.feed_forward_width,
            "V vocabulary": size.vocab_size,
            "encoder layers": size.num_encoder_layers,
            "decoder layers": size.num_decoder_layers,
        },
        parameters=num_parameters,
        steps=losses.shape[1],
        losses={name: each.losses for name, each in found.items()},
        first_step_over_rounding=int(apart[0]) + 1 if len(apart) else None,
        model_difference={
            name: float(np.abs(each.stages["logits"] - each.logits_1TV).max()) for name, each in found.items()
        },
        stages=[_stage(name, {key: each.stages[name] for key, each in found.items()}, labels) for name in first.stages],
    )


def _stage(name: str, arrays: Mapping[str, NDArray], labels: Mapping[str, list[str]]) -> Stage:
    letters, meaning = STAGES[name]
    first, *others = arrays.values()
    shown = {framework: _corner(array) for framework, array in arrays.items()}
    return Stage(
        name=name,
        letters=letters,
        meaning=meaning,
        shape=list(first.shape),
        shown={framework: array.astype(float).round(6).tolist() for framework, array in shown.items()},
        rows=labels.get(letters[-2], [])[:MOST_ROWS],
        columns=labels.get(letters[-1], [])[:MOST_COLUMNS],
        largest_difference=max(float(np.abs(other - first).max()) for other in others),
    )


def _corner(array: NDArray) -> NDArray:
    """The first rows and columns of the first matrix; a single row of token ids is one row."""
    matrix = array.reshape(-1, *array.shape[-2:])[0]
    return matrix[:MOST_ROWS, :MOST_COLUMNS]


def _padded(rows: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    """Rows of token ids, filled up with padding, whose id is 0."""
    return np.array(list(itertools.zip_longest(*rows, fillvalue=0)), np.int64).T


def _text(ids: NDArray, words: Sequence[str]) -> str:
    """The words of token ids, without special ones."""
    return " ".join(words[int(number)] for number in ids if number >= len(_SPECIAL))
