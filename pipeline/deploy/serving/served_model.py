"""A model as the server asks it: rows to predict, token ids, texts that are written piece by piece."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import GenerationSettings, OnToken, Predictor
from pipeline.data.batches import Features
from pipeline.deploy.serving.inference_protocol import text_array
from pipeline.models.families import family_of
from pipeline.runs.prediction import Answer, Row, answer_rows, fields_of
from pipeline.tasks.base import Prediction, Task, token_id
from pipeline.tasks.options import (
    CausalLanguageModelingOptions,
    MaskedLanguageModelingOptions,
    QuestionAnsweringOptions,
    SequenceClassificationOptions,
    SequenceToSequenceOptions,
)
from pipeline.utils.errors import UserError

# Options of the tasks whose models write texts.
_WRITING = CausalLanguageModelingOptions | SequenceToSequenceOptions
# The type and the shape of an output, -1 for any size.
Spec = tuple[str, tuple[int, ...]]
# A row of a model's inputs as token ids, and what the model returns for it, each by its name.
Tokens = dict[str, NDArray]
Outputs = dict[str, NDArray]


@dataclass(frozen=True)
class Description:
    """What clients are told of a model.

    `fields` are those of a row; a value of `list_field` is a list of words, of the others a text. `token_inputs` are
    the names of its inputs as token ids, the ids first: there are `vocabulary` different ones, with that of `padding`,
    and at most `max_length` in a row.
    `text_outputs` and `token_outputs` say what is returned for a row of each kind: "FP32", "INT64" or "BYTES".
    `streams` is whether the text that it writes can be had piece by piece.
    """

    name: str
    task: str
    platform: str
    labels: tuple[str, ...]
    fields: tuple[str, ...]
    list_field: str | None
    token_inputs: tuple[str, ...]
    vocabulary: int
    padding: int
    max_length: int
    text_outputs: Mapping[str, Spec]
    token_outputs: Mapping[str, Spec]
    streams: bool


class ServedModel:
    """A model that answers rows as `predict` does, and token ids; only one thread may ask it at a time."""

    def __init__(self, task: Task, predictor: Predictor, name: str, platform: str):
        """`task` is ready to predict with the model behind `predictor`; clients see `name` and `platform`."""
        self.task, self.predictor = task, predictor
        self.description = _described(task, name, platform)

    def warm_up(self) -> None:
        """Answer a row, which makes what the first answer needs."""
        model = self.description
        with contextlib.suppress(UserError):  # not every task can answer any text
            self.answer([{name: ["warm"] if name == model.list_field else "warm" for name in model.fields}])

    def checked(self, row: Row, place: str) -> dict[str, object]:
        """A row's fields. Raises UserError naming the place and the field that is wrong. Any thread may ask this."""
        return fields_of(self.task, row, place)

    def answer(self, rows: Sequence[dict[str, object]]) -> list[Answer]:
        """Answers to rows that are checked, in order, as `predict` gives them. Raises UserError."""
        return list(answer_rows(self.task, self.predictor, [(f"row {i}", row) for i, row in enumerate(rows, 1)]))

    def run_tokens(self, rows: Sequence[Tokens]) -> list[Outputs]:
        """The model's outputs for rows of token ids, all of one length and with the same names."""
        inputs = {name: np.stack([row[name] for row in rows]).astype(np.int32) for name in rows[0]}
        if self.task.written_field is not None:
            return [self._written(row) for row in rows]
        logits = self.predictor.logits(inputs)
        return [self._token_outputs(each) for each in logits]

    def text_outputs(self, answer: Answer) -> Outputs:
        """What `description.text_outputs` promises of one row."""
        found: Outputs = {}
        if "logits" in self.description.text_outputs:
            assert answer.output is not None
            found["logits"] = answer.output
        if "label" in self.description.text_outputs:
            found["label"] = text_array(str(answer.prediction["prediction"]))
        if self.task.written_field is not None:
            found["text"] = text_array(str(answer.prediction[self.task.written_field]))
        return found

    def stream(self, row: dict[str, object], on_text: Callable[[str], None]) -> Prediction:
        """The prediction for one row; `on_text` is called with each piece of the text, and ends it by raising."""
        written, shown = [], ""

        def on_token(token: NDArray) -> None:
            nonlocal shown
            written.append(int(token[0]))
            text = self.task.text_of(np.array(written))
            if text.startswith(shown) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
                on_text(text[len(shown) :])
                shown = text

        streaming = _StreamingPredictor(self.predictor, on_token)
        (answer,) = answer_rows(self.task, streaming, [("row 1", row)])
        text = str(answer.prediction[str(self.task.written_field)])
        if text.startswith(shown):
            on_text(text[len(shown) :])
        return answer.prediction

    def _written(self, row: Tokens) -> Outputs:
        """The ids that the model writes after a row, whose padding is left out, or from it."""
        is_real = row["attention_mask"] != 0
        inputs = {name: values[is_real][None].astype(np.int32) for name, values in row.items()}
        assert isinstance(self.task.options, _WRITING)
        ids = self.predictor.generate(inputs, self.task.options.generation_settings())[0]
        if not self.task.config.is_encoder_decoder:
            ids = ids[inputs["input_ids"].shape[1] :]
        return {"output_ids": ids.astype(np.int64)}

    def _token_outputs(self, logits: NDArray) -> Outputs:
        """The outputs of a row by their names."""
        if "start_logits" in self.description.token_outputs:
            return {"start_logits": logits[0], "end_logits": logits[1]}
        if "output_ids" in self.description.token_outputs:
            return {"output_ids": logits.argmax(axis=-1).astype(np.int64)}
        if "label" not in self.description.token_outputs:
            return {"logits": logits}
        labels = np.array(self.task.labels, dtype=object)
        return {"label": np.array(labels[logits.argmax(axis=-1)], dtype=object), "logits": logits}


