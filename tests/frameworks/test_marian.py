"""What the library's two Marian models do differently by themselves, and the pipeline makes alike or refuses."""

import json

import numpy as np
import pytest
import sentencepiece
import transformers
from safetensors.numpy import load_file

from pipeline.backend import load_backend
from pipeline.models.checkpoint import fit_problems, load_config, load_tokenizer, save_checkpoint
from pipeline.models.initialization import random_weights
from pipeline.models.transformer import sinusoids
from pipeline.recipe.schema import Train
from pipeline.runs.attention_maps import maps_of_model
from pipeline.runs.directory import MODEL_CONTENTS
from pipeline.tasks.tokenized_cache import tokenizer_rules
from pipeline.training.experiment import prepare, start
from pipeline.utils.errors import UserError
from tests.helpers.families import prepared, recipe_of, rows_of
from tests.helpers.marian_checkpoint import marian_of_dates, write_model
from tests.helpers.one_framework import IS_VERSION_5
from tests.helpers.tiny_models import config, random_state, relative

HEAD = "AutoModelForSeq2SeqLM"
FRAMEWORKS = ("torch", "tensorflow")
PADDING = 96


def writer(framework):
    """A model whose weights make it write several tokens, and whose score of padding is the highest."""
    backend = load_backend(framework)
    model = backend.build_model(HEAD, config("marian"), "fp32", 0)
    rng, weights = np.random.default_rng(12), random_state(backend.weight_shapes(model))
    for name, value in weights.items():
        if name.endswith(("fc1.weight", "fc2.weight", "shared.weight")):
            scale = 0.3 if name.endswith("shared.weight") else 1.0
            weights[name] = (scale * rng.normal(size=value.shape)).astype(np.float32)
        if name.endswith("embed_positions.weight"):
            weights[name] = sinusoids(*value.shape)
    weights["final_logits_bias"] = (2.0 * (np.arange(97) == 0) + 5.0 * (np.arange(97) == PADDING))[None].astype("f4")
    backend.set_weights(model, weights)
    return backend, model


def sources():
    """Seven texts, two of them padded."""
    mask = np.ones((7, 11), np.int32)
    mask[2, 7:] = mask[5, :3] = 0
    return {
        "input_ids": np.random.default_rng(29).integers(2, 96, (7, 11)).astype(np.int32),
        "attention_mask": mask,
    }


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 4])
def test_both_frameworks_write_the_same_tokens_and_never_padding(num_beams):
    written = []
    for framework in FRAMEWORKS:
        backend, model = writer(framework)
        settings = dict(max_new_tokens=23, num_beams=num_beams, length_penalty=1.0)
        written.append(backend.Predictor(model).generate(sources(), settings))
    texts = [[[token for token in row[1:].tolist() if token != PADDING] for row in each] for each in written]
    # At the length limit PyTorch compares unfinished beams with finished ones, and TensorFlow drops them.
    compared = [pair for pair in zip(*texts, strict=True) if num_beams == 1 or pair[0][-1] == 0]
    assert len(compared) >= 4 and all(one == two for one, two in compared)
    assert len({token for text in texts[0] for token in text}) > 3
    # Padding comes only after the end of a text, token 0.
    assert all((row[1:][np.cumsum(row[1:] == 0) == 0] != PADDING).all() for row in written[0])


def checkpoint_weights():
    """The weights of the checkpoint as the library reads them, each once."""
    state = transformers.MarianMTModel.from_pretrained(marian_of_dates()).state_dict()
    copies = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
    return {name: value.numpy() for name, value in state.items() if name not in copies}


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["stock", "handwritten"])
def test_steps_train_the_first_token_and_no_constant_in_either_framework(attention, tmp_path):
    experiment = prepare(recipe_of("translation", tmp_path, changes={"train.dropout": 0.0}))
    before, after = checkpoint_weights(), {}
    for framework in FRAMEWORKS:
        backend = load_backend(framework)
        model = start(experiment, backend, 0, attention).model
        learner = backend.Learner(model, Train(weight_decay=0.1), np.full(2, 1e-2))
        plan = experiment.training_plan(0, 0)[:2]
        learner.fit([experiment.features(plan, 0, 0, 0)], lambda _: None, lambda _: False)
        backend.restore_attention(model)
        after[framework] = backend.get_weights(model)
        unmoved = {name for name, value in after[framework].items() if np.array_equal(value, before[name])}
        assert unmoved == {
            "final_logits_bias", "model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight",
        }  # fmt: skip
    first = experiment.config.pad_token_id
    rows = {name: weights["model.shared.weight"][first] for name, weights in after.items()}
    assert relative(rows["tensorflow"], rows["torch"]) <= 1e-4
    assert np.abs(rows["torch"] - before["model.shared.weight"][first]).max() > 1e-3


