"""The tokenizer of an export: what Marian's tokenizer becomes has its tokens and its texts."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline import ProofError
from pipeline.deploy.tokenizer import fast_tokenizer, refuse_other_tokens, tokenizer_problem
from tests.helpers.families import prepared, recipe_of
from tests.helpers.marian_checkpoint import marian_of_dates

TEXTS = [
    "the ninth of march 1996",
    "  May\u00a03rd,  1999 ",
    "Tuesday 4 July 2023: ﬁne",
    "日本 the 日 ü ninth\tof march",
    "1 < 2 </s> and <pad>",
    ">>fra<< the ninth of march 1996",
    "of march >>fra",
]


@pytest.fixture
def checkpoint(tmp_path):
    """Marian's files, with the code of a language in the vocabulary."""
    folder = shutil.copytree(marian_of_dates(), tmp_path / "marian")
    tokens = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(tokens | {">>fra<<": len(tokens)}))
    return folder


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_marians_tokenizer_becomes_one_file_with_the_same_tokens_and_texts(checkpoint, tmp_path):
    slow = AutoTokenizer.from_pretrained(checkpoint)
    fast_tokenizer(slow).save_pretrained(tmp_path / "export")
    fast = PreTrainedTokenizerFast.from_pretrained(tmp_path / "export")
    alone = Tokenizer.from_file(str(tmp_path / "export" / "tokenizer.json"))
    for text in TEXTS:
        assert alone.encode(text).ids == slow(text).input_ids, text
        cut = [tokenizer(text, truncation=True, max_length=5).input_ids for tokenizer in (slow, fast)]
        assert cut[0] == cut[1] and len(cut[0]) <= 5
    for ids in np.random.default_rng(3).integers(0, len(slow), (20, 9)):
        assert fast.decode(ids, skip_special_tokens=True) == slow.decode(ids, skip_special_tokens=True)
    assert (fast.pad_token_id, fast.eos_token_id) == (slow.pad_token_id, slow.eos_token_id)


def test_a_tokenizer_with_other_tokens_or_texts_is_not_proved(tmp_path):
    experiment, *_ = prepared(recipe_of("translation", tmp_path))
    fast_tokenizer(experiment.tokenizer).save_pretrained(tmp_path / "export")
    file, written = tmp_path / "export" / "tokenizer.json", [np.arange(2, 90)[None]]
    refuse_other_tokens(experiment, tmp_path / "export", written)
    right = json.loads(file.read_text())
    right["decoder"]["replacement"] = "x"
    file.write_text(json.dumps(right))
    with pytest.raises(ProofError, match="joins tokens to .* but the run's tokenizer to"):
        refuse_other_tokens(experiment, tmp_path / "export", written)
    right["model"]["vocab"][5:] = right["model"]["vocab"][:4:-1]
    file.write_text(json.dumps(right))
    with pytest.raises(ProofError, match="other tokens than the run's tokenizer for validation row 0: "):
        refuse_other_tokens(experiment, tmp_path / "export", written)


def test_tokenizers_that_are_not_converted_are_refused_by_what_they_are(checkpoint, tmp_path):
    from sentencepiece import sentencepiece_model_pb2 as spm

    assert tokenizer_problem(checkpoint) is None
    (checkpoint / "target_vocab.json").write_text("{}")
    assert "have vocabularies of their own" in tokenizer_problem(checkpoint)
    (checkpoint / "target_vocab.json").unlink()
    model = spm.ModelProto.FromString((checkpoint / "source.spm").read_bytes())
    model.trainer_spec.model_type = 2
    (checkpoint / "source.spm").write_bytes(model.SerializeToString())
    assert "source.spm is no unigram model" in tokenizer_problem(checkpoint)
    assert "the library writes none" in tokenizer_problem(tmp_path)
