"""Writes the tokenizer of an export as tokenizer.json, which the `tokenizers` library reads alone.

Most runs have that file. Marian's tokenizer is a pair of SentencePiece models with one vocabulary, for which the
library writes none: here the model of sources becomes one, with the vocabulary's numbers, and all validation sources
must get the tokens that the run's tokenizer gives them.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentencepiece import sentencepiece_model_pb2 as spm
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import MarianTokenizer, PreTrainedTokenizerFast

from pipeline.data.splits import read_splits
from pipeline.training.experiment import Experiment
from pipeline.utils.errors import ProofError
from pipeline.utils.text import one_line, shorten

# protobuf makes the class while the module is imported, where no type checker sees it.
_ModelProto = spm.ModelProto  # pyright: ignore[reportAttributeAccessIssue]
# What an export keeps of a run's tokenizer, if it is there.
_KEPT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# SentencePiece's numbers of what is converted: pieces by their probability; normal pieces, and those of a user.
_UNIGRAM, _PIECES = 1, (1, 4)
# What each character of a piece costs that only targets have: a source is split into such pieces if nothing else fits.
_FOREIGN = -1_000.0


def tokenizer_problem(folder: Path) -> str | None:
    """Why the tokenizer in a run's model folder cannot be exported."""
    if (folder / "tokenizer.json").is_file():
        return None
    if not (folder / "source.spm").is_file():
        return "an export reads texts by tokenizer.json, and the library writes none for the tokenizer of this run"
    if (folder / "target_vocab.json").is_file():
        return "its sources and targets have vocabularies of their own, and tokenizer.json has one"
    if _ModelProto.FromString((folder / "source.spm").read_bytes()).trainer_spec.model_type != _UNIGRAM:
        return "source.spm is no unigram model, the only kind that is converted into tokenizer.json"
    return None


def write_tokenizer(experiment: Experiment, model_folder: Path, folder: Path) -> None:
    """Write the files of a run's tokenizer into the folder of an export."""
    if (model_folder / "tokenizer.json").is_file():
        for name in _KEPT:
            if (source := model_folder / name).exists():
                shutil.copyfile(source, folder / name)
    else:
        assert isinstance(experiment.tokenizer, MarianTokenizer), "the only one without tokenizer.json that is exported"
        fast_tokenizer(experiment.tokenizer).save_pretrained(folder)


def fast_tokenizer(slow: MarianTokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer of a Marian checkpoint, which splits sources and joins the tokens of targets as `slow` does."""
    source = _ModelProto.FromString(slow.spm_source.serialized_model_proto())
    scores = {piece.piece: piece.score for piece in source.pieces if piece.type in _PIECES}
    tokens = sorted(slow.encoder, key=slow.encoder.__getitem__)
    pieces = [(token, scores.get(token, _FOREIGN * len(token))) for token in tokens]
    found = Tokenizer(Unigram(pieces, unk_id=slow.unk_token_id))
    spaces = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), " ")]
    charsmap = source.normalizer_spec.precompiled_charsmap
    found.normalizer = normalizers.Sequence([*([normalizers.Precompiled(charsmap)] if charsmap else []), *spaces])
    found.pre_tokenizer, found.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    end = slow.eos_token
    found.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, slow.eos_token_id)])
    found.add_tokens([AddedToken(code, normalized=False) for code in slow.supported_language_codes])
    special = {"unk_token": slow.unk_token, "eos_token": end, "pad_token": slow.pad_token}
    return PreTrainedTokenizerFast(
        tokenizer_object=found, model_max_length=slow.model_max_length, clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"], **special,
    )  # fmt: skip


def refuse_other_tokens(experiment: Experiment, folder: Path, written: Iterable[NDArray]) -> None:
    """Raise ProofError unless an export's tokenizer reads all validation sources as the run's, and writes its texts.

    `written` are token ids [B, T] that the run's model wrote.
    """
    if experiment.tokenizer.is_fast:
        return
    ours, theirs = copy.copy(experiment.task), experiment.task
    ours.setup(experiment.config, PreTrainedTokenizerFast.from_pretrained(folder))
    rows = read_splits(experiment.recipe, theirs.required, theirs.optional)["validation"]
    found, expected = (task.encode(rows).features["input_ids"] for task in (ours, theirs))
    for i in range(len(rows)):
        if not np.array_equal(found[i], expected[i]):
            text = one_line(shorten(str(rows[i]["source"]), 60))
            raise ProofError(f"tokenizer.json has other tokens than the run's tokenizer for validation row {i}: {text}")
    for ids in (row for batch in written for row in batch):
        if ours.text_of(ids) != theirs.text_of(ids):
            texts = [one_line(shorten(task.text_of(ids), 60)) for task in (ours, theirs)]
            raise ProofError(f"tokenizer.json joins tokens to {texts[0]!r}, but the run's tokenizer to {texts[1]!r}")