def test_a_checkpoint_may_lack_positions_which_are_then_those_of_the_library(framework, tmp_path):
    assert not any("positions" in name for name in load_file(marian_of_dates() / "model.safetensors"))
    backend, expected = load_backend(framework), checkpoint_weights()
    weights = backend.get_weights(start(prepare(recipe_of("translation", tmp_path)), backend, 0).model)
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    np.testing.assert_array_equal(weights["model.decoder.embed_positions.weight"], sinusoids(67, 32))


def test_weights_drawn_from_the_seed_have_the_positions_too(framework):
    backend = load_backend(framework)
    model = backend.build_model(HEAD, config("marian"), "fp32", 0)
    weights = random_weights(backend.weight_shapes(model), model.config, 0)
    np.testing.assert_array_equal(weights["model.encoder.embed_positions.weight"], sinusoids(89, 14))
    assert not weights["final_logits_bias"].any() and not weights["model.shared.weight"][PADDING].any()
    assert weights["model.shared.weight"].std() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    "setting",
    [
        dict(encoder_layerdrop=0.1), dict(decoder_layerdrop=0.2), dict(share_encoder_decoder_embeddings=False),
        dict(tie_word_embeddings=False),
    ],
    ids=lambda setting: next(iter(setting)),
)  # fmt: skip
def test_settings_in_which_the_frameworks_differ_are_refused_by_name(setting, tmp_path):
    ((name, value),) = setting.items()
    config("marian", **setting).save_pretrained(tmp_path)
    recipe = recipe_of("translation", tmp_path, changes={"checkpoint": str(tmp_path)})
    message = f"{name} is {value!r}, but must be .*: otherwise the library's PyTorch and TensorFlow compute different"
    with pytest.raises(UserError, match=message):
        load_config(recipe)


def test_lengths_over_the_models_positions_are_refused_of_sources_and_targets(tmp_path):
    lengths = {"data.max_length": 68, "options.max_target_length": 69, "options.max_new_tokens": 70}
    recipe = recipe_of("translation", tmp_path, changes=lengths)
    problems = fit_problems(recipe, load_config(recipe), load_tokenizer(recipe), ("encoder-decoder",))
    assert [problem.split(";")[0] for problem in problems] == [
        f"{name} is {length}, but the checkpoint has 67 positions" for name, length in lengths.items()
    ]
    fitting = recipe.override({"data.max_length": 67, "options.max_target_length": 67, "options.max_new_tokens": 67})
    assert fit_problems(fitting, load_config(recipe), load_tokenizer(recipe), ("encoder-decoder",)) == []


def test_a_saved_model_keeps_what_the_config_says_of_generation_and_all_files_of_the_tokenizer(tmp_path):
    config = transformers.AutoConfig.from_pretrained(marian_of_dates(), num_beams=4, bad_words_ids=[[5]])
    tokenizer = load_tokenizer(recipe_of("translation", tmp_path))
    save_checkpoint(tmp_path / "model", checkpoint_weights(), config, tokenizer, "card")
    saved = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    if not IS_VERSION_5:  # whose configurations say nothing of generation
        assert (saved["num_beams"], saved["bad_words_ids"]) == (4, [[5]])
    for name in ("source.spm", "target.spm"):
        assert (tmp_path / "model" / name).read_bytes() == (marian_of_dates() / name).read_bytes()
    assert {file.name for file in (tmp_path / "model").iterdir()} <= MODEL_CONTENTS


