"""What each task family may set for itself: the recipe's `options`, typed and strict like the rest of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Options(BaseModel):
    """No options; the base of each family's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SequenceClassification(Options):
    """One label of several, a number, or any number of labels at once."""

    problem_type: Literal["single_label_classification", "regression", "multi_label_classification"] = (
        "single_label_classification"
    )


class QuestionAnswering(Options):
    """How long contexts are cut into windows, and how answers are chosen from them."""

    stride: int = Field(64, ge=0, description="tokens that two windows of a context share")
    n_best: int = Field(20, ge=1, description="starts and ends that are combined in each window")
    max_answer_tokens: int = Field(30, ge=1)
    unanswerable: bool = Field(False, description="whether a question may have no answer, as in SQuAD 2")
    null_threshold: float = Field(0.0, description="how much more the empty answer must score to be chosen")

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> QuestionAnswering:
        if self.null_threshold and not self.unanswerable:
            raise ValueError("null_threshold would be ignored: set unanswerable=true, or leave it out")
        return self


class _LanguageModelling(Options):
    packing: Literal["blocks", "rows"] = Field("blocks", description="fill blocks from end to end, or a text a row")
    separator: Literal["eos", "none"] | None = Field(None, description="between the texts of a block; by default eos")

    @model_validator(mode="after")
    def _texts_meet_in_blocks_only(self) -> _LanguageModelling:
        if self.separator is not None and self.packing == "rows":
            raise ValueError("separator would be ignored with packing=rows: leave it out")
        return self


class _Generation(Options):
    max_new_tokens: int = Field(64, ge=1)
    num_beams: int = Field(1, ge=1)
    length_penalty: float = 1.0

    @model_validator(mode="after")
    def _beams_have_a_penalty(self) -> _Generation:
        if self.length_penalty != 1 and self.num_beams == 1:
            raise ValueError("length_penalty would be ignored with num_beams=1: it compares beams")
        return self


class MaskedLanguageModelling(_LanguageModelling):
    """How texts become rows, and which tokens are hidden."""

    masking_probability: float = Field(0.15, gt=0, lt=1)
    whole_word: bool = False
    top_k: int = Field(5, ge=1, description="fillings that a prediction gives for each mask")


class CausalLanguageModelling(_LanguageModelling, _Generation):
    """How texts become rows, and how a prediction goes on from a text."""

    max_new_tokens: int = Field(40, ge=1)


class SequenceToSequence(_Generation):
    """What stands before each source, how long targets may be, and how they are generated."""

    prefix: str = ""
    max_target_length: int = Field(64, ge=2)


OPTIONS: dict[str, type[Options]] = {
    "sequence-classification": SequenceClassification,
    "token-classification": Options,
    "question-answering": QuestionAnswering,
    "masked-language-modelling": MaskedLanguageModelling,
    "causal-language-modelling": CausalLanguageModelling,
    "sequence-to-sequence": SequenceToSequence,
}
