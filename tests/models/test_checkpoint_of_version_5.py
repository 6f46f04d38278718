"""Checkpoints as transformers 5 saves them are read, or explained in one sentence."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from pipeline.models.checkpoint import load_tokenizer
from pipeline.models.initialization import complete_weights
from pipeline.models.library import save_tokenizer
from pipeline.recipe.loading import load_recipe
from pipeline.utils.errors import UserError
from tests.helpers.checkpoints import changed_checkpoint
from tests.helpers.tiny_models import config

RECIPES = ("sentiment_bert", "stories_gpt2", "dates_t5")
TEXT = "The room was clean on 3 March."
# What the parts of a tokenizer treat otherwise than spaces between words.
ODD = "The\u200b room\x00 was clean, Tom."
# The keys that version 5.24 wrote for these three tokenizers, beside those of version 4.
OF_VERSION_5 = {"backend": "tokenizers", "is_local": True, "local_files_only": False}


def assert_opens_as_it_is(tokenizer, recipe, folder):
    """The library itself makes of a saved tokenizer, beside the configuration of its model, what it was."""
    save_tokenizer(tokenizer, folder)
    shutil.copy(f"{recipe.checkpoint}/config.json", folder)
    opened = AutoTokenizer.from_pretrained(folder)
    assert dict(opened(TEXT, ODD)) == dict(tokenizer(TEXT, ODD))
    ids = tokenizer(ODD)["input_ids"]
    assert opened.decode(ids) == tokenizer.decode(ids)
    for name in ("special_tokens_map", "all_special_tokens", "model_max_length", "padding_side", "truncation_side"):
        assert getattr(opened, name) == getattr(tokenizer, name), name


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("extra", [["<one>", "<two>"], [{"content": "<one>", "special": True}, "<two>"], []], ids=str)
@pytest.mark.parametrize("tokenizer_class", ["TokenizersBackend", None], ids=["plain", "of the family"])
def test_its_tokenizers_give_the_same_ids_and_keep_their_special_tokens(name, extra, tokenizer_class, tmp_path):
    recipe = load_recipe(name)
    expected = load_tokenizer(recipe)
    changes = OF_VERSION_5 | {"extra_special_tokens": extra, "additional_special_tokens": None}
    changes |= {"tokenizer_class": tokenizer_class} if tokenizer_class else {}
    tokenizer = load_tokenizer(changed_checkpoint(recipe, tmp_path / "checkpoint", tokenizer=changes))
    assert tokenizer(TEXT)["input_ids"] == expected(TEXT)["input_ids"]
    assert tokenizer.pad_token_id == expected.pad_token_id
    assert {"<one>", "<two>"} & set(tokenizer.all_special_tokens) == ({"<one>", "<two>"} if extra else set())
    assert_opens_as_it_is(tokenizer, recipe, tmp_path / "saved")


@pytest.mark.parametrize(
    ("name", "part", "changes"),
    [
        ("sentiment_bert", "normalizer", {"clean_text": False}),
        ("sentiment_bert", "normalizer", {"type": "Prepend", "prepend": "the "}),
        ("sentiment_bert", "pre_tokenizer", {"type": "WhitespaceSplit"}),
        ("sentiment_bert", "post_processor", {"type": "BertProcessing", "cls": ["[SEP]", 3], "sep": ["[CLS]", 2]}),
        ("sentiment_bert", "model", {"max_input_chars_per_word": 4}),
        ("stories_gpt2", "normalizer", {"type": "Lowercase"}),
        ("stories_gpt2", "pre_tokenizer", {"type": "WhitespaceSplit"}),
        ("dates_t5", "pre_tokenizer", {"type": "WhitespaceSplit"}),
    ],
    ids=str,
)
def test_a_tokenizer_is_what_its_file_says(name, part, changes, tmp_path):
    """Version 5 would make it anew from the vocabulary."""
    recipe = changed_checkpoint(load_recipe(name), tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content[part] = changes if "type" in changes else content[part] | changes
    assert Tokenizer.from_file(str(file)).encode(ODD).ids != Tokenizer.from_str(json.dumps(content)).encode(ODD).ids
    file.write_text(json.dumps(content), encoding="utf-8")
    tokenizer = load_tokenizer(recipe)
    assert tokenizer(ODD)["input_ids"] == Tokenizer.from_file(str(file)).encode(ODD).ids
    assert_opens_as_it_is(tokenizer, recipe, tmp_path / "saved")


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_that_does_not_say_of_which_kind_its_model_is_gives_the_same_tokenizer(name, tmp_path):
    """As those of google-t5/t5-small, openai-community/gpt2 and distilbert/distilbert-base-uncased on the Hub."""
    recipe = changed_checkpoint(load_recipe(name), tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["model"]["type"]
    file.write_text(json.dumps(content), encoding="utf-8")
    tokenizer, expected = load_tokenizer(recipe), load_tokenizer(load_recipe(name))
    assert type(tokenizer) is type(expected) and tokenizer.special_tokens_map == expected.special_tokens_map
    assert dict(tokenizer(TEXT, TEXT)) == dict(expected(TEXT, TEXT))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("sentiment_bert", {"do_lower_case": False}),
        ("sentiment_bert", {"strip_accents": False}),
        ("stories_gpt2", {"add_prefix_space": True}),
    ],
    ids=str,
)
def test_settings_of_a_tokenizer_beside_its_file_have_an_effect(name, setting, tmp_path):
    recipe, text = load_recipe(name), "The room was cl\u00e9an."
    changed = load_tokenizer(changed_checkpoint(recipe, tmp_path / "checkpoint", tokenizer=setting))
    file = Tokenizer.from_file(str(tmp_path / "checkpoint" / "tokenizer.json"))
    assert changed(text)["input_ids"] != load_tokenizer(recipe)(text)["input_ids"] == file.encode(text).ids
    assert_opens_as_it_is(changed, recipe, tmp_path / "saved")


@pytest.mark.parametrize("has_file", [True, False])
def test_a_bert_of_which_no_file_says_whether_it_keeps_capitals_keeps_none(has_file, tmp_path):
    """As in 4.57; version 5.2 would keep them."""
    own = load_recipe("sentiment_bert")
    recipe = changed_checkpoint(own, tmp_path / "checkpoint", tokenizer={"do_lower_case": None})
    if not has_file:
        (tmp_path / "checkpoint" / "tokenizer.json").unlink()
    assert load_tokenizer(recipe)(TEXT)["input_ids"] == load_tokenizer(own)(TEXT)["input_ids"]


@pytest.mark.parametrize(
    ("family", "embedding", "output", "head"),
    [
        ("t5", "shared.weight", "lm_head.weight", None),
        ("gpt2", "transformer.wte.weight", "lm_head.weight", "score.weight"),
        ("bert", "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "classifier.weight"),
        ("distilbert", "distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight", "qa_outputs.weight"),
        ("roberta", "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight", "classifier.dense.weight"),
    ],
    ids=["t5", "gpt2", "bert", "distilbert", "roberta"],
)
def test_an_output_matrix_that_its_config_calls_tied_is_not_dropped_in_silence(family, embedding, output, head):
    expected = {embedding: (97, 13)}
    weights = {embedding: np.ones((97, 13), np.float32), output: np.ones((97, 13), np.float32)}
    recipe = load_recipe("dates_t5")
    assert list(complete_weights(recipe, weights, expected, config(family), 0)) == [embedding]
    weights[output][5, 7] = 2
    with pytest.raises(UserError, match=f"{output} is not {embedding}, but tie_word_embeddings says so"):
        complete_weights(recipe, weights, expected, config(family), 0)
    if head is None:
        return
    # A model that classifies reads no output matrix.
    classifier = expected | {head: (3, 13)}
    assert list(complete_weights(recipe, weights, classifier, config(family), 0)) == list(classifier)
