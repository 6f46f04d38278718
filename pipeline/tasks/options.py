"""The options that each task adds to a recipe, typed and strict; importing this file makes the tasks known to recipes.

It is imported with the package, before any recipe is read, so it imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from pipeline.recipe.task_table import Options, register_task

if TYPE_CHECKING:
    from pipeline.backend import GenerationSettings


class NoOptions(Options):
    """A task without options."""


class SequenceClassificationOptions(Options):
    """One label of several, a number, or any number of labels at once."""

    problem_type: Literal["single_label_classification", "regression", "multi_label_classification"] = (
        "single_label_classification"
    )
    """`single_label_classification`, `multi_label_classification` (`label` is a list of labels, or with `data.labels`
    of a 0 or 1 for each), or `regression` (`label` is a number).
    """


class QuestionAnsweringOptions(Options):
    """How contexts are cut into windows, and how answers are chosen from them."""

    stride: int = Field(default=64, ge=0)
    """Tokens that two windows of a long context share."""
    n_best: int = Field(default=20, ge=1, le=1_000)
    """Starts and ends that are combined in each window."""
    max_answer_tokens: int = Field(default=30, ge=1, le=10_000)
    """Longest answer."""
    unanswerable: bool = False
    """Whether questions may have no answer, as in SQuAD 2."""
    null_threshold: float = 0.0
    """How much higher the empty answer must score to be chosen."""

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> QuestionAnsweringOptions:
        if self.null_threshold and not self.unanswerable:
            raise ValueError("null_threshold would be ignored: set unanswerable=true, or leave it out")
        return self


class _LanguageModelingOptions(Options):
    packing: Literal["blocks", "rows"] = "blocks"
    """`blocks` fills rows of `max_length` tokens with consecutive texts; `rows` has one text in each row."""
    separator: Literal["eos", "none"] | None = None
    """Between the texts of a block: `eos` (the default) or `none`."""

    @model_validator(mode="after")
    def _texts_meet_in_blocks_only(self) -> _LanguageModelingOptions:
        if self.separator is not None and self.packing == "rows":
            raise ValueError("separator would be ignored with packing=rows: leave it out")
        return self


class GenerationOptions(Options):
    max_new_tokens: int = Field(default=64, ge=1, le=10_000)
    """Longest generated text."""
    num_beams: int = Field(default=1, ge=1, le=100)
    """1 is greedy search."""
    length_penalty: float = 1.0
    """With beams; above 1 prefers longer texts."""

    @model_validator(mode="after")
    def _beams_have_a_penalty(self) -> GenerationOptions:
        if self.length_penalty != 1 and self.num_beams == 1:
            raise ValueError("length_penalty would be ignored with num_beams=1: it compares beams")
        return self

    def generation_settings(self) -> GenerationSettings:
        """What a model's `generate` takes."""
        return {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
            "length_penalty": self.length_penalty,
        }


class MaskedLanguageModelingOptions(_LanguageModelingOptions):
    """How texts become rows, and which tokens are hidden."""

    masking_probability: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens to predict."""
    whole_word: bool = False
    """Mask whole words."""
    top_k: int = Field(default=5, ge=1, le=1_000)
    """Tokens that a prediction gives for each mask."""


class CausalLanguageModelingOptions(_LanguageModelingOptions, GenerationOptions):
    """How texts become rows, and how a prediction continues a text."""

    max_new_tokens: int = Field(default=40, ge=1, le=10_000)
    """Longest continuation in a prediction."""


class SequenceToSequenceOptions(GenerationOptions):
    """What stands before each source, how long targets may be, and how they are generated."""

    prefix: str = ""
    """Text before each source, such as `summarize: `."""
    max_target_length: int = Field(default=64, ge=2, le=100_000)
    """Longest target in tokens."""


register_task("sequence-classification", SequenceClassificationOptions, also_called=("text-classification",))
register_task("token-classification", NoOptions, also_called=("ner", "named-entity-recognition"))
register_task("question-answering", QuestionAnsweringOptions)
register_task(
    "masked-language-modeling",
    MaskedLanguageModelingOptions,
    former_name="masked-language-modelling",
    also_called=("fill-mask", "masked-lm"),
)
register_task(
    "causal-language-modeling",
    CausalLanguageModelingOptions,
    former_name="causal-language-modelling",
    also_called=("text-generation", "causal-lm", "language-modeling"),
)
register_task(
    "sequence-to-sequence",
    SequenceToSequenceOptions,
    also_called=("translation", "summarization", "text2text-generation", "seq2seq"),
)
