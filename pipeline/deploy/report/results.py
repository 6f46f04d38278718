"""What a deployment report holds, typed: results.json has exactly these keys."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal, Self

from pydantic import Field

from pipeline.deploy.manifest import Format, Quantization
from pipeline.runs.record import Record, RunIdentity

# The version of results.json.
VERSION = 1
Work = Literal["inference", "training step"]


class Spread(Record):
    """Several measurements of one quantity."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The median and the range of at least one value."""
        return cls(median=float(median(values)), low=float(min(values)), high=float(max(values)))


class ProcessCost(Record):
    """What a fresh process needs, computing with one thread; each spread is over processes."""

    first_answer_seconds: Spread
    """Processor time from the start of Python until the first answer."""
    milliseconds: list[Spread]
    """Processor time of an answer, for each of the report's shapes."""
    peak_memory_bytes: Spread
    """The most memory that it held."""


class FormatCost(Record):
    """A format in its own runtime, or the run itself in its framework."""

    format: Format | None
    """None: the run itself, as predict computes it."""
    quantization: Quantization | None = None
    title: str
    """Its name for people."""
    runtime: str = ""
    """The runtime and its version."""
    problem: str | None = None
    """Why there are no figures."""
    is_unsupported: bool = False
    """Whether no such model can be exported to the format; then `problem` says why."""
    model_bytes: int | None = None
    """The size of the model; of the run that of its weights."""
    largest_difference: float | None = None
    """Of a logit from the run's own."""
    agreement: float | None = None
    """The share of validation rows that are predicted as the run does."""
    cost: ProcessCost | None = None


class ShapeCost(Record):
    """One shape in one mode of execution."""

    milliseconds: Spread
    """Processor time of a call."""
    gain: Spread
    """Eager's processor time divided by this one's, each in the same repeat."""


class ModeCost(Record):
    """A mode of execution of a framework."""

    framework: str
    work: Work
    mode: str
    """Such as eager, tf.function or torch.compile."""
    problem: str | None = None
    """Why there are no figures."""
    first_call_seconds: float | None = None
    """Processor time until the first call has returned, tracing and compiling included."""
    largest_difference: float | None = None
    """Of a logit from eager's, for inference."""
    shapes: list[ShapeCost] = Field(default_factory=list)
    """For each of the report's shapes."""


class DeploymentResults(Record):
    """The content of results.json."""

    version: int = VERSION
    created: str
    """When, as an ISO time."""
    quick: bool
    """Whether few repeats were made, and nothing that compiles for minutes."""
    run: RunIdentity
    run_folder: str
    task: str
    checkpoint: str
    writes_texts: bool = False
    """Whether the model writes texts, so that a measured answer is one forward pass of many."""
    validation_rows: int
    shapes: list[tuple[int, int]] = Field(strict=False)
    """Rows and tokens of the batches."""
    processes: int
    """Fresh processes for each format."""
    repeats: int
    """Interleaved repeats for each mode of execution."""
    processor: str
    versions: dict[str, str]
    """Of Python and packages."""
    formats: list[FormatCost]
    modes: list[ModeCost]
