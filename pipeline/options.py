"""What each task family may set for itself: the recipe's `options`, typed and strict like the rest of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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


class _LanguageModelling(Options):
    packing: Literal["blocks", "rows"] = Field("blocks", description="fill blocks from end to end, or a text a row")
    separator: Literal["eos", "none"] = Field("eos", description="what stands between the texts of a block")


class MaskedLanguageModelling(_LanguageModelling):
    """How texts become rows, and which tokens are hidden."""

    masking_probability: float = Field(0.15, gt=0, lt=1)
    whole_word: bool = False
    top_k: int = Field(5, ge=1, description="fillings that a prediction gives for each mask")


class CausalLanguageModelling(_LanguageModelling):
    """How texts become rows, and how a prediction goes on from a text."""

    max_new_tokens: int = Field(40, ge=1)
    num_beams: int = Field(1, ge=1)
    length_penalty: float = 1.0


class SequenceToSequence(Options):
    """What stands before each source, how long targets may be, and how they are generated."""

    prefix: str = ""
    max_target_length: int = Field(64, ge=2)
    max_new_tokens: int = Field(64, ge=1)
    num_beams: int = Field(1, ge=1)
    length_penalty: float = 1.0


OPTIONS: dict[str, type[Options]] = {
    "sequence-classification": SequenceClassification,
    "token-classification": Options,
    "question-answering": QuestionAnswering,
    "masked-language-modelling": MaskedLanguageModelling,
    "causal-language-modelling": CausalLanguageModelling,
    "sequence-to-sequence": SequenceToSequence,
}
