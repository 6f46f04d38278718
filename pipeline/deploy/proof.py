"""The proof of an export: the runtime, in a fresh process, answers every validation row as the run's own model does.

The run's model answers first, in its own framework, and what it was asked is kept. The export is then asked the same in
a process in which neither transformers nor the other framework can be imported.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import GenerationSettings, OnToken, Predictor
from pipeline.data.batches import Features
from pipeline.deploy.answering import ExportPredictor
from pipeline.deploy.exported_model import answer_all
from pipeline.deploy.manifest import Manifest, ProofRecord, read_manifest
from pipeline.deploy.runtimes import Arrays
from pipeline.distributed.channel import Channel
from pipeline.distributed.ranks import Ranks
from pipeline.metrics.scoring import load_metrics
from pipeline.metrics.specs import is_hub_metric, lower_is_better, scale
from pipeline.runs.directory import Run, load_run
from pipeline.runs.prediction import open_run, prediction_recipe
from pipeline.runs.record import Metrics
from pipeline.tasks.base import token_id
from pipeline.tasks.options import CausalLanguageModelingOptions
from pipeline.training.evaluation import evaluate
from pipeline.training.experiment import Experiment, prepare
from pipeline.training.state import Evaluation
from pipeline.utils.errors import ProofError, UserError
from pipeline.utils.processes import Child, ProcessError

# What logits of an fp32 export may differ by.
TOLERANCE = 1e-4
# What int8 weights may cost: half a point of the metric, one prediction in a hundred; and what they must save.
MOST_POINTS, LEAST_AGREEMENT, MOST_SIZE = 0.5, 0.99, 0.45
# Numbers agree if they differ by less than this share of the range of the run's predictions.
NEAR = 0.01
# The length of the longest further batch.
MOST_PROBED = 512


@dataclass(frozen=True)
class Call:
    """A batch that the run's model was asked about, and its logits, losses and likeliest tokens of targets, or text."""

    inputs: Features
    settings: GenerationSettings | None = None
    ids: NDArray | None = None
    logits: NDArray | None = None
    losses: NDArray | None = None
    likeliest: NDArray | None = None


@dataclass(frozen=True)
class Reference:
    """What the run's model answered: every batch of the validation split, then batches of other shapes; its scores."""

    calls: list[Call]
    evaluation: Evaluation


@dataclass
class Recorder:
    """A predictor that keeps what it is asked and answers."""

    predictor: Predictor
    calls: list[Call] = field(default_factory=list)

    def logits(self, inputs: Features) -> NDArray:
        """The predictor's logits."""
        self.calls.append(Call(inputs, logits=self.predictor.logits(inputs)))
        return self.calls[-1].logits  # pyright: ignore[reportReturnType]

    def token_losses(self, inputs: Features, targets: Features) -> tuple[NDArray, NDArray]:
        """The predictor's losses and likeliest tokens."""
        losses, likeliest = self.predictor.token_losses(inputs, targets)
        self.calls.append(Call(inputs, losses=losses, likeliest=likeliest))
        return losses, likeliest

    def generate(self, inputs: Features, settings: GenerationSettings, on_token: OnToken | None = None) -> NDArray:
        """The predictor's texts."""
        ids = self.predictor.generate(inputs, settings, on_token)
        self.calls.append(Call(inputs, settings, ids))
        return ids


class Comparison(ExportPredictor):
    """A predictor that asks an export's runtime what a run's model was asked, and keeps how their answers differ."""

    def __init__(self, child: Child[str], calls: list[Call], endings: Collection[int]):
        """`endings` are the ids with which texts are filled up."""
        super().__init__(self.next_answer, lambda inputs, settings, on_token: self.next_answer(inputs)["ids"])
        self.child, self.calls, self.endings = child, iter(calls), endings
        self.largest_difference = 0.0
        self.num_texts = self.num_equal_texts = 0
        self.num_tokens = self.num_agreeing_tokens = 0

    def next_answer(self, inputs: Features) -> Arrays:
        """The runtime's answer to the next batch."""
        answer = self.child.next_event()
        if answer is None:
            self.child.result()  # raises what went wrong
        assert isinstance(answer, dict), "the runtime answers each batch"
        return answer

    def logits(self, inputs: Features) -> NDArray[np.float32]:
        """The export's logits for the next batch."""
        call, logits = next(self.calls), self.answer(inputs)
        assert call.logits is not None
        if logits.shape != call.logits.shape:
            raise ProofError(f"the runtime answers logits of shape {logits.shape}, the run's model {call.logits.shape}")
        self.note(_of_tokens(logits - call.logits, inputs["attention_mask"]))
        return logits

    def token_losses(self, inputs: Features, targets: Features) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The export's losses and likeliest tokens for the next batch."""
        call, is_counted = next(self.calls), targets["loss_weights"] > 0
        losses, likeliest = super().token_losses(inputs, targets)
        assert call.losses is not None and call.likeliest is not None
        self.note((losses - call.losses)[is_counted])
        self.num_tokens += int(is_counted.sum())
        self.num_agreeing_tokens += int((likeliest == call.likeliest)[is_counted].sum())
        return losses, likeliest

    def generate(
        self, inputs: Features, settings: GenerationSettings, on_token: OnToken | None = None
    ) -> NDArray[np.int32]:
        """The export's texts for the next batch."""
        call, ids = next(self.calls), super().generate(inputs, settings)
        assert call.ids is not None
        self.num_texts += len(ids)
        self.num_equal_texts += sum(_is_same_text(*pair, self.endings) for pair in zip(ids, call.ids, strict=True))
        return ids

    def note(self, differences: NDArray) -> None:
        """Keep the largest of some differences; what is no number is infinitely large."""
        largest = float(np.abs(differences).max(initial=0.0))
        self.largest_difference = max(self.largest_difference, math.inf if math.isnan(largest) else largest)


