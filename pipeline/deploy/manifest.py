"""The contract of an export's folder: its formats, the names of its files, and the manifest that describes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.runs.machine import instruction_extensions, processor
from pipeline.runs.record import FileRecord, Record, RunIdentity, parse_record
from pipeline.utils.errors import UserError, did_you_mean
from pipeline.utils.files import reason
from pipeline.utils.hashing import file_fault, sha256_of_file

MANIFEST, RECIPE, TOKENIZER, README = "manifest.json", "recipe.yaml", "tokenizer.json", "README.md"
# The version of this contract; a folder of a later one is refused.
VERSION = 1
Format = Literal["pt2", "onnx", "savedmodel", "litert", "torchscript", "aoti"]
Quantization = Literal["int8"]


@dataclass(frozen=True)
class FormatFacts:
    """What is known of a format.

    title: its name for people.
    framework: the one that converts into it.
    runtime: the package that runs it, and `extra` what installs that.
    file: the model in an export's folder; "{name}" is the recipe's name.
    absent: the modules that cannot be imported while it is proved.
    quantizations: what its weights can be turned into.
    writer_file: the model in a folder if it writes texts; None if such a model cannot be exported.
    most_beams: how many beams it can search with, if there is a limit.
    is_of_one_machine: whether it runs only on processors like the one that it was made on.
    """

    title: str
    framework: str
    runtime: str
    extra: str
    file: str
    absent: tuple[str, ...]
    quantizations: tuple[Quantization, ...] = ()
    writer_file: str | None = None
    most_beams: int | None = None
    is_of_one_machine: bool = False


FORMATS: dict[str, FormatFacts] = {
    "pt2": FormatFacts(
        "torch.export", "torch", "torch", "torch", "model.pt2", ("transformers", "tensorflow", "tf_keras")
    ),
    "onnx": FormatFacts(
        "ONNX", "torch", "onnxruntime", "onnx", "model.onnx", ("transformers", "torch", "tensorflow", "tf_keras"),
        ("int8",), writer_file="model",
    ),
    "savedmodel": FormatFacts(
        "SavedModel", "tensorflow", "tensorflow", "tensorflow", "{name}/1", ("transformers", "torch", "tf_keras"),
        writer_file="{name}/1", most_beams=1,
    ),
    "litert": FormatFacts(
        "LiteRT", "tensorflow", "ai_edge_litert", "litert", "model.tflite",
        ("transformers", "torch", "tensorflow", "tf_keras"), ("int8",),
    ),
    "torchscript": FormatFacts(
        "TorchScript (legacy)", "torch", "torch", "torch", "model.pt", ("transformers", "tensorflow", "tf_keras")
    ),
    "aoti": FormatFacts(
        "AOTInductor", "torch", "torch", "torch", "model.pt2", ("transformers", "tensorflow", "tf_keras"),
        is_of_one_machine=True,
    ),
}  # fmt: skip


# Those that run on any machine, which are made unless others are asked for.
PORTABLE_FORMATS = tuple(name for name, facts in FORMATS.items() if not facts.is_of_one_machine)


class TensorRecord(Record):
    """An input or output of the model."""

    dtype: str
    """NumPy's name of its type."""
    axes: list[str | int]
    """Its axes: "batch" and "length" may be of any size, a number is the size of one that is fixed."""


class WritingRecord(Record):
    """How a model writes texts."""

    reads_sources: bool
    """Whether it writes from a source, rather than to continue a text."""
    start_id: int
    """The token that a text written from a source begins with."""
    end_id: int
    """The token after which nothing is written but padding."""
    writes_padding: bool = True
    """Whether padding may be chosen as a token of a text."""
    past: list[int] = Field(default_factory=list)
    """Of the array of keys and values [2 * layers, B, heads, P, width]: the first, third and last size."""
    max_new_tokens: int
    """The most tokens that the run's recipe has written."""
    num_beams: int
    """The beams of the run's recipe; 1 is greedy."""
    length_penalty: float
    """The recipe's penalty by which beams are compared."""


class ProofRecord(Record):
    """What was measured when the runtime answered for the run's validation split."""

    rows: int = Field(ge=1)
    """Validation rows that the runtime answered; all of the split."""
    shapes: list[list[int]]
    """Further batches that it answered, [rows, length]."""
    largest_difference: float = Field(ge=0)
    """Of a logit from the run's own."""
    agreement: float = Field(ge=0, le=1)
    """The share of predictions that are those of the run."""
    metrics: dict[str, float | None]
    """The validation scores of the export."""
    run_metrics: dict[str, float | None]
    """The validation scores of the run's model, in its own framework on the same machine."""
    absent: list[str]
    """Modules that the runtime's process could not import."""
    runtime: str
    """The runtime and its version."""


