"""Results of a training as they go into the run's record: what it took, and the data that it read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice

from pipeline.data.batches import Batch, padding_fraction
from pipeline.models.building import Start, WeightSources
from pipeline.runs.machine import peak_memory_bytes
from pipeline.runs.record import DataRecord, TrainRecord, WeightsRecord
from pipeline.training.experiment import Experiment
from pipeline.training.state import TrainingState


def train_record(
    experiment: Experiment, state: TrainingState, plans: Sequence[Sequence[Batch]], processes: int, started: Start
) -> TrainRecord:
    """Speed, padding and memory of the steps that were taken; `plans` have the batches of each epoch."""
    history = state.history
    seconds = history[-1].seconds
    return TrainRecord(
        steps=len(history),
        seconds=seconds,
        examples_per_second=sum(step.examples for step in history) / seconds,
        tokens_per_second=sum(step.tokens for step in history) / seconds,
        padding_fraction=padding_fraction(
            experiment.examples["train"].lengths, islice(chain.from_iterable(plans), len(history))
        ),
        batching=experiment.recipe.data.batching,
        first_step_seconds=history[0].seconds,
        peak_memory_bytes=max(state.peak_memory_bytes, peak_memory_bytes()),
        resumed_at=state.resumed_at,
        gradient_accumulation=state.micro_batches,
        dropout_masks=experiment.recipe.train.dropout_masks,
        processes=processes,
        attention_implementation=state.attention_implementation,
        compilations=state.compilations,
        parameters=started.parameters,
        trainable_parameters=started.trainable,
    )


def data_record(experiment: Experiment) -> DataRecord:
    """The fingerprint of the data, and what is counted of each split."""
    counts = {split: examples.counts for split, examples in experiment.examples.items()}
    observations = experiment.observations
    return DataRecord(
        fingerprint=experiment.fingerprint, **counts,
        observed={split: observed.counts for split, observed in observations.items()},
        labels={split: observed.labels for split, observed in observations.items() if observed.labels},
    )  # fmt: skip


def weights_record(sources: WeightSources) -> WeightsRecord | None:
    """Where the weights of step 0 are from; None if all are random."""
    if not sources.kept:
        return None
    return WeightsRecord(kept=sources.kept, new=list(sources.new), dropped=list(sources.dropped))
