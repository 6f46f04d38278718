"""T5 checkpoints of before tokenizer.json, which bring only the model of SentencePiece."""

import json
import shutil

import sentencepiece

from pipeline.models.checkpoint import load_tokenizer
from pipeline.recipe.loading import load_recipe
from pipeline.recipe.overrides import RECIPES


def test_a_tokenizer_that_is_only_a_spiece_model_is_read(tmp_path):
    dates = RECIPES / "bundled" / "dates"
    texts = [json.loads(line)["source"] for line in (dates / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(tmp_path / "spiece"), vocab_size=60, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2, character_coverage=0.99,
    )  # fmt: skip
    shutil.copy(dates / "t5" / "config.json", tmp_path / "config.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    tokenizer = load_tokenizer(load_recipe("dates_t5", {"checkpoint": str(tmp_path)}))
    reference = sentencepiece.SentencePieceProcessor(str(tmp_path / "spiece.model"))
    for text in (*texts[:50], "a snowman ☃ here"):
        assert tokenizer(text)["input_ids"] == [*reference.encode(text), 1]
