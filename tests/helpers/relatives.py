"""Tiny checkpoints of BERT's relatives, with random weights and tokenizers of their families' kinds."""

import functools
import shutil
import tempfile
from pathlib import Path

import transformers
from tokenizers import ByteLevelBPETokenizer, processors

from pipeline.recipe.overrides import RECIPES
from tests.helpers.families import sentences

_FOLDERS = []


@functools.cache
def checkpoint_of(family: str, num_positions: int = 67) -> str:
    """The folder of a checkpoint that knows the bundled reviews, made once a process."""
    import torch

    _FOLDERS.append(tempfile.TemporaryDirectory())  # removed with the process
    folder = Path(_FOLDERS[-1].name) / family
    folder.mkdir()
    config = {"distilbert": _distilbert, "roberta": _roberta}[family](folder)
    config.update({"max_position_embeddings": num_positions, "num_labels": 2})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return str(folder)


def _distilbert(folder: Path) -> transformers.DistilBertConfig:
    """BERT's own tokenizer, as some checkpoints have it: it gives token types, which the model does not take."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(RECIPES / "bundled" / "sentiment" / "bert" / name, folder)
    words = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    return transformers.DistilBertConfig(vocab_size=words, dim=32, n_heads=2, n_layers=2, hidden_dim=47)


def _roberta(folder: Path) -> transformers.RobertaConfig:
    """A tokenizer of bytes with RoBERTa's special tokens."""
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(sentences(300), vocab_size=400, special_tokens=special, show_progress=False)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    # Versions of transformers do not agree on how the class is given a vocabulary.
    bpe.save(str(folder / "tokenizer.json"))
    tokenizer = transformers.RobertaTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.save_pretrained(folder)
    return transformers.RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_attention_heads=2, num_hidden_layers=2, intermediate_size=47,
        type_vocab_size=1,
    )  # fmt: skip
