"""What the tour holds, typed: tour.json has exactly these keys."""

from __future__ import annotations

from typing import Literal

from pipeline.comparison.records.sameness import LockstepResult
from pipeline.deploy.report.results import DeploymentResults, ModeCost, Spread
from pipeline.runs.record import Record

# The version of tour.json.
VERSION = 1
# Values by framework, "torch" and "tensorflow".
ByFramework = dict[str, str]
Answer = Literal["as eager", "other than eager", "refused"]


class Stage(Record):
    """One step of the model's computation for the sentence, in both frameworks."""

    name: str
    letters: str
    """The letters of its dimensions, such as BHSS."""
    meaning: str
    """What is computed, in one sentence."""
    shape: list[int]
    shown: dict[str, list[list[float]]]
    """The first rows and columns of the values, by framework; of the first head, if there are heads."""
    rows: list[str]
    """What the rows shown stand for, such as words; empty if nothing is known of them."""
    columns: list[str]
    """The same of the columns."""
    largest_difference: float
    """Between the frameworks, of any value, those that are not shown included."""


class SentenceTour(Record):
    """A sentence that is followed through a tiny Transformer which the tour has trained in both frameworks."""

    source: str
    expected: str
    translations: ByFramework
    """What each framework's model, trained by itself, writes for the source, which was not among its sentences."""
    training_sentences: int
    vocabulary: list[str]
    sizes: dict[str, int]
    """The settings of the model: width, heads and so on."""
    parameters: int
    steps: int
    losses: dict[str, list[float]]
    """The loss of each training step, by framework."""
    first_step_over_rounding: int | None
    """The first step, from 1, at which the losses differ by more than 1e-6; None if there is none."""
    model_difference: dict[str, float]
    """The largest difference of the last logits followed from those that the model itself computes."""
    stages: list[Stage]
    """Computed with the weights of the first framework's training, in both."""


class Probe(Record):
    """A function that does something in Python besides computing, called a few times in a mode of execution."""

    framework: str
    mode: str
    function: str
    """Its name in tour.py of the framework's folder."""
    calls: int
    runs_when_made: int = 0
    """How often Python did it while the graph was made, before the first call."""
    runs_by_call: list[int] = []
    """How often in each call; empty if that is not counted."""
    answer: Answer
    """Whether the results of all calls are those of eager execution."""
    problem: str | None = None
    """What was raised."""


class ShownError(Record):
    """What a mode of execution shows of an error that was planted in the attention."""

    framework: str
    mode: str
    frames: int
    """The traceback's lines of code."""
    own_frames: int
    """Those of this project."""
    names_the_line: bool
    """Whether traceback or message show the line with the error."""
    message: str


class Stop(Record):
    """What the debugger of Python shows in a function, in a mode of execution."""

    framework: str
    mode: str
    stops_when_made: int
    """How often it stopped while the graph was made, before the first call."""
    stops_by_call: list[int]
    """How often in each call."""
    shown: str
    """What it printed at the first stop for a variable of the function."""


class NanCheck(Record):
    """A gradient that is not a number, without and with the framework's own check."""

    framework: str
    silent: str
    """What is returned without the check."""
    message: str
    """What the check says."""
    names_the_line: bool


class CodeComparison(Record):
    """One purpose, written in both frameworks: what the two texts share, and what a reader meets in them."""

    name: str
    tokens: dict[str, int]
    """Python's tokens without comments and docstrings, by framework."""
    shared_tokens: int
    """Those that stand in the same order in both."""
    names: dict[str, list[str]]
    """The names of the framework that the text uses, by framework."""


class StepCost(Record):
    """Training steps of a recipe in a fresh process."""

    recipe: str
    model: str
    framework: str
    steps: int
    milliseconds: Spread
    """Processor time of a step, without the first ones."""
    first_step_seconds: float
    """Processor time until the first step has been made, tracing included, without the loading of data and model."""
    peak_memory_bytes: int
    """The most that the process held at once."""
    milliseconds_by_kind: dict[str, float]
    """The time of a step's operators, by kind; what is left of a step is the time between operators."""


class Fact(Record):
    """Something that was read, not measured, with its date and source."""

    subject: str
    statement: str
    date: str
    source: str


class TourResults(Record):
    """The content of tour.json."""

    version: int = VERSION
    created: str
    """When, as an ISO time."""
    quick: bool
    processor: str
    versions: dict[str, str]
    """Of Python and packages, as installed."""
    code: dict[str, ByFramework]
    """The source of each function shown, as it was run."""
    sentence: SentenceTour
    call_shapes: list[list[int]]
    """Of queries, keys and values [B, H, T, K] with which attention was timed."""
    calls: list[ModeCost]
    """Attention alone in each mode of execution."""
    probes: list[Probe]
    comparisons: list[CodeComparison]
    errors: list[ShownError]
    stops: list[Stop]
    nan_checks: list[NanCheck]
    steps: list[StepCost]
    deployment: DeploymentResults
    lockstep_recipe: str
    lockstep: LockstepResult
    facts: list[Fact]