class _StreamingPredictor:
    """A predictor that tells of each token that it writes."""

    def __init__(self, predictor: Predictor, on_token: OnToken):
        self.predictor, self.on_token = predictor, on_token

    def logits(self, inputs: Features) -> NDArray:
        return self.predictor.logits(inputs)

    def token_losses(self, inputs: Features, targets: Features) -> tuple[NDArray, NDArray]:
        return self.predictor.token_losses(inputs, targets)

    def generate(self, inputs: Features, settings: GenerationSettings, on_token: OnToken | None = None) -> NDArray:
        return self.predictor.generate(inputs, settings, self.on_token)


def _described(task: Task, name: str, platform: str) -> Description:
    config = task.config
    text_outputs, token_outputs = _outputs(task)
    positions = None if task.written_field is not None else family_of(config).max_positions(config)
    return Description(
        name=name,
        task=task.recipe.task,
        platform=platform,
        labels=task.labels,
        fields=task.prediction_fields,
        list_field=next((field for field in task.prediction_fields if task.field_problem(field, "text")), None),
        token_inputs=tuple(task.tokenizer.model_input_names),
        vocabulary=config.vocab_size,
        padding=token_id(task.tokenizer, "pad"),
        max_length=positions or task.recipe.data.max_length,
        text_outputs=text_outputs,
        token_outputs=token_outputs,
        streams=isinstance(task.options, _WRITING) and task.options.num_beams == 1,
    )


def _outputs(task: Task) -> tuple[dict[str, Spec], dict[str, Spec]]:
    """What is returned for a row as text, besides the answer itself, and for one as token ids."""
    options, num_labels = task.options, task.config.num_labels
    if isinstance(options, _WRITING):
        return {"text": ("BYTES", ())}, {"output_ids": ("INT64", (-1,))}
    if isinstance(options, MaskedLanguageModelingOptions):
        return {}, {"output_ids": ("INT64", (-1,))}
    if isinstance(options, QuestionAnsweringOptions):
        return {}, {"start_logits": ("FP32", (-1,)), "end_logits": ("FP32", (-1,))}
    if not isinstance(options, SequenceClassificationOptions):
        return {}, {"label": ("BYTES", (-1,)), "logits": ("FP32", (-1, num_labels))}
    logits: dict[str, Spec] = {"logits": ("FP32", (num_labels,))}
    if options.problem_type != "single_label_classification":
        return logits, logits
    return {"label": ("BYTES", ())} | logits, {"label": ("BYTES", ())} | logits
