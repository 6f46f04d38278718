"""Extractive question answering: the span of a context that answers a question, or no span at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.data.batches import Batch, Features, Ragged
from pipeline.metrics.specs import default_metrics_for, metrics_for
from pipeline.tasks.base import Examples, ScoredExample, Task, equal_weights, first_problems, log_softmax, text_problems
from pipeline.utils.errors import UserError

# Where [CLS] stands; a window that holds no answer points there.
NO_ANSWER = 0


class QuestionAnswering(Task):
    """The rules of the family for one recipe.

    A context that does not fit is cut into windows that share `options.stride` tokens; a window is a row for the model.
    The answer of a question is the best span over its windows. Source: Devlin et al. 2018, sections 4.2 and 4.3.
    """

    auto_class = "AutoModelForQuestionAnswering"
    required = ("question", "context", "answers")
    optional = ("id",)
    asked = ("question", "context")
    metrics = metrics_for("question-answering")
    default_metrics = default_metrics_for("question-answering")

    def row_problems(self, split: str, rows: datasets.Dataset) -> Iterable[str]:
        """Questions or contexts without text, and answers that are not where they say."""
        texts = [text for field in ("question", "context") for text in text_problems(split, field, rows)]
        if texts:
            return texts
        columns = zip(rows["context"][:], rows["answers"][:], strict=True)
        faults = ((number, self._answer_problem(*row)) for number, row in enumerate(columns, start=1))
        return first_problems(split, (f"{split} row {number}: {text}" for number, text in faults if text))

    def config_changes(self) -> dict[str, Any]:
        """What the model's config must say: a start and an end."""
        return {"num_labels": 2}

    def encode(self, rows: datasets.Dataset) -> Examples:
        """Cut contexts into windows; an answer lies in a window whole or the window points at [CLS]."""
        questions, contexts = [text.lstrip() for text in rows["question"][:]], rows["context"][:]
        self._refuse_long_questions(questions)
        encoded = self.tokenizer(
            questions, contexts, truncation="only_second", max_length=self.recipe.data.max_length,
            stride=self.options.stride, return_overflowing_tokens=True, return_offsets_mapping=True,
            return_attention_mask=False,
        )  # fmt: skip
        owners = np.array(encoded.pop("overflow_to_sample_mapping"), dtype=np.int64)
        offsets = [np.array(window, dtype=np.int32).reshape(-1, 2) for window in encoded.pop("offset_mapping")]
        # The first token of the context and the one after its last, in each window.
        ranges = np.array([_context_range(encoded.sequence_ids(row)) for row in range(len(owners))], dtype=np.int64)
        features = {key: Ragged.of(value) for key, value in encoded.items()}
        counts = {"rows": len(rows), "windows": len(owners), "truncated": int((np.bincount(owners) > 1).sum())}
        extra: dict[str, Any] = {
            "owners": owners,
            "ranges": ranges,
            "starts": Ragged.of([window[:, 0] for window in offsets]),
            "ends": Ragged.of([window[:, 1] for window in offsets]),
            "contexts": contexts,
            "ids": rows["id"][:] if "id" in rows.column_names else None,
        }
        if "answers" in rows.column_names:
            answers = rows["answers"][:]
            extra["references"] = [list(answer["text"]) for answer in answers]
            spans = [_span(answers[owner], *each) for owner, *each in zip(owners, offsets, ranges, strict=True)]
            extra["spans"] = np.array(spans, dtype=np.int32)
            answered = np.array([bool(answer["text"]) for answer in answers])
            found = np.zeros(len(rows), dtype=bool)
            np.logical_or.at(found, owners, extra["spans"][:, 0] != NO_ANSWER)
            counts["answers cut by every window"] = int((answered & ~found).sum())
        lengths = features["input_ids"].lengths
        return Examples(features, lengths, np.full(len(owners), 2, np.int64), counts, extra)

    def targets(self, examples: Examples, batch: Batch) -> Features:
        """`labels` [B, 2], the positions of the answer's first and last token, weighted alike."""
        labels = examples.extra["spans"][batch.rows]
        return {"labels": labels, "loss_weights": equal_weights(np.ones(labels.shape))}

    def score_batch(self, output: NDArray, examples: Examples, rows: NDArray) -> list[dict[str, Any]]:
        """A window's loss over its real positions, and its best spans."""
        found = []
        for logits, row, candidates in zip(output, rows, self.decode_batch(output, examples, rows), strict=True):
            real = log_softmax(logits[:, : examples.lengths[row]])
            loss = -float(real[np.arange(2), examples.extra["spans"][row]].sum())
            found.append(candidates | {"loss": loss})
        return found

    def aggregate(self, examples: Examples, found: list[dict[str, Any]]) -> list[ScoredExample]:
        """The best answer of each question over its windows, beside the accepted ones."""
        losses, counts = defaultdict(float), defaultdict(int)
        for owner, window in zip(examples.extra["owners"], found, strict=True):
            losses[owner] += window["loss"]
            counts[owner] += 2
        scored = []
        for owner, answer in enumerate(self.format_predictions(examples, found)):
            references = examples.extra["references"][owner]
            line = {"id": answer["id"]} if "id" in answer else {}
            line |= {"prediction": answer["answer"], "reference": references, "score": answer["score"]}
            columns = {"predictions": answer["answer"], "references": references}
            scored.append(ScoredExample(line, columns, losses[owner], counts[owner]))
        return scored

    def decode_batch(self, output: NDArray, examples: Examples, rows: NDArray) -> list[dict[str, Any]]:
        """The best spans of each window as (logit, first character, character after the last), best first.

        A span lies within the context, ends no earlier than it begins, and has at most `options.max_answer_tokens`.
        """
        found = []
        for (start_logits, end_logits), row in zip(output, rows, strict=True):
            first, last = examples.extra["ranges"][row]
            starts = first + np.argsort(-start_logits[first:last], kind="stable")[: self.options.n_best]
            ends = first + np.argsort(-end_logits[first:last], kind="stable")[: self.options.n_best]
            lengths = ends[None, :] - starts[:, None] + 1
            fits = (lengths >= 1) & (lengths <= self.options.max_answer_tokens)
            scores = np.where(fits, start_logits[starts][:, None] + end_logits[ends], -np.inf)
            order = np.argsort(-scores, axis=None, kind="stable")[: self.options.n_best]
            begin, finish = examples.extra["starts"][row], examples.extra["ends"][row]
            candidates = [
                (float(scores[i, j]), int(begin[starts[i]]), int(finish[ends[j]]))
                for i, j in zip(*np.unravel_index(order, scores.shape), strict=True)
                if fits[i, j]
            ]
            found.append({"candidates": candidates, "null": float(start_logits[NO_ANSWER] + end_logits[NO_ANSWER])})
        return found

    def format_predictions(self, examples: Examples, found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """For each question its answer, the softmax of its logit among the n best, and those, likeliest first."""
        windows = defaultdict(list)
        for owner, window in zip(examples.extra["owners"], found, strict=True):
            windows[owner].append(window)
        for owner, context in enumerate(examples.extra["contexts"]):
            best: dict[str, float] = {}
            for score, start, end in sorted((c for w in windows[owner] for c in w["candidates"]), reverse=True):
                best.setdefault(context[start:end], score)
            ranked = list(best.items())[: self.options.n_best]
            null, top = min(window["null"] for window in windows[owner]), ranked[0][1] if ranked else -np.inf
            is_null = not ranked or (self.options.unanswerable and null > top + self.options.null_threshold)
            chosen = "" if is_null else ranked[0][0]
            if self.options.unanswerable or not ranked:
                ranked = sorted([*ranked, ("", null)], key=lambda each: -each[1])
            probabilities = np.exp(log_softmax(np.array([score for _, score in ranked])))
            n_best = [
                {"answer": text, "score": round(float(p), 6)}
                for (text, _), p in zip(ranked, probabilities, strict=True)
            ]
            named = {} if examples.extra["ids"] is None else {"id": examples.extra["ids"][owner]}
            yield named | next(each for each in n_best if each["answer"] == chosen) | {"n_best": n_best}

    def _answer_problem(self, context: str, answers: Any) -> str | None:
        if not isinstance(answers, dict) or not {"text", "answer_start"} <= answers.keys():
            return "answers wants the keys text and answer_start, as in SQuAD"
        texts, starts = answers["text"], answers["answer_start"]
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            return "answers.text and answers.answer_start must be lists of one length"
        if not texts and not self.options.unanswerable:
            return "answers is empty; set options.unanswerable=true if questions may have no answer"
        for text, start in zip(texts, starts, strict=True):
            if not isinstance(text, str) or not isinstance(start, int):
                return f"answers has {text!r} at {start!r}, want a text and a whole number"
            if not text.strip() or context[start : start + len(text)] != text:
                elsewhere = context.find(text) if text.strip() else -1
                hint = f"; it is at {elsewhere}" if elsewhere >= 0 else "; the context does not have it"
                return f'answer "{text[:60]}" is not in the context at character {start}{hint}'
        return None

    def _refuse_long_questions(self, questions: list[str]) -> None:
        """A window must hold the question, three special tokens, and more of the context than windows share."""
        room = self.recipe.data.max_length - self.options.stride - self.tokenizer.num_special_tokens_to_add(pair=True)
        lengths = self.tokenizer(questions, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        for number, ids in enumerate(lengths, start=1):
            if len(ids) >= room:
                raise UserError(
                    f"recipe {self.recipe.name}: the question of row {number} has {len(ids)} tokens, which leaves no "
                    f"room for context with data.max_length={self.recipe.data.max_length} and "
                    f"options.stride={self.options.stride}; raise the first or lower the second"
                )


def _context_range(sequence_ids: list[int | None]) -> tuple[int, int]:
    positions = [i for i, sequence in enumerate(sequence_ids) if sequence == 1]
    return (positions[0], positions[-1] + 1) if positions else (0, 0)


def _span(answers: dict[str, list], offsets: NDArray, context_range: NDArray) -> tuple[int, int]:
    """The first and last token of the first accepted answer in a window, or [CLS] twice where it is not all there."""
    if not answers["text"]:
        return NO_ANSWER, NO_ANSWER
    text = answers["text"][0]
    begin = answers["answer_start"][0] + len(text) - len(text.lstrip())
    end = begin + len(text.strip())
    first, last = context_range
    starts, ends = offsets[first:last, 0], offsets[first:last, 1]
    if not len(starts) or starts[0] > begin or ends[-1] < end:
        return NO_ANSWER, NO_ANSWER
    # The last token that begins at or before the answer does, and the first that ends at or after it.
    token = int(np.searchsorted(starts, begin, side="right")) - 1
    return first + token, first + max(token, int(np.searchsorted(ends, end, side="left")))
