"""Exports that write texts: token ids are those of the library's own `generate`, greedily and by beam search."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from pipeline.deploy.exported_model import load_model
from pipeline.deploy.manifest import Manifest, TensorRecord, WritingRecord, write_manifest
from pipeline.deploy.readme import loading_code
from pipeline.pytorch.export import write_writer
from pipeline.runs.record import RunIdentity
from tests.helpers.tiny_models import config, random_state

MAX_NEW_TOKENS, END = 13, 7
CLASSES = {"gpt2": "GPT2LMHeadModel", "t5": "T5ForConditionalGeneration"}


@pytest.fixture(scope="module", params=CLASSES)
def both(request, tmp_path_factory):
    """A model of random weights, its export in onnxruntime, and the folder of that."""
    settings = config(request.param, eos_token_id=END)
    model = getattr(transformers, CLASSES[request.param])(settings).eval()
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    with torch.no_grad():
        for name, value in random_state(shapes).items():
            model.get_parameter(name).copy_(torch.from_numpy(value))
    folder = tmp_path_factory.mktemp(request.param)
    graph = write_writer(model, folder / "model", {"max_new_tokens": 1, "num_beams": 1, "length_penalty": 1.0})
    names = ["input_ids", "attention_mask", *(["decoder_input_ids"] if settings.is_encoder_decoder else [])]
    manifest = Manifest(
        format="onnx", file="model", task="any", architecture="any", max_length=64, pad_token_id=0, run_folder="",
        inputs={name: TensorRecord(dtype="int64", axes=["batch", "length"]) for name in names},
        outputs={"logits": TensorRecord(dtype="float32", axes=["batch", "length", 97])},
        run=RunIdentity(recipe="any", framework="torch", attention="stock", seed=0), model_sha256="", versions={},
        full_bytes=graph.full_bytes,
        writing=WritingRecord(
            reads_sources=settings.is_encoder_decoder, start_id=0, end_id=END, past=list(graph.past),
            max_new_tokens=MAX_NEW_TOKENS, num_beams=1, length_penalty=1.0,
        ),
    )  # fmt: skip
    return model, load_model(folder, manifest), folder


def prompts(model, rows, length):
    """Random tokens; the second row has padding before them if a decoder continues them, else behind them."""
    rng = np.random.default_rng(length)
    ids, mask = rng.integers(8, 97, (rows, length)), np.ones((rows, length), np.int64)
    if rows > 1:
        padded = slice(length - 2, None) if model.config.is_encoder_decoder else slice(0, 2)
        mask[1, padded] = ids[1, padded] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.heavy
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 2), (3, 11)])
def test_the_texts_are_those_of_the_library(both, rows, length, beams):
    model, export, _ = both
    inputs = prompts(model, rows, length)
    how = {"max_new_tokens": MAX_NEW_TOKENS, "num_beams": beams, "length_penalty": 1.0}
    expected = model.generate(**{k: torch.from_numpy(v) for k, v in inputs.items()}, **how, do_sample=False).numpy()
    found = export.generate(inputs, how)
    longest = max(found.shape[1], expected.shape[1])
    assert np.array_equal(*(np.pad(ids, ((0, 0), (0, longest - ids.shape[1]))) for ids in (found, expected)))


@pytest.mark.heavy
def test_each_token_is_told_as_it_is_written(both):
    model, export, _ = both
    inputs, told = prompts(model, 3, 11), []
    how = {"max_new_tokens": MAX_NEW_TOKENS, "num_beams": 1, "length_penalty": 1.0}
    ids = export.generate(inputs, how, lambda token: told.append(token.tolist()))
    assert np.array_equal(np.array(told).T, ids[:, -len(told) :]) and 0 < len(told) <= MAX_NEW_TOKENS


@pytest.mark.heavy
def test_the_code_of_its_readme_writes_what_the_library_does(both):
    model, export, folder = both
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(97)}, unk_token="w9"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_manifest(folder, export.manifest)
    code = loading_code(export.manifest, pairs=False, chooses_one=False)
    program = f"import sys\nsys.modules.update(dict.fromkeys(['torch', 'transformers']))\n{code}"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    begin = [] if model.config.is_encoder_decoder else [END]
    ids = torch.tensor([[*begin, *tokenizer.encode("A text.").ids]])
    written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    assert done.stdout.split() == tokenizer.decode(written[0].tolist()).split()
