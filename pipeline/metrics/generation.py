"""Metrics of generated texts, each compared with one or more reference texts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import zip_longest
from typing import ClassVar

import datasets
import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from pipeline.metrics.base import TEXT, Inputs, Metric
from pipeline.metrics.resampling import Lines, Statistic, Sums, lists_of_texts, mean, texts

TEXTS = Inputs(
    "predictions: texts; references: lists of one or more texts",
    ({"predictions": TEXT, "references": datasets.List(TEXT)},),
)


class CorpusMetric(Metric):
    """A metric of all texts together, 0 to 100, computed by sacrebleu with its defaults."""

    scorer: ClassVar[type[BLEU] | type[CHRF]]
    inputs = TEXTS

    def score(self, predictions: list[str], references: list[list[str]]) -> float:
        """The score of sacrebleu, which takes the first references of all examples, then all second ones, and so on.

        Where an example has fewer, None takes the place: sacrebleu skips it, while an empty text would be a reference.
        """
        check_references(references)
        streams = [list(stream) for stream in zip_longest(*references)]
        return float(self.scorer().corpus_score(predictions, streams).score)

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From each example's counts of shared words or characters, by the formula of sacrebleu."""
        if "prediction" not in lines[0]:
            return None
        scorer = cls.scorer()
        predictions, references = texts(lines, "prediction"), texts(lines, "reference")
        counts_NK = np.array(scorer._extract_corpus_statistics(predictions, [references]), dtype=np.float64)

        def formula(sums_RK: NDArray) -> NDArray:
            rows = sums_RK.round().astype(int).tolist()
            return np.array([scorer._compute_score_from_stats(row).score for row in rows])

        return Sums(counts_NK, formula)


class SacreBleu(CorpusMetric):
    """BLEU of all texts together, 0 to 100, with the defaults of sacrebleu.

    Signature: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0; nrefs:var if examples differ in the number
    of references. The length penalty uses the reference that is nearest in length.
    """

    source = "Papineni et al. 2002; Post 2018, A call for clarity in reporting BLEU scores"
    scorer = BLEU

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"sacrebleu": self.score(predictions, references)}


class Chrf(CorpusMetric):
    """chrF2 of all texts together, 0 to 100: shared sequences of 1 to 6 characters, with the defaults of sacrebleu.

    Signature: nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0. An F-measure that gives recall twice the
    weight. If there are several references, the best one counts.
    """

    source = "Popović 2015, chrF: character n-gram F-score for automatic MT evaluation"
    scorer = CHRF

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"chrf": self.score(predictions, references)}


class MeanOverTexts(Metric):
    """A metric that is the mean of a score of each text, 0 to 1."""

    inputs = TEXTS

    @classmethod
    @abstractmethod
    def scores(cls, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """The score of each text against its references."""

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """The mean of the texts' scores."""
        if "prediction" not in lines[0]:
            return None
        return mean(np.array(cls.scores(texts(lines, "prediction"), lists_of_texts(lines, "reference"))))


class ExactMatch(MeanOverTexts):
    """The share of texts that equal one of their references, 0 to 1; white space around them does not count."""

    source = "Rajpurkar et al. 2016, section 6.1, here without their normalization"

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        check_references(references)
        return {"exact_match": sum(self.scores(predictions, references)) / len(predictions)}

    @classmethod
    def scores(cls, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """1 if the text equals a reference, else 0."""
        pairs = zip(predictions, references, strict=True)
        return [float(text.strip() in {reference.strip() for reference in texts}) for text, texts in pairs]


class RougeMetric(MeanOverTexts):
    """A ROUGE F-measure with the `rouge-score` library and Porter's stemmer, as is usual for English summaries.

    A word is a sequence of a-z and 0-9, so that text in other scripts scores 0 and accents split words. Of several
    references the best one counts.
    """

    kind: ClassVar[str]
    source = "Lin 2004, ROUGE: a package for automatic evaluation of summaries"

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        check_references(references)
        scores = self.scores(predictions, references)
        return {self.kind: float(sum(scores) / len(scores))}

    @classmethod
    def scores(cls, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """The F-measure of each text with its best reference, 0 to 1."""
        scorer = RougeScorer([cls.kind], use_stemmer=True)
        pairs = zip(predictions, references, strict=True)
        return [scorer.score_multi(texts, text)[cls.kind].fmeasure for text, texts in pairs]


class Rouge1(RougeMetric):
    """ROUGE-1: the F-measure of shared words, stemmed, 0 to 1."""

    kind = "rouge1"


class Rouge2(RougeMetric):
    """ROUGE-2: the F-measure of shared pairs of neighboring words, stemmed, 0 to 1."""

    kind = "rouge2"


class RougeL(RougeMetric):
    """ROUGE-L: the F-measure of the longest common subsequence of words, stemmed, 0 to 1.

    The text is one sequence. Papers on CNN/DailyMail mostly report ROUGE-Lsum, which takes each sentence alone and is
    higher.
    """

    kind = "rougeL"


def check_references(references: Sequence[Sequence[str]]) -> None:
    """Raises ValueError if an example has no reference to compare its text with."""
    for number, of_example in enumerate(references, start=1):
        if not of_example:
            raise ValueError(f"example {number} has no reference, but needs one or more")