def validation_of(run: Run) -> Experiment:
    """The data that a run was validated on. Raises UserError if they cannot be read, or have changed since."""
    recipe = run.directory.recipe()
    metrics = [name for name in recipe.metrics if not is_hub_metric(name)]
    experiment = prepare(prediction_recipe(recipe, run.directory.model_folder).override({"metrics": metrics}))
    if experiment.fingerprint != run.record.data.fingerprint:
        raise UserError(
            f"{run.path}: its data have changed since it was made, so an export cannot be compared with it; bring back "
            "the data, or repeat the run"
        )
    return experiment


def answer_of_run(path: str) -> Reference:
    """What a run's own model answers, in this process, which has the run's framework."""
    run = load_run(path)
    experiment, recorder = validation_of(run), Recorder(open_run(run).predictor())
    evaluation = _evaluated(experiment, recorder)
    for inputs in further_batches(experiment):
        recorder.logits(inputs)
    for inputs, settings in prompts(experiment):
        recorder.generate(inputs, settings)
    return Reference(recorder.calls, evaluation)


def further_batches(experiment: Experiment) -> Iterator[Features]:
    """Batches of other shapes, of tokens of the validation split: 1 x 1, 1 x 2, odd, full length, and much padding."""
    longest = min(experiment.recipe.data.max_length, MOST_PROBED)
    probe = experiment.probe()
    tokens = probe["input_ids"][probe["attention_mask"] > 0]
    for rows, length in ((1, 1), (1, 2), (3, 5), (2, longest)):
        ids = np.resize(tokens, (rows, length)).astype(np.int32)
        yield _batch(experiment, probe, ids, np.full(rows, length))
    yield _batch(experiment, probe, np.resize(tokens, (5, longest)).astype(np.int32), np.array([1, 2, 3, longest, 7]))