def test_attention_maps_are_those_of_the_encoder_and_the_same_in_both_frameworks(tmp_path):
    experiment, maps = prepare(recipe_of("translation", tmp_path)), []
    text = rows_of("translation", 1, 0)[0]["source"]
    for framework in FRAMEWORKS:
        model = start(experiment, load_backend(framework), 0).model
        maps.append(maps_of_model(model, experiment.tokenizer, text))
    assert maps[0].tokens == maps[1].tokens
    assert maps[0].weights.shape == (2, 2, len(maps[0].tokens), len(maps[0].tokens))
    np.testing.assert_allclose(maps[1].weights, maps[0].weights, atol=1e-6)
    np.testing.assert_allclose(maps[0].weights.sum(axis=-1), 1, atol=1e-6)


# --- the tokenizer, which has no fast version


def pieces(side, text):
    """The ids of a text by SentencePiece alone, with the end of the text."""
    folder = marian_of_dates()
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    processor = sentencepiece.SentencePieceProcessor(str(folder / f"{side}.spm"))
    return [*(vocabulary.get(piece, vocabulary["<unk>"]) for piece in processor.encode(text, out_type=str)), 0]


def test_sources_and_targets_have_the_tokens_of_their_own_pieces(tmp_path):
    _, _, examples = prepared(recipe_of("translation", tmp_path))
    rows = rows_of("translation", 48, 0)
    for row, given in enumerate(rows):
        assert examples.features["input_ids"][row].tolist() == pieces("source", given["source"])
        assert examples.labels[row].tolist() == pieces("target", given["target"])
    assert any(pieces("source", row["target"]) != pieces("target", row["target"]) for row in rows)


def test_long_sources_and_targets_are_cut_before_their_end_and_counted(tmp_path):
    changes = {"data.max_length": 5, "options.max_target_length": 4}
    _, _, examples = prepared(recipe_of("translation", tmp_path, changes=changes))
    rows = rows_of("translation", 48, 0)
    whole = [pieces("source", row["source"]) for row in rows], [pieces("target", row["target"]) for row in rows]
    for row in range(len(rows)):
        for tokens, most, found in zip(whole, (5, 4), (examples.features["input_ids"], examples.labels), strict=True):
            expected = tokens[row] if len(tokens[row]) <= most else [*tokens[row][: most - 1], 0]
            assert found[row].tolist() == expected
    assert examples.counts["truncated"] == sum(len(tokens) > 5 for tokens in whole[0]) > 0
    assert examples.counts["targets truncated"] == sum(len(tokens) > 4 for tokens in whole[1]) > 0


@pytest.mark.parametrize("file", ["source.spm", "target.spm", "vocab.json"])
def test_another_file_of_the_tokenizer_is_another_tokenizer(file, tmp_path):
    def rules_of(folder):
        return tokenizer_rules(load_tokenizer(recipe_of("translation", tmp_path, changes={"checkpoint": str(folder)})))

    folder = tmp_path / "other"
    folder.mkdir()
    for each in marian_of_dates().iterdir():
        (folder / each.name).write_bytes(each.read_bytes())
    assert rules_of(folder) == rules_of(marian_of_dates())
    if file == "vocab.json":
        vocabulary = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps(dict(zip(vocabulary, [0, 1, 3, 2, *range(4, 999)], strict=False))))
    else:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["another text", "of other words"]), model_prefix=str(tmp_path / "m"), vocab_size=20,
            hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
        (folder / file).write_bytes((tmp_path / "m.model").read_bytes())
    assert rules_of(folder) != rules_of(marian_of_dates())


def test_another_tokenizer_without_a_fast_version_is_refused(tmp_path):
    write_model(tmp_path / "model", 97)
    (tmp_path / "model" / "vocab.txt").write_text("[PAD]\n[UNK]\n", encoding="utf-8")
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ProphetNetTokenizer"}))
    (tmp_path / "model" / "prophetnet.tokenizer").write_text("[PAD]\n[UNK]\n[SEP]\n[CLS]\n[MASK]\n", encoding="utf-8")
    recipe = recipe_of("translation", tmp_path, changes={"checkpoint": str(tmp_path / "model")})
    with pytest.raises(UserError, match="has no fast tokenizer"):
        load_tokenizer(recipe)
