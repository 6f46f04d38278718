"""The results of a comparison, typed: what `results.json` holds and every report is written from.

The JSON Schema beside this file, `results.schema.json`, is generated from these classes:

    python -m pipeline.comparison.results > pipeline/comparison/results.schema.json

A variant is `<framework>/<attention>`, such as `torch/stock`. Variants keep the order in which they were asked for, and
the first one is the reference of ratios. Differences are first minus second. A number that is undefined (one seed has
no standard deviation, a failed run has no score) is None, which is `null` in JSON; there is no NaN. The parts of the
results are in `records/`: scores, sameness, predictions, costs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal, TypeVar

from pydantic import Field, JsonValue

from pipeline.comparison.records.base import Number, Record, State
from pipeline.comparison.records.costs import BreakEven, Cost, CostComparison, Machine
from pipeline.comparison.records.predictions import PredictionDetails
from pipeline.comparison.records.sameness import (
    BatchDifference,
    OptimizationDifference,
    PairDistance,
    ProbeDifference,
    Sameness,
)
from pipeline.comparison.records.scores import Metric, PairComparison
from pipeline.runs.record import EnvironmentRecord, TrainRecord

SCHEMA_VERSION = 5
# Results of schema 4 have no settings and no details of predictions.
READABLE_SCHEMAS = (4, 5)
_Pair = TypeVar("_Pair", ProbeDifference, BatchDifference, OptimizationDifference, PairDistance, PairComparison)


class DataSummary(Record):
    """The data set that all runs were trained on."""

    source: str
    """The Hub id; of local files the format and the name of their folder."""
    fingerprint: str | None
    """Of the prepared rows; None if no run was completed."""
    splits: dict[str, dict[str, int]]
    """Counts by split, such as `rows` and `truncated`."""


class RecipeMargin(Record):
    """The recipe's margin of equivalence."""

    value: float
    kind: Literal["absolute", "relative"]
    """Absolute in units of a metric between 0 and 1 (times 100 for metrics up to 100), or relative to the mean."""


class Variant(Record):
    """One framework with one attention, over its seeds."""

    name: str
    framework: str
    attention: str
    seeds: list[int]
    completed: int
    """How many of its runs were completed."""
    failed: int
    """How many of its runs failed."""


class RunSummary(Record):
    """One run: identity, scores, training figures, machine."""

    variant: str
    framework: str
    attention: str
    seed: int
    path: str
    """The run's directory."""
    status: Literal["completed", "failed"]
    log_tail: str | None
    """The end of a failed run's log."""
    metrics: dict[str, Number]
    train: TrainRecord | None
    """As in the run's metrics.json; None if the run failed."""
    startup_seconds: Number
    """From the start of the process to the first training step."""
    attention_sites: int | None
    """How many attention modules were replaced."""
    attention_max_difference: Number
    """The largest difference of the probe's logits that replacing the attention made."""
    environment: EnvironmentRecord | None
    """As in the run's environment.json; None if the run failed."""
    weights_sha256: str | None = None
    """The SHA-256 of model/model.safetensors; None if the run failed, and in results of schema 4."""

    @property
    def label(self) -> str:
        """'torch/stock seed 0'."""
        return f"{self.variant} seed {self.seed}"

    @property
    def completed(self) -> bool:
        """Whether the run finished."""
        return self.status == "completed"


class RecipeDifference(Record):
    """A setting that was not the same in all runs."""

    key: str
    values: dict[str, JsonValue]
    """The setting's value by run, such as `torch/stock seed 0`."""
    is_compared: bool = False
    """Whether runs of the same framework and attention differ in it: then it is what the runs are compared by."""


class Disagreement(Record):
    """A validation example for which the variants do not predict the same."""

    index: int
    """The row in the validation split."""
    seed: int
    fields: dict[str, JsonValue]
    """What the prediction is made from; empty if the data cannot be read any more."""
    reference: JsonValue
    predictions: dict[str, JsonValue]
    """By variant."""


class AttentionMap(Record):
    """The hand-written attention's weights after training, for one text."""

    variant: str
    seed: int
    text: str
    tokens: list[str]
    """Those of the text, which are attended to: the keys."""
    weights: list[list[list[list[float]]]]
    """[layers][heads][queries][keys], rounded to three decimals."""
    written: list[str] | None = None
    """In cross-attention the queries: what the model wrote from the text. Else the text's own tokens are."""

    @property
    def queries(self) -> list[str]:
        """The tokens that attend."""
        return self.tokens if self.written is None else self.written