def prompts(experiment: Experiment) -> Iterator[tuple[Features, GenerationSettings]]:
    """The beginnings of validation rows, one by one, which a decoder continues; none for other models."""
    options = experiment.task.options
    if isinstance(options, CausalLanguageModelingOptions):
        probe = experiment.probe()
        for row, mask in zip(probe["input_ids"], probe["attention_mask"], strict=True):
            prompt = row[mask > 0][None, : max(1, int(mask.sum()) // 2)]
            yield {"input_ids": prompt, "attention_mask": np.ones_like(prompt)}, options.generation_settings()


def _batch(experiment: Experiment, probe: Features, ids: NDArray, lengths: NDArray) -> Features:
    """A batch of these tokens, of which each row keeps some and has padding behind them."""
    mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int32)
    pad = token_id(experiment.tokenizer, "pad")
    others = {name: np.zeros_like(ids) for name in probe if name not in ("input_ids", "attention_mask")}
    if "decoder_input_ids" in others:  # a decoder that reads what its encoder does
        others["decoder_input_ids"] = ids
    return {"input_ids": np.where(mask > 0, ids, np.int32(pad)), **others, "attention_mask": mask}


def measure(folder: Path, experiment: Experiment, reference: Reference) -> ProofRecord:
    """Ask an export's runtime what the run's model was asked. Raises ProofError if it cannot answer."""
    manifest = read_manifest(folder)
    task = copy.copy(experiment.task)
    task.labels = tuple(manifest.labels)  # as whoever uses the export reads them
    asked = [(call.inputs, call.settings) for call in reference.calls]
    endings = () if manifest.writing is None else (manifest.writing.end_id, manifest.pad_token_id)
    try:
        with Child(answer_all, folder, asked, framework=manifest.facts.framework, sends_events=True) as child:
            comparison = Comparison(child, reference.calls, endings)
            evaluation = _evaluated(replace(experiment, task=task), comparison)
            further = list(further_batches(experiment))
            for inputs in further:
                comparison.logits(inputs)
            for inputs, settings in prompts(experiment):
                comparison.generate(inputs, settings)
            runtime = child.result()
    except ProcessError as error:
        raise ProofError(f"the export to {manifest.facts.title} cannot be run: {error}") from error
    agreement = _agreement(task.labels_whole_examples, reference.evaluation, evaluation, manifest.quantization)
    if comparison.num_tokens:
        agreement = comparison.num_agreeing_tokens / comparison.num_tokens
    if comparison.num_texts:
        agreement = min(agreement, comparison.num_equal_texts / comparison.num_texts)
    return ProofRecord(
        rows=len(evaluation.rows),
        shapes=[list(inputs["input_ids"].shape) for inputs in further],
        largest_difference=comparison.largest_difference,
        agreement=agreement,
        metrics=_without_nan(evaluation.metrics),
        run_metrics=_without_nan(reference.evaluation.metrics),
        absent=list(manifest.facts.absent),
        runtime=runtime,
    )


def refuse_unproved(manifest: Manifest, proof: ProofRecord, metric: str) -> None:
    """Raise ProofError with the figures unless the export answers as the run does; `metric` is the recipe's first."""
    problems = _problems_of_int8(manifest, proof, metric) if manifest.quantization else _problems_of_fp32(proof)
    if problems:
        kind = f"{manifest.facts.title} with {manifest.quantization} weights" if manifest.quantization else None
        raise ProofError(
            f"the export to {kind or manifest.facts.title} does not answer as {manifest.run.label}, and was not kept: "
            f"{'; '.join(problems)} ({proof.rows} validation rows in {proof.runtime})"
        )


def _problems_of_fp32(proof: ProofRecord) -> list[str]:
    problems = []
    if not proof.largest_difference <= TOLERANCE:
        problems.append(f"logits differ by up to {proof.largest_difference:.2g}, but at most {TOLERANCE:g} is rounding")
    if proof.agreement < 1:
        problems.append(f"{proof.agreement:.2%} of the predictions are the same, but all must be")
    return problems


def _problems_of_int8(manifest: Manifest, proof: ProofRecord, metric: str) -> list[str]:
    problems, size = [], manifest.model_bytes / manifest.full_bytes
    lost = _points_lost(metric, proof.run_metrics.get(metric), proof.metrics.get(metric))
    if not lost <= MOST_POINTS:
        values = f"{proof.metrics.get(metric)} instead of {proof.run_metrics.get(metric)}"
        problems.append(f"{metric} is {values}, which loses more than half a point")
    if proof.agreement < LEAST_AGREEMENT:
        problems.append(f"{proof.agreement:.2%} of the predictions are the same, but {LEAST_AGREEMENT:.0%} must be")
    if size > MOST_SIZE:
        problems.append(f"it has {size:.0%} of the size in fp32, but may have {MOST_SIZE:.0%}")
    return problems


def _points_lost(metric: str, before: float | None, after: float | None) -> float:
    """What a metric lost, in hundredths of its scale, or of its value if it has none; infinite if undefined."""
    if before is None or after is None:
        return 0.0 if before is after else math.inf
    lost = after - before if lower_is_better(metric) else before - after
    return 100 * lost / (scale(metric) or abs(before) or 1.0)


def _agreement(are_whole: bool, reference: Evaluation, found: Evaluation, quantization: str | None) -> float:
    """The share of equal predictions: of rows, or of words if each has one of its own."""
    pairs = [
        (ours["prediction"], theirs["prediction"])
        for ours, theirs in zip(found.rows, reference.rows, strict=True)
        if "prediction" in ours
    ]
    numbers = [theirs for _, theirs in pairs if isinstance(theirs, float)]
    near = NEAR * (max(numbers) - min(numbers)) if numbers and quantization else TOLERANCE
    if not are_whole:
        pairs = [pair for ours, theirs in pairs for pair in zip(_parts(ours), _parts(theirs), strict=True)]
    return sum(_is_same(ours, theirs, near) for ours, theirs in pairs) / len(pairs) if pairs else 1.0


def _parts(prediction: object) -> list[object]:
    """A prediction for each word of a row, or the one for the row."""
    return prediction if isinstance(prediction, list) else [prediction]


def _is_same(ours: object, theirs: object, near: float) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= near
    return ours == theirs


def _evaluated(experiment: Experiment, predictor: Predictor) -> Evaluation:
    """The scores of the validation split."""
    return evaluate(
        experiment, predictor, load_metrics(experiment.metric_names), "validation", 1,
        experiment.recipe.train.batch_size, Channel(Ranks()), lambda: None,
    )  # fmt: skip


def _is_same_text(ours: NDArray, theirs: NDArray, endings: Collection[int]) -> bool:
    """Whether token ids are the same but for those behind the text: the library ends some with padding, some not."""
    first, second = (ids[: np.flatnonzero(~np.isin(ids, [*endings])).max(initial=-1) + 1] for ids in (ours, theirs))
    return np.array_equal(first, second)


def _of_tokens(values: NDArray, mask: NDArray) -> NDArray:
    """The values at real tokens: of [B, T, classes], of starts and ends [B, 2, T]; all of [B, classes]."""
    if values.ndim == 2:
        return values
    return values[mask > 0] if values.shape[:2] == mask.shape else values.transpose(0, 2, 1)[mask > 0]


def _without_nan(metrics: dict[str, float]) -> Metrics:
    return {name: None if math.isnan(value) else float(value) for name, value in metrics.items()}
