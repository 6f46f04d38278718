"""The record of a run, typed: what metrics.json, environment.json and a line of history.jsonl hold.

The models write exactly these keys in this order. They read runs of older versions, too: a key that did not exist yet
takes its default, and a key that is unknown here is kept. `python -m pipeline.runs.record` prints the JSON Schema of
all three, which is published as run.schema.json beside this file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer
from pydantic.json_schema import models_json_schema
from pydantic_core import ErrorDetails

from pipeline.recipe.data import Batching
from pipeline.utils.errors import UserError
from pipeline.utils.files import strict_json
from pipeline.utils.text import requirement

SCHEMA_FILE = Path(__file__).with_name("run.schema.json")
# Metric values by name; None for one that is undefined, which JSON writes as null.
Metrics = dict[str, float | None]
# Rows, truncated rows and the like of one split, by name.
Counts = dict[str, int]


class Record(BaseModel):
    """A part of a run's record: immutable, strict about types, tolerant of keys that other versions write."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", use_attribute_docstrings=True)


class RunIdentity(Record):
    """Which run it is: the recipe's name, and the framework, attention and seed it is run with."""

    recipe: str
    """The recipe's name."""
    framework: str
    """"torch" or "tensorflow"."""
    attention: str
    """"stock", "handwritten", "handwritten-model" or "module:Class"."""
    seed: int
    """Seed of the batch order, of new weights and of dropout."""

    @property
    def label(self) -> str:
        """The run in a few words, such as "sentiment_bert torch/stock seed 0"."""
        return f"{self.recipe} {self.framework}/{self.attention} seed {self.seed}"


class EvaluationRecord(Record):
    """The scores of the validation split after an epoch: `epoch`, and each metric under its own name."""

    __pydantic_extra__: dict[str, float | None]

    epoch: int
    """Counted from 1."""

    @property
    def metrics(self) -> Metrics:
        """The values without the epoch."""
        return dict(self.__pydantic_extra__)


class TrainRecord(Record):
    """What the training took."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    seconds: float = Field(ge=0, allow_inf_nan=False)
    """Wall time from the first batch to the last step, without evaluation and saving."""
    examples_per_second: float = Field(ge=0, allow_inf_nan=False)
    """Training examples per second of `seconds`."""
    tokens_per_second: float = Field(ge=0, allow_inf_nan=False)
    """Real tokens per second of `seconds`; padding does not count."""
    padding_fraction: float = Field(ge=0, allow_inf_nan=False)
    """The share of positions in all training batches that held padding, from 0 to 1."""
    first_step_seconds: float = Field(ge=0, allow_inf_nan=False)
    """Seconds of the first step, in which TensorFlow traces its graph."""
    peak_memory_bytes: int = Field(ge=0)
    """The most memory that the process held at once."""
    resumed_at: list[int] = Field(default_factory=list)
    """The steps after which the run was resumed from a training checkpoint."""
    gradient_accumulation: int | None = Field(default=None, ge=1)
    """Micro-batches per step at the end: the recipe's number, or more if memory was short. None in old runs."""
    batching: Batching | None = None
    """How the examples of a batch lay in its rows: packed, padded or sorted. None in old runs, which sorted them."""
    dropout_masks: str | None = None
    """"shared" by both frameworks, or drawn by the "framework"; null in old runs, which drew them so."""
    processes: int = Field(default=1, ge=1)
    """The processes that trained together at the end."""
    attention_implementation: str | None = None
    """What the library called to compute the stock attention in training: "eager", "sdpa", "flash_attention_2", or
    "unfused sdpa", which is sdpa operation by operation for shared dropout masks. None for another attention, in
    TensorFlow, and in old runs."""
    compilations: int = Field(default=0, ge=0)
    """Graphs that `train.compile` has compiled or that a GPU has recorded, also before a run was resumed."""
    parameters: int | None = Field(default=None, ge=1)
    """The numbers in all weights of the model, with the updates of `train.lora`. None in old runs."""
    trainable_parameters: int | None = Field(default=None, ge=1)
    """Those of them that were trained. None in old runs."""


class DataRecord(Record):
    """The data that the run read: a fingerprint of its content, and the counts of each split."""

    fingerprint: str
    """Sixteen hex digits of all rows of all splits."""
    train: Counts = Field(default_factory=dict)
    """Rows, truncated rows and the like of the training split."""
    validation: Counts = Field(default_factory=dict)
    """The same of the validation split."""
    test: Counts | None = None
    """The same of the test split; the key is missing if the recipe has none."""
    observed: dict[str, Counts] = Field(default_factory=dict)
    """By split, what may be a mistake: unknown tokens, rows that training has too. Empty in old runs."""
    labels: dict[str, Counts] = Field(default_factory=dict)
    """By split, how often each label is; of splits with labels only. Empty in old runs."""

    @property
    def splits(self) -> dict[str, Counts]:
        """The counts by split."""
        return {"train": self.train, "validation": self.validation} | ({} if self.test is None else {"test": self.test})

    @model_serializer(mode="wrap")
    def _leave_out_test(self, serialize: SerializerFunctionWrapHandler) -> dict[str, object]:
        return _without_empty_test(serialize(self))