class MapDistance(Record):
    """How far the attention weights of one layer are apart in two trainings, for one text."""

    largest: float
    mean: float


class Problem(Record):
    """Something that a comparison could not do, or that the runs contradict."""

    code: Literal[
        "different_example_counts", "score_not_reproduced", "attention_map_failed", "lockstep_failed",
        "lockstep_outdated", "control_failed",
    ]  # fmt: skip
    run: str | None = None
    attention: str | None = None
    metric: str | None = None
    recorded: Number = None
    recomputed: Number = None
    """From predictions.jsonl."""
    error: str | None = None


class Statement(Record):
    """A sentence with its state: good, unknown (it cannot be said) or bad."""

    state: State
    sentence: str


class Answer(Statement):
    """A statement with the word that answers the question, such as Yes."""

    word: str


class Headline(Record):
    """The first screen of the report."""

    training: Answer
    """Same training?"""
    score: Answer
    """Same score?"""
    time: Answer
    memory: Answer
    notices: list[Statement]
    """What a reader must know besides."""


class Results(Record):
    """The results of a comparison."""

    schema_version: Literal[4, 5] = Field(default=SCHEMA_VERSION, alias="schema")
    created: str
    """ISO 8601."""
    command: list[str]
    recipe: str
    task: str
    checkpoint: str
    """A local checkpoint by the name of its folder."""
    checkpoint_fingerprint: str | None = None
    """Of the pretrained weights; None if they were random, and in results of schema 4."""
    weights: str
    data: DataSummary
    margin: RecipeMargin
    headline: Headline | None = None
    """Written from the rest of the results."""
    variants: list[Variant]
    runs: list[RunSummary]
    settings: dict[str, JsonValue] = {}
    """Every setting of the recipe by its dotted key, as the first run has it; empty in results of schema 4."""
    recipe_differences: list[RecipeDifference]
    metrics: dict[str, Metric]
    comparisons: list[PairComparison]
    sameness: Sameness
    predictions: dict[str, PredictionDetails] = {}
    """By variant; empty in results of schema 4."""
    disagreements: list[Disagreement]
    """20 at most."""
    costs: list[Cost]
    time: CostComparison
    """Seconds from the start of the process to the end of the last step, without evaluation."""
    speed: CostComparison
    """Training speed after the first step."""
    memory: CostComparison
    break_even: list[BreakEven]
    """For each pair of frameworks with the same attention."""
    machines: list[Machine]
    """More than one if the runs come from different machines."""
    attention_maps: list[AttentionMap]
    map_control: list[MapDistance] = []
    """By layer: how far PyTorch's maps are from its control's. Empty without a control or two maps."""
    problems: list[Problem]

    @property
    def compares_recipes(self) -> bool:
        """Whether runs of the same framework and attention have different recipes, as with and without LoRA."""
        return any(difference.is_compared for difference in self.recipe_differences)

    def of_one_recipe(self) -> Results:
        """The results without the pairs of variants that have different recipes: nothing of them has to be the same.

        What such variants are compared by is left out of `recipe_differences`, too.
        """
        compared = [difference.values for difference in self.recipe_differences if difference.is_compared]
        if not compared:
            return self
        recipes = {run.variant: [values.get(run.label) for values in compared] for run in self.runs}

        def kept(pairs: Iterable[_Pair]) -> list[_Pair]:
            return [pair for pair in pairs if recipes.get(pair.first) == recipes.get(pair.second)]

        sameness, control = self.sameness, self.sameness.control
        changed: dict[str, object] = {
            "probe": kept(sameness.probe),
            "batches": kept(sameness.batches),
            "optimization": kept(sameness.optimization),
            "control": control and control.model_copy(update={"pairs": kept(control.pairs)}),
        }
        return self.model_copy(
            update={
                "comparisons": kept(self.comparisons),
                "sameness": sameness.model_copy(update=changed),
                "recipe_differences": [each for each in self.recipe_differences if not each.is_compared],
            }
        )

    def to_json(self) -> dict[str, object]:
        """What results.json holds, as plain dicts, lists and scalars."""
        return self.model_dump(mode="json", by_alias=True)


def json_schema() -> dict[str, object]:
    """The JSON Schema of results.json."""
    schema = Results.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """The JSON Schema as results.schema.json holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
