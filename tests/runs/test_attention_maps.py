"""Attention maps from runs and models of either framework."""

import numpy as np
import pytest

from pipeline import UserError, attention_maps, finetune
from pipeline.cli.main import execute
from pipeline.runs.attention_figure import draw_attention_maps
from pipeline.runs.attention_maps import AttentionMaps
from tests.helpers.framework_drivers import Torch

TEXT = "The room was not clean, but the staff was kind."


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from pipeline import load_recipe

    small = load_recipe("sentiment_bert", {"data.limit.train": 64, "data.limit.validation": 16, "train.epochs": 1})
    return finetune(small, out=tmp_path_factory.mktemp("maps") / "run")


def test_maps_of_a_run_are_the_same_in_both_frameworks(run):
    first, second = (attention_maps(run, TEXT, framework=framework) for framework in ("torch", "tensorflow"))
    num_layers, num_heads, queries, keys = first.shape
    assert num_layers >= 2 and num_heads >= 2 and queries == keys
    assert first.sum(axis=-1) == pytest.approx(np.ones(first.shape[:3]), abs=1e-5)
    assert np.abs(first - second).max() <= 1e-5
    assert first.std() > 1e-3


def test_maps_of_a_model_object_are_those_of_the_library_and_leave_it_as_it_was(run):
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(run.path / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        run.path / "model", attn_implementation="eager"
    ).eval()
    names = [name for name, _ in model.named_modules()]
    maps = attention_maps(model, TEXT, tokenizer=tokenizer)
    with torch.no_grad():
        stock = model(**tokenizer([TEXT], return_tensors="pt"), output_attentions=True).attentions
    # Sums of fp32 in another order: with weights trained on one thread the largest difference was 1.13e-6.
    assert maps == pytest.approx(torch.cat(stock).numpy(), abs=3e-6)
    assert [name for name, _ in model.named_modules()] == names


def test_the_picture_is_drawn(run, tmp_path, capsys):
    assert execute(["attention", str(run.path), "--text", TEXT, "--out", str(tmp_path / "maps.png")]) == 0
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    assert "layers" in capsys.readouterr().out


def test_dollar_signs_in_a_text_are_no_formula(tmp_path):
    maps = AttentionMaps(np.full((1, 1, 2, 2), 0.5), ["$$", r"$\frac$"])
    draw_attention_maps(maps, tmp_path / "maps.png", title=r"from $5 to $6, $\frac$")
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")


def test_any_text_is_drawn_as_one_and_a_long_one_in_part(tmp_path):
    """Without a warning, which would be an error here: for letters that the font lacks, or labels that are too long."""
    tokens = [
        "<script>",
        "]]>",
        "&#x3c;",
        "a\x00\x1b[31m\x07",
        "\u202eevil",
        "\n",
        "",
        "a" * 5000,
        "漢",
        "\U0001f600",
        "\\",
        "_",
    ]
    tokens = (tokens * 20)[:201]
    maps = AttentionMaps(np.full((1, 1, 201, 201), 1 / 201), tokens)
    draw_attention_maps(maps, tmp_path / "maps.png", title="\x1b[31m]]>" + "漢" * 500)
    content = (tmp_path / "maps.png").read_bytes()
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))  # of the header of a PNG
    assert content.startswith(b"\x89PNG") and 1000 < max(width, height) <= 12_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--text", "a"], "not a finished run"),
        (["{run}", "--text", "a", "--out", "no/x.png"], "name a file in a folder that is there"),
    ],
)
def test_what_cannot_be_drawn_is_reported(run, capsys, arguments, message):
    assert execute(["attention", *(argument.replace("{run}", str(run.path)) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_tokenizer_and_an_object_that_is_no_model_are_refused():
    with pytest.raises(UserError, match="needs its tokenizer"):
        attention_maps(Torch.build("bert"), TEXT)
    with pytest.raises(UserError, match="not dict"):
        attention_maps({}, TEXT)
