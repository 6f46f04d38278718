"""Extractive question answering: the span of a context that answers a question, or no span at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.data.batches import Batch, Features
from pipeline.data.ragged import Ragged, TextLists, Texts
from pipeline.data.table import some_at_a_time, values_of
from pipeline.tasks.base import Examples, ScoredExample, Task, joined, known
from pipeline.tasks.numerics import equal_weights, log_softmax, recorded
from pipeline.tasks.options import QuestionAnsweringOptions
from pipeline.tasks.validation import first_problems, text_problems
from pipeline.utils.errors import UserError

# The position of [CLS]; the target of a window that does not hold the answer.
NO_ANSWER = 0


@dataclass(frozen=True, kw_only=True)
class Windows(Examples):
    """A split cut into N windows over its contexts, each an example.

    `questions` [N] numbers the question of each window. `context_ranges` [N, 2] has the window's first token of the
    context and the one after its last; `token_starts` and `token_ends` the characters of the context that its tokens
    span. `spans` [N, 2] has the first and last token of the answer. The texts have an entry for each question.
    """

    questions: NDArray[np.int64]
    context_ranges: NDArray[np.int64]
    token_starts: Ragged
    token_ends: Ragged
    spans: NDArray[np.int32] | None = None
    contexts: Texts
    ids: Texts | None = None
    references: TextLists | None = None


@dataclass(frozen=True)
class WindowAnswers:
    """The best spans of a window, as (logit, first character, character after the last), best first.

    `no_answer` is the logit of the empty answer, `loss` that of the true span in nats.
    """

    candidates: list[tuple[float, int, int]]
    no_answer: float
    loss: float = 0.0


class QuestionAnswering(Task[Windows, WindowAnswers, WindowAnswers]):
    """The task for one recipe.

    A context that does not fit is cut into windows that share `options.stride` tokens. The answer to a question is the
    best span over its windows. Source: Devlin et al. 2018, sections 4.2 and 4.3.
    """

    auto_class = "AutoModelForQuestionAnswering"
    architectures = ("encoder",)
    outcomes = ("answer",)
    default_metrics = ("squad_f1", "squad_exact_match")
    examples_class = Windows
    options: QuestionAnsweringOptions
    required = ("question", "context", "answers")
    optional = ("id",)
    prediction_fields = ("question", "context")
    carried_fields = ("id",)
    labels_whole_examples = True

    def row_problems(self, split: str, rows: datasets.Dataset) -> Iterable[str]:
        """Questions or contexts without text, and answers that are not at the character that they name."""
        texts = [text for field in ("question", "context") for text in text_problems(split, field, rows)]
        if texts:
            return texts
        columns = zip(values_of(rows, "context"), values_of(rows, "answers"), strict=True)
        faults = ((number, self._answer_problem(*row)) for number, row in enumerate(columns, start=1))
        return first_problems(split, (f"{split} row {number}: {text}" for number, text in faults if text))

    def config_changes(self) -> dict[str, object]:
        """Two logits for each token: the answer starts here, and ends here."""
        return {"num_labels": 2}

    def encode(self, rows: datasets.Dataset) -> Windows:
        """Cut contexts into windows; the target of a window that does not hold the whole answer is [CLS].

        Raises UserError for a question that leaves no room for the context.
        """
        return joined([self._encode_some(some, first) for first, some in some_at_a_time(rows)])

    def _encode_some(self, rows: datasets.Dataset, first: int) -> Windows:
        """`encode` for rows of which the first has this number, from 0."""
        questions, contexts = [text.lstrip() for text in rows["question"][:]], rows["context"][:]
        self._refuse_long_questions(questions, first)
        encoded = self.tokenizer(
            questions, contexts, truncation="only_second", max_length=self.recipe.data.max_length,
            stride=self.options.stride, return_overflowing_tokens=True, return_offsets_mapping=True,
            return_attention_mask=False,
        )  # fmt: skip
        owners = np.array(encoded.pop("overflow_to_sample_mapping"), dtype=np.int64)
        offsets = [np.array(window, dtype=np.int32).reshape(-1, 2) for window in encoded.pop("offset_mapping")]
        ranges = np.array([_context_range(encoded.sequence_ids(row)) for row in range(len(owners))], dtype=np.int64)
        features = {key: Ragged.of(value) for key, value in encoded.items()}
        counts = {"rows": len(rows), "windows": len(owners), "truncated": int((np.bincount(owners) > 1).sum())}
        examples = Windows(
            features,
            lengths=features["input_ids"].lengths,
            num_targets=np.full(len(owners), 2, np.int64),
            counts=counts,
            questions=owners,
            context_ranges=ranges,
            token_starts=Ragged.of([window[:, 0] for window in offsets]),
            token_ends=Ragged.of([window[:, 1] for window in offsets]),
            contexts=Texts.of(contexts),
            ids=Texts.of(map(str, rows["id"][:])) if "id" in rows.column_names else None,
        )
        if "answers" in rows.column_names:
            examples = self._with_answers(examples, rows["answers"][:], offsets)
        return replace(examples, questions=owners + first)

    def _with_answers(self, examples: Windows, answers: Sequence[dict[str, list]], offsets: list[NDArray]) -> Windows:
        """Add the accepted answers, and the span of the first one in each window; count those in no window."""
        owners, ranges = examples.questions, examples.context_ranges
        spans = np.array(
            [_span(answers[owner], *each) for owner, *each in zip(owners, offsets, ranges, strict=True)],
            dtype=np.int32,
        )
        has_answer = np.array([bool(answer["text"]) for answer in answers])
        is_in_a_window = np.zeros(len(answers), dtype=bool)
        np.logical_or.at(is_in_a_window, owners, spans[:, 0] != NO_ANSWER)
        lost = int((has_answer & ~is_in_a_window).sum())
        return replace(
            examples,
            counts=examples.counts | {"answers cut by every window": lost},
            spans=spans,
            references=TextLists.of(answer["text"] for answer in answers),
        )

    def targets(self, examples: Windows, batch: Batch) -> Features:
        """`labels` [B, 2], the positions in the row of the answer's first and last token, weighted alike."""
        packing, spans = batch.layout(examples.lengths).packing, known(examples.spans)[batch.rows]
        labels = spans if packing is None else spans + packing.starts
        return {"labels": labels, "loss_weights": equal_weights(np.ones(labels.shape))}

    def score_batch(self, output: NDArray, examples: Windows, rows: NDArray) -> list[WindowAnswers]:
        """A window's best spans, and its loss over its real positions."""
        scored = []
        for logits, row, answers in zip(output, rows, self.decode_batch(output, examples, rows), strict=True):
            real = log_softmax(logits[:, : examples.lengths[row]])
            loss = -float(real[np.arange(2), known(examples.spans)[row]].sum())
            scored.append(replace(answers, loss=loss))
        return scored

    def aggregate(self, examples: Windows, scored: list[WindowAnswers]) -> list[ScoredExample]:
        """The best answer to each question over its windows, beside the accepted ones."""
        losses, num_targets = defaultdict(float), defaultdict(int)
        for question, window in zip(examples.questions, scored, strict=True):
            losses[question] += window.loss
            num_targets[question] += 2
        results = []
        for question, answer in enumerate(self.format_predictions(examples, scored)):
            references = known(examples.references)[question]
            line = {"id": answer["id"]} if "id" in answer else {}
            line |= {"prediction": answer["answer"], "reference": references, "score": answer["score"]}
            columns = {"predictions": answer["answer"], "references": references}
            results.append(ScoredExample(line, columns, losses[question], num_targets[question]))
        return results

    def decode_batch(self, output: NDArray, examples: Windows, rows: NDArray) -> list[WindowAnswers]:
        """The best spans of each window.

        A span lies within the context, ends no earlier than it begins, and has at most `options.max_answer_tokens`.
        """
        return [self._best_spans(logits, examples, row) for logits, row in zip(output, rows, strict=True)]

    def _best_spans(self, logits: NDArray, examples: Windows, row: int) -> WindowAnswers:
        """Combine the best starts and ends of one window; `logits` [2, T]."""
        start_logits, end_logits = logits
        first, last = examples.context_ranges[row]
        starts = first + np.argsort(-start_logits[first:last], kind="stable")[: self.options.n_best]
        ends = first + np.argsort(-end_logits[first:last], kind="stable")[: self.options.n_best]
        lengths = ends[None, :] - starts[:, None] + 1
        fits = (lengths >= 1) & (lengths <= self.options.max_answer_tokens)
        scores = np.where(fits, start_logits[starts][:, None] + end_logits[ends], -np.inf)
        order = np.argsort(-scores, axis=None, kind="stable")[: self.options.n_best]
        first_characters, last_characters = examples.token_starts[row], examples.token_ends[row]
        candidates = [
            (float(scores[i, j]), int(first_characters[starts[i]]), int(last_characters[ends[j]]))
            for i, j in zip(*np.unravel_index(order, scores.shape), strict=True)
            if fits[i, j]
        ]
        return WindowAnswers(candidates, float(start_logits[NO_ANSWER] + end_logits[NO_ANSWER]))

    def format_predictions(self, examples: Windows, decoded: list[WindowAnswers]) -> Iterator[dict[str, object]]:
        """For each question its answer with its probability among the n best, and those, most probable first."""
        windows = defaultdict(list)
        for question, window in zip(examples.questions, decoded, strict=True):
            windows[question].append(window)
        for question, context in enumerate(examples.contexts):
            named: dict[str, object] = {} if examples.ids is None else {"id": examples.ids[question]}
            yield named | self._answer(windows[question], context)

    def _answer(self, windows: list[WindowAnswers], context: str) -> dict[str, object]:
        """The answer to one question from all its windows."""
        best: dict[str, float] = {}
        for score, start, end in sorted((each for window in windows for each in window.candidates), reverse=True):
            best.setdefault(context[start:end], score)
        ranked = list(best.items())[: self.options.n_best]
        no_answer, top = min(window.no_answer for window in windows), ranked[0][1] if ranked else -np.inf
        is_empty = not ranked or (self.options.unanswerable and no_answer > top + self.options.null_threshold)
        chosen = "" if is_empty else ranked[0][0]
        if self.options.unanswerable or not ranked:
            ranked = sorted([*ranked, ("", no_answer)], key=lambda each: -each[1])
        probabilities = recorded(np.exp(log_softmax(np.array([score for _, score in ranked])))).tolist()
        n_best: list[dict[str, object]] = [
            {"answer": text, "score": p} for (text, _), p in zip(ranked, probabilities, strict=True)
        ]
        return next(each for each in n_best if each["answer"] == chosen) | {"n_best": n_best}

    def sample_logits(self, logits: NDArray, inputs: Features, most: int) -> NDArray:
        """A start and an end logit at each position, of logits [B, 2, T]."""
        return super().sample_logits(logits.transpose(0, 2, 1), inputs, most)

    def _answer_problem(self, context: object, answers: object) -> str | None:
        assert isinstance(context, str), "checked before"
        if not isinstance(answers, dict) or not {"text", "answer_start"} <= answers.keys():
            return "answers must have the keys text and answer_start, as in SQuAD"
        texts, starts = answers["text"], answers["answer_start"]
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            return "answers.text and answers.answer_start must be lists of the same length"
        if not texts and not self.options.unanswerable:
            return "answers is empty; set options.unanswerable=true if questions may have no answer"
        for text, start in zip(texts, starts, strict=True):
            if not isinstance(text, str) or not isinstance(start, int):
                return f"answers has {text!r} at {start!r}, but needs a text and a whole number"
            if not text.strip() or context[start : start + len(text)] != text:
                elsewhere = context.find(text) if text.strip() else -1
                hint = f"; it is at {elsewhere}" if elsewhere >= 0 else "; the context does not have it"
                return f'answer "{text[:60]}" is not in the context at character {start}{hint}'
        return None

    def _refuse_long_questions(self, questions: list[str], first: int) -> None:
        """A window must hold the question, three special tokens, and more of the context than windows share."""
        room = self.recipe.data.max_length - self.options.stride - self.tokenizer.num_special_tokens_to_add(pair=True)
        lengths = self.tokenizer(questions, add_special_tokens=False, return_attention_mask=False).input_ids
        for number, ids in enumerate(lengths, start=first + 1):
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
    """The first and last token of the first accepted answer in a window, or [CLS] twice if a part is outside."""
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
