"""Exports: what the runtimes answer, what an export's folder holds, and faults that the proof must catch."""

import ast
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline import ProofError, UserError, export_run, finetune, load_recipe, predict
from pipeline.backend import WrittenGraph
from pipeline.cli.main import execute
from pipeline.deploy.answering import open_export
from pipeline.deploy.manifest import read_manifest, records_of, write_manifest
from pipeline.deploy.proof import answer_of_run, measure, refuse_unproved, validation_of
from pipeline.deploy.serving.served_model import ServedModel
from pipeline.runs.prediction import predict_rows
from tests.helpers.families import recipe_of, sentences

BLOCKED = ("transformers", "torch", "tensorflow", "tf_keras", "pipeline")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return finetune(recipe_of("single-label", folder), out=folder / "run")


@pytest.fixture(scope="module")
def onnx(run, tmp_path_factory):
    (export,) = export_run(run, "onnx", out=tmp_path_factory.mktemp("exports"))
    return export


@pytest.fixture(scope="module")
def reference(run):
    return answer_of_run(str(run.path))


@pytest.mark.heavy
def test_an_export_has_the_logits_of_the_stock_model(run, onnx):
    tokenizer = AutoTokenizer.from_pretrained(run.path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(run.path / "model").eval()
    batch = tokenizer(sentences(7, seed=1), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits.numpy()
    found = open_export(onnx.path).model.run({name: value.numpy() for name, value in batch.items()})
    assert np.abs(found["logits"] - expected).max() < 1e-5
    assert onnx.manifest.labels == list(model.config.id2label.values())


@pytest.mark.heavy
def test_an_export_predicts_what_its_run_does(run, onnx, capsys):
    texts = sentences(40, seed=1)
    ours, theirs = list(predict_rows(open_export(onnx.path), texts)), list(predict(run, texts))
    for line, expected in zip(ours, theirs, strict=True):
        assert line.pop("score") == pytest.approx(expected.pop("score"), abs=2e-6)
        assert line == expected
    assert execute(["predict", str(onnx.path), "--text", texts[0]]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"] == theirs[0]["prediction"]


@pytest.mark.heavy
def test_an_export_is_served_with_the_answers_of_its_run(run, onnx, capsys):
    opened, texts = open_export(onnx.path), sentences(7, seed=1)
    model = ServedModel(opened.task, opened.predictor(), "tiny", "twinstep_onnx")
    answers = model.answer([{"text": text} for text in texts])
    for answer, expected in zip(answers, predict(run, texts), strict=True):
        assert answer.prediction.pop("score") == pytest.approx(expected.pop("score"), abs=2e-6)
        assert answer.prediction == expected
        tokens = opened.tokenizer(expected["text"], truncation=True, max_length=32, return_tensors="np")
        (outputs,) = model.run_tokens([{name: values[0] for name, values in tokens.items()}])
        assert outputs["label"].item() == expected["prediction"]
        assert np.abs(outputs["logits"] - answer.output).max() < 1e-5
    assert execute(["serve", str(onnx.path), "--framework", "torch"]) == 2
    assert "leave the framework out" in capsys.readouterr().err


@pytest.mark.heavy
def test_the_code_in_its_readme_runs_with_the_runtime_alone(run, onnx):
    (code,) = re.findall(r"```python\n(.*?)```", (onnx.path / "README.md").read_text(encoding="utf-8"), flags=re.S)
    program = f"import sys\nsys.modules.update(dict.fromkeys({BLOCKED}))\n{code}"
    done = subprocess.run([sys.executable, "-c", program], cwd=onnx.path, capture_output=True, text=True, check=True)
    expected = [line["prediction"] for line in predict(run, ["One text.", "And a second text."])]
    assert ast.literal_eval(done.stdout) == expected


@pytest.mark.heavy
def test_the_manifest_says_what_was_measured_and_of_which_files(onnx):
    manifest = read_manifest(onnx.path)
    assert manifest.proof.rows == 16 and manifest.proof.agreement == 1
    assert 0 < manifest.proof.largest_difference < 1e-5
    assert manifest.proof.shapes == [[1, 1], [1, 2], [3, 5], [2, 32], [5, 32]]
    assert {"transformers", "torch", "tensorflow"} <= set(manifest.proof.absent)
    files = {str(file.relative_to(onnx.path)) for file in onnx.path.rglob("*") if file.is_file()}
    assert files - set(manifest.files) == {"manifest.json", "README.md"}
    assert {"model.onnx", "tokenizer.json", "config.json"} <= set(manifest.files)


def copied(onnx, folder):
    shutil.copytree(onnx.path, folder)
    return folder / "model.onnx"


def swap_inputs(model):
    other = {"input_ids": "attention_mask", "attention_mask": "input_ids"}
    for node in model.graph.node:
        node.input[:] = [other.get(name, name) for name in node.input]


def drop_mask(model):
    """A graph that sees every position, whatever the mask says."""
    from onnx import TensorProto, helper

    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    for node in model.graph.node:
        node.input[:] = ["all_ones" if name == "attention_mask" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["all_shape"], ["all_ones"], value=one))
    model.graph.node.insert(0, helper.make_node("Shape", ["input_ids"], ["all_shape"]))


@pytest.mark.heavy
@pytest.mark.parametrize("fault", [swap_inputs, drop_mask])
def test_a_wrong_graph_is_not_proved(run, onnx, reference, tmp_path, fault):
    import onnx as library

    file = copied(onnx, tmp_path / "copy")
    model = library.load(file)
    fault(model)
    library.save(model, file)
    manifest = read_manifest(file.parent)
    proof = measure(file.parent, validation_of(run), reference)
    with pytest.raises(ProofError, match=r"logits differ by up to .* \(16 validation rows in onnxruntime"):
        refuse_unproved(manifest, proof, "accuracy")


@pytest.mark.heavy
def test_labels_in_another_order_are_not_proved(run, onnx, reference, tmp_path):
    folder = copied(onnx, tmp_path / "copy").parent
    manifest = onnx.manifest.model_copy(update={"labels": onnx.manifest.labels[::-1]})
    write_manifest(folder, manifest)
    proof = measure(folder, validation_of(run), reference)
    assert proof.agreement == 0
    with pytest.raises(ProofError, match=r"0\.00% of the predictions are the same"):
        refuse_unproved(manifest, proof, "accuracy")


@pytest.mark.heavy
def test_an_altered_file_is_refused(onnx, tmp_path):
    file = copied(onnx, tmp_path / "copy")
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx was altered .* export the run again"):
        open_export(file.parent)
    file.unlink()
    with pytest.raises(UserError, match=r"model\.onnx is missing"):
        open_export(file.parent)


@pytest.mark.heavy
def test_int8_weights_that_change_the_answers_are_not_proved(run, onnx, reference, tmp_path):
    """Every weight is rounded to one of three numbers, and the file has its size still."""
    import onnx as library
    from onnx import numpy_helper

    file = copied(onnx, tmp_path / "copy")
    model = library.load(file)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2:
            coarse = np.sign(values) * np.abs(values).mean()
            tensor.CopyFrom(numpy_helper.from_array(coarse.astype(np.float32), tensor.name))
    library.save(model, file)
    manifest = onnx.manifest.model_copy(update={"quantization": "int8", "files": records_of(file.parent)})
    write_manifest(file.parent, manifest)
    with pytest.raises(ProofError, match="with int8 weights does not answer as .* of the size in fp32"):
        refuse_unproved(manifest, measure(file.parent, validation_of(run), reference), "accuracy")


@pytest.mark.heavy
def test_a_run_of_pytorch_is_exported_by_tensorflow_in_the_python_that_has_it(run, tmp_path, monkeypatch):
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(f'#!/bin/sh\necho "$@" >> "{log}"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("TWINSTEP_PYTHON_TENSORFLOW", str(python))
    (export,) = export_run(run, "litert", out=tmp_path)
    calls = log.read_text().splitlines()
    assert len(calls) == 3, "it is asked for its packages, converts, and answers for the proof"
    assert export.path == tmp_path / "litert" and export.manifest.run.framework == "torch"
    assert export.manifest.proof.largest_difference < 1e-5 and "torch" in export.manifest.proof.absent


@pytest.mark.heavy
def test_a_run_of_tensorflow_is_exported_by_either_framework_and_predicts_as_it_does(tmp_path, capfd):
    run, texts = finetune(recipe_of("pairs", tmp_path), framework="tensorflow", out=tmp_path / "run"), sentences(8, 1)
    rows = [{"text": one, "text_pair": two} for one, two in zip(texts, texts[::-1], strict=True)]
    expected = list(predict(run, rows))
    for export in export_run(run, ["onnx", "litert"], out=tmp_path / "exports"):
        assert export.manifest.run.framework == "tensorflow" and export.manifest.proof.largest_difference < 1e-5
        for line, wanted in zip(predict_rows(open_export(export.path), rows), expected, strict=True):
            assert line.pop("score") == pytest.approx(wanted["score"], abs=2e-6)
            assert line | {"score": wanted["score"]} == wanted
    assert "TensorFlow Lite" not in capfd.readouterr().err, "a runtime does not chat while it opens a model"


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("kind", "framework", "beams", "formats"),
    [
        ("sequence-to-sequence", "tensorflow", 3, ["onnx"]),
        ("translation", "torch", 1, ["onnx", "savedmodel"]),
        ("translation", "tensorflow", 3, ["onnx"]),
    ],
)
def test_texts_of_every_family_and_both_beam_searches_are_those_of_the_run(tmp_path, kind, framework, beams, formats):
    """The texts are so short that many searches reach the longest that is allowed."""
    changes = {"options.num_beams": beams, "options.max_new_tokens": 6}
    run = finetune(recipe_of(kind, tmp_path, changes=changes), framework=framework, out=tmp_path / "run")
    rows = [{"source": "the ninth of march 1996"}, {"source": "4 July"}]
    expected = list(predict(run, rows))
    for export in export_run(run, formats, out=tmp_path / "exports"):
        assert list(predict_rows(open_export(export.path), rows)) == expected


@pytest.mark.heavy
def test_machine_code_is_proved_in_its_runtime_and_refused_on_another_processor(run, tmp_path):
    (export,) = export_run(run, "aoti", out=tmp_path)
    proof, machine = export.manifest.proof, export.manifest.machine
    assert proof.largest_difference < 1e-5 and proof.agreement == 1 and "transformers" in proof.absent
    assert machine.processor and machine.instructions
    texts = sentences(3, seed=1)
    found = [line["prediction"] for line in predict_rows(open_export(export.path), texts)]
    assert found == [line["prediction"] for line in predict(run, texts)]
    other = machine.model_copy(update={"processor": "Other", "instructions": [*machine.instructions, "new1", "new2"]})
    write_manifest(export.path, export.manifest.model_copy(update={"machine": other}))
    with pytest.raises(UserError, match=r"was compiled for Other, and this machine has .* without new1, new2; export"):
        open_export(export.path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--format", "onx"],
            'must be one of pt2, onnx, savedmodel, litert, torchscript, aoti. Did you mean "onnx"?',
        ),
        (["--format", "pt2", "--quantize", "int8"], 'pt2 has no weights of type "int8"; onnx, litert can have them'),
        (["--format", ""], "no format is named"),
        ([], "run cannot be exported: an export reads texts by tokenizer.json"),  # Marian has no such file
        (["--out", "taken"], "taken/onnx holds something that is not an export; choose another folder"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_converted(
    tmp_path, monkeypatch, capsys, options, message
):
    from tests.helpers.run_writer import write_run

    write_run(tmp_path / "run")
    (tmp_path / "taken" / "onnx").mkdir(parents=True)
    (tmp_path / "taken" / "onnx" / "mine.txt").write_text("mine", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert execute(["export", "run", *options]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("recipe", "changes", "format", "message"),
    [
        (
            "dates_t5",
            {"options.num_beams": 4},
            "savedmodel",
            "options.num_beams is 4, but SavedModel cannot search",
        ),
        (
            "dates_t5",
            {},
            "pt2",
            "sequence-to-sequence writes texts, which a model in torch.export cannot; export",
        ),
        ("stories_gpt2", {}, "litert", "causal-language-modeling writes texts, which a model in LiteRT cannot"),
    ],
)
def test_a_model_that_writes_texts_is_refused_where_it_could_not(tmp_path, capsys, recipe, changes, format, message):
    from tests.helpers.run_writer import write_run

    run = write_run(tmp_path / "run")
    (run / "recipe.yaml").write_text(load_recipe(recipe, changes).to_yaml(), encoding="utf-8")
    assert execute(["export", str(run), "--format", format]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.heavy
def test_an_export_that_is_not_proved_leaves_nothing(run, onnx, reference, tmp_path, monkeypatch):
    """The conversion is replaced by a copy of a good one, and nothing may differ at all."""

    def without_a_process(function, *arguments, framework):
        if function is answer_of_run:
            return reference
        shutil.copyfile(onnx.path / "model.onnx", arguments[2])
        return WrittenGraph("int64", ("logits",), 1), "BertForSequenceClassification", {}

    monkeypatch.setattr("pipeline.deploy.export.call", without_a_process)
    monkeypatch.setattr("pipeline.deploy.proof.TOLERANCE", 1e-12)
    with pytest.raises(ProofError, match="was not kept: logits differ by up to"):
        export_run(run, "onnx", out=tmp_path / "exports")
    assert list((tmp_path / "exports").iterdir()) == []
