"""A tiny Marian checkpoint with the files of those of OPUS-MT: two SentencePiece models and a joint vocabulary."""

import functools
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
import transformers

from pipeline.recipe.overrides import RECIPES

_FOLDERS = []


def write_marian(folder: Path, sources: Iterable[str], targets: Iterable[str], **changes) -> None:
    """Write a checkpoint with random weights, whose tokenizer is trained on the texts.

    As in OPUS-MT the end of a text is token 0, padding is the last token, and also the first of each target.
    """
    folder.mkdir(parents=True)
    pieces = {}
    for side, texts in (("source", sources), ("target", targets)):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_prefix=str(folder / side), vocab_size=90, hard_vocab_limit=False,
            bos_id=-1, minloglevel=2,
        )  # fmt: skip
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
        lines = (folder / f"{side}.vocab").read_text(encoding="utf-8").splitlines()
        pieces |= dict.fromkeys(line.split("\t")[0] for line in lines)
        (folder / f"{side}.vocab").unlink()
    tokens = list(dict.fromkeys(["</s>", "<unk>", *sorted(pieces), "<pad>"]))
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"source_lang": "en", "target_lang": "fr"}))
    write_model(folder, len(tokens), **changes)


def write_model(folder: Path, vocab_size: int, **changes) -> None:
    """Write config and random weights; the library leaves out the positions."""
    import torch

    settings = dict(
        vocab_size=vocab_size, d_model=32, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=47,
        decoder_ffn_dim=47, encoder_layers=2, decoder_layers=2, max_position_embeddings=67, scale_embedding=True,
        activation_function="swish", dropout=0.1, pad_token_id=vocab_size - 1, decoder_start_token_id=vocab_size - 1,
        eos_token_id=0, forced_eos_token_id=0,
    )  # fmt: skip
    config = transformers.MarianConfig(**{**settings, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        transformers.MarianMTModel(config).save_pretrained(folder)


@functools.cache
def marian_of_dates() -> Path:
    """The folder of a checkpoint whose tokenizer knows the bundled dates, made once a process."""
    lines = (RECIPES / "bundled" / "dates" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:400]
    rows = [json.loads(line) for line in lines]
    _FOLDERS.append(tempfile.TemporaryDirectory())  # removed with the process
    folder = Path(_FOLDERS[-1].name) / "marian"
    write_marian(folder, (row["source"] for row in rows), (row["target"] for row in rows))
    return folder
