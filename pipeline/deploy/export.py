"""Exports a finished run: converts it, proves it in the real runtime, and keeps a folder that is whole or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from transformers import PretrainedConfig

from pipeline.backend import GenerationSettings, WrittenGraph
from pipeline.deploy.manifest import (
    FORMATS,
    README,
    RECIPE,
    Format,
    MachineRecord,
    Manifest,
    Quantization,
    TensorRecord,
    WritingRecord,
    format_problem,
    is_export,
    records_of,
    verified_manifest,
    write_manifest,
)
from pipeline.deploy.proof import Reference, answer_of_run, measure, refuse_unproved, validation_of
from pipeline.deploy.readme import readme
from pipeline.deploy.tokenizer import refuse_other_tokens, tokenizer_problem, write_tokenizer
from pipeline.models.families import family_of
from pipeline.recipe.schema import Recipe
from pipeline.runs.directory import Run, load_run
from pipeline.runs.machine import package_versions
from pipeline.runs.model_files import refuse_altered
from pipeline.runs.prediction import open_run
from pipeline.tasks.base import token_id
from pipeline.tasks.options import GenerationOptions
from pipeline.training.experiment import Experiment
from pipeline.utils.environment import missing_modules
from pipeline.utils.errors import ProofError, UserError
from pipeline.utils.files import staged_folder, temporary_files_vanish
from pipeline.utils.hashing import sha256_of_file
from pipeline.utils.processes import ProcessError, ask_python_of, call
from pipeline.utils.text import last_line, one_line


@dataclass(frozen=True)
class FinishedExport:
    """An export's folder and its manifest, with what was measured."""

    path: Path
    manifest: Manifest


def export_run(
    run: Run | str | os.PathLike[str],
    formats: str | Sequence[str] = "onnx",
    *,
    quantize: Quantization | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    on_event: Callable[[str], None] = lambda text: None,
) -> list[FinishedExport]:
    """Convert a finished run into formats, and prove each in its own runtime; returns the exports in that order.

    `formats` are of pt2, onnx, savedmodel, litert, torchscript and aoti; a run of either framework has all. Each has a
    folder in `out`, by default exports/<recipe>/<run>, with "-int8" behind its name if `quantize` is "int8". The
    runtime answers every validation row in a fresh process, and is compared with the run's own model; an export that
    does not agree is not kept. `on_event` is told what is being done. Raises UserError, and ProofError with what was
    measured.

    >>> (export,) = export_run("runs/sentiment_bert/torch-stock-seed0", "onnx")  # doctest: +SKIP
    >>> export.manifest.proof.largest_difference  # doctest: +SKIP
    2.7e-06
    """
    run, names = run if isinstance(run, Run) else load_run(run), [formats] if isinstance(formats, str) else [*formats]
    recipe = run.directory.recipe()
    if problems := list(_problems(recipe, names, quantize)):
        raise UserError("\n".join(f"recipe {recipe.name}: {text}" for text in problems))
    refuse_altered(run.directory.model_folder, run.record.model_files, thorough=True)
    place = Path(out) if out is not None else Path("exports") / recipe.name / run.path.resolve().name
    suffix = f"-{quantize}" if quantize else ""
    folders = {name: place / f"{name}{suffix}" for name in dict.fromkeys(names)}
    for folder in folders.values():
        _refuse_taken(folder, overwrite)
    if problem := tokenizer_problem(run.directory.model_folder):
        raise UserError(f"{run.path} cannot be exported: {problem}")
    on_event(f"asking {run.record.label} for its answers to the validation split")
    experiment = validation_of(run)
    reference = call(answer_of_run, str(run.path), framework=run.record.framework)
    exports = []
    for name, folder in folders.items():
        on_event(f"{FORMATS[name].title}: converting, then asking {FORMATS[name].runtime}")
        exports.append(_export(run, cast(Format, name), quantize, folder, experiment, reference))
    return exports


def _problems(recipe: Recipe, formats: Sequence[str], quantize: str | None) -> Iterator[str]:
    """Why a run of this recipe cannot be exported."""
    if not formats:
        yield f"no format is named; there are {', '.join(FORMATS)}"
    for name in formats:
        if problem := format_problem(name):
            yield problem
            continue
        facts = FORMATS[name]
        if quantize is not None and quantize not in facts.quantizations:
            able = ", ".join(key for key, each in FORMATS.items() if quantize in each.quantizations)
            yield f'{name} has no weights of type "{quantize}"; {able or "no format"} can have them'
        if problem := writing_problem(recipe, name, quantize):
            yield problem
        for package in _missing_packages(facts.framework, facts.runtime):
            yield f"{name} needs {package}, which is not installed; pip install '.[{facts.extra}]'"


def _missing_packages(framework: str, runtime: str) -> list[str]:
    """Which of the two are not installed for the Python of the framework."""
    return ask_python_of(framework, missing_modules, [framework, runtime])


def writing_problem(recipe: Recipe, name: str, quantize: str | None) -> str | None:
    """Why no model that writes texts as this recipe asks can be exported to a format; None if it can."""
    settings, facts = writing_settings(recipe), FORMATS[name]
    if settings is None:
        return None
    if facts.writer_file is None:
        able = ", ".join(name for name, each in FORMATS.items() if each.writer_file is not None)
        return f"{recipe.task} writes texts, which a model in {facts.title} cannot; export it to one of: {able}"
    if facts.most_beams is not None and settings["num_beams"] > facts.most_beams:
        return (
            f"options.num_beams is {settings['num_beams']}, but {facts.title} cannot search with beams; export "
            "to onnx, or train with options.num_beams=1"
        )
    if quantize in facts.quantizations:
        return f"{recipe.task} writes texts, which models with {quantize} weights cannot; leave quantize out"
    return None


