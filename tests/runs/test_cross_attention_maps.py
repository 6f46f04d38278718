"""Cross-attention maps: which source tokens each token that a model writes was made from, in either framework."""

import numpy as np
import pytest
import torch
import transformers

from pipeline import UserError, attention_maps, finetune, load_recipe, load_run
from pipeline.backend import load_backend
from pipeline.cli.main import execute
from pipeline.comparison import attention_maps as compared_maps
from pipeline.comparison.run_set import read_run
from pipeline.models.library import read_tokenizer
from pipeline.pytorch.library import settings_of_caller_only
from pipeline.runs.attention_figure import draw_attention_maps
from pipeline.runs.attention_maps import WRITING, AttentionMaps, maps_of_model, maps_of_run
from pipeline.training.experiment import prepare, start
from pipeline.utils import processes
from tests.helpers.families import recipe_of, rows_of

FRAMEWORKS = ("torch", "tensorflow")
KINDS = {"t5": "sequence-to-sequence", "marian": "translation"}
MOST_WRITTEN = 11
families = pytest.mark.parametrize("family", KINDS)


def source_of(kind):
    return rows_of(kind, 1, 0)[0]["source"]


def librarys(checkpoint, text):
    """The library's own weights [layers, heads, T, S] and what it writes [T], with its slowest attention."""
    tokenizer = read_tokenizer(checkpoint)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(checkpoint, attn_implementation="eager").eval()
    config = model.config
    settings = transformers.GenerationConfig(
        max_new_tokens=MOST_WRITTEN, num_beams=1, do_sample=False, pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id, decoder_start_token_id=config.decoder_start_token_id,
        bad_words_ids=[[config.pad_token_id]] if config.model_type == "marian" else None,
    )  # fmt: skip
    inputs = tokenizer([text], return_tensors="pt")
    options = {"generation_config": settings}
    with torch.no_grad(), settings_of_caller_only(model, options):
        ids = model.generate(**inputs, **options)
        outputs = model(**inputs, decoder_input_ids=ids[:, :-1], output_attentions=True)
    written = tokenizer.convert_ids_to_tokens(ids[0, 1:].tolist())
    return np.concatenate([layer.numpy() for layer in outputs.cross_attentions]), written


@pytest.mark.slow
@families
def test_maps_are_the_librarys_in_both_frameworks_and_with_both_attentions(family, tmp_path, monkeypatch):
    monkeypatch.setitem(WRITING, "max_new_tokens", MOST_WRITTEN)
    recipe = recipe_of(KINDS[family], tmp_path)
    experiment, text = prepare(recipe), source_of(KINDS[family])
    weights, written = librarys(recipe.checkpoint, text)
    assert weights.shape[2] == len(written) != weights.shape[3]
    for framework in FRAMEWORKS:
        backend = load_backend(framework)
        for attention in ("stock", "handwritten"):
            model = start(experiment, backend, 0, attention).model
            maps = maps_of_model(model, experiment.tokenizer, text, cross=True)
            assert maps.written == maps.queries == written
            assert len(maps.tokens) == weights.shape[3]
            np.testing.assert_allclose(maps.weights, weights, atol=3e-6)
            np.testing.assert_allclose(maps.weights.sum(axis=-1), 1, atol=1e-5)
            assert bool(backend.attention_calls(model)) == (attention == "handwritten"), "left as it was"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cross")
    recipe = recipe_of("translation", folder, changes={"options.prefix": "July ", "data.limit.train": 16})
    return finetune(recipe, attention="handwritten", out=folder / "run")


def test_maps_of_a_run_write_as_its_recipe_says_and_read_its_prefix(run):
    text = source_of("translation")
    maps = maps_of_run(run, text, cross=True)
    tokenizer = read_tokenizer(str(run.path / "model"))
    assert maps.tokens == tokenizer.convert_ids_to_tokens(tokenizer(f"July {text}")["input_ids"])
    assert len(maps.queries) <= 14, "max_new_tokens of the recipe"
    assert (attention_maps(run, text, cross=True) == maps.weights).all()
    assert maps_of_run(run, text).tokens == maps.tokens


def test_a_comparison_draws_the_cross_attention_of_models_that_write(run, monkeypatch):
    monkeypatch.setattr(processes, "call", lambda function, *arguments, framework="": function(*arguments))
    (one,), problems = compared_maps.maps_of_frameworks([read_run(run.path)], source_of("translation"))
    assert not problems
    assert one.written == one.queries and np.shape(one.weights)[2:] == (len(one.queries), len(one.tokens))


def test_the_verb_draws_them(run, tmp_path, capsys):
    words = ["attention-maps", str(run.path), "--text", source_of("translation"), "--cross"]
    assert execute([*words, "--out", str(tmp_path / "maps.png")]) == 0
    maps = maps_of_run(load_run(run.path), source_of("translation"), cross=True)
    counts = f"2 layers, 2 heads, {len(maps.queries)} written tokens, {len(maps.tokens)} read"
    assert counts in capsys.readouterr().out


def size(path):
    """Width and height of a PNG, from its header."""
    header = path.read_bytes()
    return [int.from_bytes(header[at : at + 4], "big") for at in (16, 20)]


@pytest.mark.parametrize("written", [12, 180])
def test_a_figure_is_as_high_as_the_written_tokens_and_as_wide_as_the_read_ones(written, tmp_path):
    maps = AttentionMaps(np.full((1, 1, written, 60), 1 / 60), ["word"] * 60, ["other"] * written)
    draw_attention_maps(maps, tmp_path / "maps.png", "title")
    width, height = size(tmp_path / "maps.png")
    assert (width > 1.5 * height) if written == 12 else (height > 1.2 * width)


def test_a_model_that_only_reads_is_refused_with_the_way_out(tmp_path, capsys):
    small = load_recipe("sentiment_bert", {"data.limit.train": 32, "data.limit.validation": 8, "train.epochs": 1})
    run = finetune(small, out=tmp_path / "run")
    with pytest.raises(UserError, match="a bert has no cross-attention"):
        attention_maps(run, "good", cross=True)
    assert execute(["attention-maps", str(run.path), "--text", "good", "--cross"]) == 2
    assert "with make: CROSS=1" in capsys.readouterr().err
