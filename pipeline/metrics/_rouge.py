"""ROUGE through the `rouge-score` library, with Porter's stemmer as is usual for English summaries.

Its words are runs of a-z and 0-9, so text in other scripts scores 0 and accents split words.
"""

from __future__ import annotations

from rouge_score.rouge_scorer import RougeScorer

from pipeline.metrics._text import check

CITATION = "Lin 2004, ROUGE: a package for automatic evaluation of summaries"


def mean_f(kind: str, predictions: list[str], references: list[list[str]]) -> float:
    """The mean over examples of the F-measure of `kind` (rouge1, rouge2, rougeL), 0 to 1; the best reference counts."""
    check(references)
    scorer = RougeScorer([kind], use_stemmer=True)
    scores = [
        scorer.score_multi(texts, text)[kind].fmeasure for text, texts in zip(predictions, references, strict=True)
    ]
    return float(sum(scores) / len(scores))