class WeightsRecord(Record):
    """Where the weights before the first step are from."""

    kept: int = Field(ge=0)
    """How many are the checkpoint's."""
    new: list[str] = Field(default_factory=list)
    """The names of those that were drawn from the seed."""
    dropped: list[str] = Field(default_factory=list)
    """The names of the checkpoint's own that the model does not have, or has anew."""


class FileRecord(Record):
    """What was written into a file."""

    bytes: int = Field(ge=0)
    """Its size."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """The SHA-256 of its content as 64 hex digits."""


class RunRecord(RunIdentity):
    """The content of metrics.json, which is written last: a run that has one is complete."""

    status: Literal["completed"] = "completed"
    """Always "completed"."""
    metrics: Metrics
    """Scores of the kept weights on the validation split, and its `loss`; null for an undefined one."""
    kept_epoch: int | None = None
    """The epoch whose weights are in model/, from 1."""
    test: Metrics | None = None
    """Scores of the kept weights on the test split; the key is missing if the recipe has none."""
    evaluations: list[EvaluationRecord] = Field(default_factory=list)
    """The validation scores after each epoch."""
    train: TrainRecord
    """What the training took."""
    batches: list[str] = Field(default_factory=list)
    """For each epoch a digest of the rows of every batch; empty in old runs."""
    data: DataRecord
    """The data that the run read."""
    checkpoint_fingerprint: str | None = None
    """Sixteen hex digits of the pretrained weights; null if they were random."""
    weights: WeightsRecord | None = None
    """Where the first weights are from; null if all were random, and in old runs."""
    attention_sites: int = 0
    """How many attention modules were replaced, by themselves or with the model; 0 with the stock attention."""
    attention_max_difference: float = 0.0
    """The largest relative difference of the probe's logits from the stock model's before training."""
    model_files: dict[Annotated[str, Field(pattern="^[^/]+$")], FileRecord] = Field(default_factory=dict)
    """Each file in model/ except the model card, by name; what is not listed is not verified. Empty in old runs."""

    @property
    def identity(self) -> RunIdentity:
        """Which run it is."""
        return RunIdentity(recipe=self.recipe, framework=self.framework, attention=self.attention, seed=self.seed)

    @model_serializer(mode="wrap")
    def _leave_out_test(self, serialize: SerializerFunctionWrapHandler) -> dict[str, object]:
        return _without_empty_test(serialize(self))


class StepRecord(Record):
    """A line of history.jsonl: one optimizer step."""

    step: int = Field(ge=1)
    """Counted from 1."""
    epoch: int = Field(ge=1)
    """Counted from 1."""
    loss: float = Field(allow_inf_nan=False)
    """The loss of the global batch."""
    learning_rate: float = Field(ge=0, allow_inf_nan=False)
    """The learning rate that was applied."""
    grad_norm: float = Field(ge=0, allow_inf_nan=False)
    """The global norm of the gradients before clipping."""
    examples: int = Field(ge=0)
    """Training examples in the batch."""
    tokens: int = Field(ge=0)
    """Real tokens in the batch; padding does not count."""
    seconds: float = Field(ge=0, allow_inf_nan=False)
    """Training time from the beginning to the end of this step."""


class EnvironmentRecord(Record):
    """The content of environment.json: on what the run was made."""

    versions: dict[str, str]
    """Versions of Python and of the packages that the run used."""
    framework: dict[str, str]
    """Version, device and threads of the framework."""
    processor: str
    """The processor's model name."""
    cores: int | None
    """Logical cores of the machine."""
    threads: str
    """Threads with which the framework computed, in each process."""
    platform: str
    """Operating system and architecture."""
    command: list[str]
    """The command that made the run."""
    startup_seconds: float | None = None
    """Seconds from the call to the first batch: loading, checking, building. None in old runs."""
    launch_seconds: float | None = None
    """Seconds from the start of the process to the first batch, imports included. None in old runs, and in a process
    that did other things before."""
    processes: int = Field(default=1, ge=1)
    """The processes that trained together."""


AnyRecord = TypeVar("AnyRecord", bound=BaseModel)


def parse_record(kind: type[AnyRecord], text: str, place: str) -> AnyRecord:
    """A record from its JSON text. Raises UserError naming `place`, the field, what came and what was expected."""
    try:
        return kind.model_validate(strict_json(text))
    except ValidationError as error:
        faults = "; ".join(_fault(each) for each in error.errors()[:3])
        raise UserError(f"{place} is not what a run writes: {faults}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} cannot be read as JSON: {error}") from error


def json_schema() -> dict[str, object]:
    """The JSON Schema of metrics.json; `$defs` has those of environment.json and of a line of history.jsonl."""
    _, definitions = models_json_schema(
        [(kind, "validation") for kind in (RunRecord, StepRecord, EnvironmentRecord)], ref_template="#/$defs/{model}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "metrics.json of a run",
        "$ref": "#/$defs/RunRecord",
        **definitions,
    }


def schema_text() -> str:
    """The JSON Schema as run.schema.json holds it."""
    return json.dumps(json_schema(), indent=2) + "\n"


def _fault(error: ErrorDetails) -> str:
    field = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{field} is missing"
    shown = json.dumps(error["input"], default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{field or 'the content'} is {shown}, but {requirement(error['msg'])}"


def _without_empty_test(values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if key != "test" or value is not None}


if __name__ == "__main__":
    print(schema_text(), end="")