def writing_settings(recipe: Recipe) -> GenerationSettings | None:
    """How the model of a recipe writes texts; None if it does not."""
    options = recipe.options
    return options.generation_settings() if isinstance(options, GenerationOptions) else None


def _refuse_taken(folder: Path, overwrite: bool) -> None:
    """Raise UserError if a folder may not be written."""
    if not folder.exists():
        return
    if not is_export(folder):
        raise UserError(f"{folder} holds something that is not an export; choose another folder", arguments=("out",))
    if not overwrite:
        raise UserError(
            f"{folder} holds an export already; choose another folder, or replace it", arguments=("out", "overwrite")
        )


def _export(
    run: Run, format: Format, quantize: Quantization | None, folder: Path, experiment: Experiment, reference: Reference
) -> FinishedExport:
    """One export, in a folder that appears when it is proved."""
    with staged_folder(folder) as staging:
        write_tokenizer(experiment, run.directory.model_folder, staging)
        refuse_other_tokens(experiment, staging, (call.ids for call in reference.calls if call.ids is not None))
        shutil.copyfile(run.directory.model_folder / "config.json", staging / "config.json")
        shutil.copyfile(run.directory.recipe_file, staging / RECIPE)
        manifest = _converted(run, format, quantize, staging, experiment, reference)
        write_manifest(staging, manifest)
        proof = measure(staging, experiment, reference)
        refuse_unproved(manifest, proof, experiment.metric_names[0])
        manifest = manifest.model_copy(update={"proof": proof})
        write_manifest(staging, manifest)
        pairs, chooses_one = "text_pair" in experiment.recipe.data.columns, "class" in experiment.task.outcomes
        (staging / README).write_text(readme(manifest, proof, pairs, chooses_one), encoding="utf-8")
        verified_manifest(staging)
    return FinishedExport(folder, manifest)


def _converted(
    run: Run, format: Format, quantize: Quantization | None, staging: Path, experiment: Experiment, reference: Reference
) -> Manifest:
    """Write a run's model into an export's folder, in a process of the format's framework; returns what it is.

    Raises ProofError if the model cannot be converted.
    """
    facts, recipe, settings = FORMATS[format], experiment.recipe, writing_settings(experiment.recipe)
    file = (facts.file if settings is None else facts.writer_file or "").format(name=recipe.name)
    inputs, place = tuple(experiment.probe()), (str(run.path), format, staging / file)
    try:
        graph, architecture, versions = call(
            write_run, *place, inputs, quantize is not None, settings, framework=facts.framework
        )
    except ProcessError as error:
        last = one_line(last_line(error))
        raise ProofError(f"{run.record.label} cannot be converted into {facts.title}; the converter: {last}") from error
    return Manifest(
        format=format,
        quantization=quantize,
        file=file,
        task=recipe.task,
        architecture=architecture,
        labels=list(experiment.task.labels),
        inputs={name: TensorRecord(dtype=graph.input_type, axes=["batch", "length"]) for name in inputs},
        outputs={name: TensorRecord(dtype="float32", axes=_axes(reference, name)) for name in graph.output_names},
        max_length=recipe.data.max_length,
        most_positions=family_of(experiment.config).max_positions(experiment.config),
        pad_token_id=token_id(experiment.tokenizer, "pad"),
        run=run.record.identity,
        run_folder=str(run.path),
        model_sha256=sha256_of_file(run.directory.weights_file),
        versions=versions,
        machine=MachineRecord.of_this_machine() if facts.is_of_one_machine else None,
        full_bytes=graph.full_bytes,
        writing=None if settings is None else _writing(experiment.config, settings, graph.past),
        files=records_of(staging),
    )


def _writing(config: PretrainedConfig, settings: GenerationSettings, past: tuple[int, ...]) -> WritingRecord:
    """How the model writes: the special tokens of its configuration, and the recipe's settings."""
    start, end = config.decoder_start_token_id, config.eos_token_id
    assert end is None or isinstance(end, int), "the checkpoint's configuration was checked"
    return WritingRecord(
        reads_sources=bool(config.is_encoder_decoder),
        start_id=-1 if start is None else start,
        end_id=-1 if end is None else end,
        writes_padding=family_of(config).writes_padding,
        past=list(past),
        **settings,
    )


def _axes(reference: Reference, output: str) -> list[str | int]:
    """The axes of an output, by what the run's model answers."""
    logits = next(call.logits for call in reversed(reference.calls) if call.logits is not None)
    if output != "logits":
        return ["batch", "length"]
    return ["batch", *(["length"] if logits.ndim == 3 else []), logits.shape[-1]]


def write_run(
    path: str,
    format: str,
    file: Path,
    input_names: tuple[str, ...],
    quantize: bool,
    settings: GenerationSettings | None,
) -> tuple[WrittenGraph, str, dict[str, str]]:
    """Write a run's model as a graph, in this process, which has the format's framework.

    Also returns the model's class, and the versions of what wrote it.
    """
    trained = open_run(load_run(path), FORMATS[format].framework)
    file.parent.mkdir(parents=True, exist_ok=True)
    with temporary_files_vanish("export"):
        if settings is None:
            graph = trained.backend.write_graph(trained.model, format, file, input_names, quantize)
        else:
            graph = trained.backend.write_writer(trained.model, file, settings)
    return graph, trained.backend.architecture(trained.model), package_versions()