class MachineRecord(Record):
    """The processor whose instructions a model is compiled to."""

    processor: str
    """Its model name."""
    instructions: list[str]
    """Its extensions of the instruction set, by the names that the system gives them."""

    @classmethod
    def of_this_machine(cls) -> MachineRecord:
        """The processor that this program runs on."""
        return cls(processor=processor(), instructions=instruction_extensions())


class Manifest(Record):
    """The content of manifest.json."""

    version: int = VERSION
    """Of this contract."""
    format: Format
    """pt2, onnx, savedmodel, litert, torchscript or aoti."""
    quantization: Quantization | None = None
    """int8 if the weights are 8-bit integers."""
    file: str
    """The model: a file, or the folder of a SavedModel."""
    task: str
    """The recipe's task."""
    architecture: str
    """The stock class, such as BertForSequenceClassification."""
    labels: list[str] = Field(default_factory=list)
    """The classes in the order of the logits; empty for a task without classes."""
    inputs: dict[str, TensorRecord]
    """What the model reads, by name."""
    outputs: dict[str, TensorRecord]
    """What it answers, by name."""
    max_length: int = Field(ge=1)
    """The tokens that a text is cut to."""
    most_positions: int | None = None
    """The longest input that the model takes; null without a limit."""
    pad_token_id: int
    """What rows are padded with, with attention_mask 0."""
    run: RunIdentity
    """The run that it came from."""
    run_folder: str
    """Where that run lay."""
    model_sha256: str
    """The SHA-256 of that run's weights."""
    versions: dict[str, str]
    """Versions of the packages that made the export."""
    machine: MachineRecord | None = None
    """The only kind of processor that it runs on; null if it runs on any."""
    full_bytes: int = Field(ge=0)
    """The size of the model with weights in fp32."""
    files: dict[str, FileRecord] = Field(default_factory=dict)
    """Every file of the folder but this one and its README, by its path."""
    writing: WritingRecord | None = None
    """How it writes texts; null if it does not."""
    proof: ProofRecord | None = None
    """What was measured in the runtime; an export without it is unfinished."""

    @property
    def facts(self) -> FormatFacts:
        """What is known of its format."""
        return FORMATS[self.format]

    @property
    def model_bytes(self) -> int:
        """The size of the model."""
        return sum(record.bytes for name, record in self.files.items() if Path(name).is_relative_to(self.file))


def format_problem(name: str) -> str | None:
    """What is wrong with the name of a format."""
    if name in FORMATS:
        return None
    return f'format is "{name}", but must be one of {", ".join(FORMATS)}.{did_you_mean(name, FORMATS)}'


def records_of(folder: Path) -> dict[str, FileRecord]:
    """Size and SHA-256 of each file of an export by its path, without its manifest and README. Raises OSError."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    named = {str(file.relative_to(folder)): file for file in files}
    return {
        name: FileRecord(bytes=file.stat().st_size, sha256=sha256_of_file(file))
        for name, file in named.items()
        if name not in (MANIFEST, README)
    }


def is_export(folder: Path) -> bool:
    """Whether a folder holds an export."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export. Raises UserError if there is none, or if it is of a later version."""
    file = folder / MANIFEST
    try:
        manifest = parse_record(Manifest, file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not an export: it has no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not an export: {error}") from error
    if manifest.version > VERSION:
        raise UserError(f"{file} is of version {manifest.version}, but this program reads up to {VERSION}; update it")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def verified_manifest(folder: Path) -> Manifest:
    """The manifest of a finished export whose files are all as they were written. Raises UserError.

    Also raises it if the export is for another processor: the program would end at an instruction that is not there.
    """
    manifest = read_manifest(folder)
    made_on, here = manifest.machine, MachineRecord.of_this_machine()
    if made_on is not None and made_on != here:
        missing = sorted({*made_on.instructions} - {*here.instructions})
        raise UserError(
            f"{folder} was compiled for {made_on.processor}, and this machine has {here.processor}"
            f"{' without ' * bool(missing)}{', '.join(missing)}; export the run again on this machine, or into a "
            f"format that runs on any: {', '.join(PORTABLE_FORMATS)}"
        )
    if manifest.proof is None:
        raise UserError(f"{folder} is an unfinished export: nothing was measured in its runtime; export the run again")
    for name, expected in manifest.files.items():
        file = folder / name
        try:
            fault = file_fault(file, expected.bytes, expected.sha256) if file.is_file() else "is missing"
        except OSError as error:
            fault = f"cannot be read: {reason(error)}"
        if fault:
            raise UserError(f"{file} {fault}; restore it, or export the run again")
    return manifest
