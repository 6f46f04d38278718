"""The deployment report: what is measured, what cannot be, and that sentences say what the tables show."""

import json
import re

import numpy as np
import pytest
import torch
import transformers

from pipeline import UserError, finetune
from pipeline.backend import load_backend
from pipeline.cli.main import execute
from pipeline.deploy.proof import validation_of
from pipeline.deploy.report import deployment
from pipeline.deploy.report.content import answers, sections
from pipeline.deploy.report.deployment import QUICK, content_of
from pipeline.deploy.report.mode_costs import Plan, mode_costs
from pipeline.deploy.report.results import DeploymentResults, FormatCost, ModeCost, ProcessCost, ShapeCost, Spread
from pipeline.recipe.overrides import RECIPES
from pipeline.reporting.writer import html_page, markdown_page, write_pages
from pipeline.runs.record import RunIdentity
from tests.helpers.browser import browser
from tests.helpers.families import recipe_of
from tests.helpers.run_writer import write_run


def spread(middle, part=0.1):
    return Spread(median=middle, low=middle * (1 - part), high=middle * (1 + part))


def cost(one, many, mib):
    return ProcessCost(
        first_answer_seconds=spread(1.5),
        milliseconds=[spread(one), spread(many)],
        peak_memory_bytes=spread(mib * 2**20),
    )


def mode(framework, work, name, gains=(), problem=None):
    shapes = [ShapeCost(milliseconds=spread(10 / gain), gain=spread(gain)) for gain in gains]
    return ModeCost(framework=framework, work=work, mode=name, problem=problem, shapes=shapes, first_call_seconds=2.5)


def results(**changes):
    """Figures that are made up: ONNX int8 is fastest and smallest, LiteRT failed, no graph helps PyTorch."""
    return DeploymentResults(
        created="2026-11-26T11:00:00+00:00",
        quick=False,
        run=RunIdentity(recipe="mine", framework="torch", attention="stock", seed=0),
        run_folder="runs/mine/torch-stock-seed0",
        task="sequence-classification",
        checkpoint="some/bert",
        validation_rows=1000,
        shapes=[(1, 32), (32, 64)],
        processes=3,
        repeats=9,
        processor="A Processor",
        versions={"python": "3.11.9"},
        formats=[
            FormatCost(
                format=None, title="The run, PyTorch", runtime="torch", model_bytes=3 * 2**20, agreement=1.0,
                cost=cost(8.0, 80.0, 600),
            ),
            FormatCost(
                format="onnx", title="ONNX", runtime="onnxruntime 1", model_bytes=3 * 2**20, largest_difference=2.7e-6,
                agreement=1.0, cost=cost(2.0, 50.0, 101),
            ),
            FormatCost(
                format="onnx", quantization="int8", title="ONNX int8", runtime="onnxruntime 1", model_bytes=2**20,
                largest_difference=0.03, agreement=0.995, cost=cost(1.0, 49.0, 100),
            ),
            FormatCost(format="litert", title="LiteRT", problem="the converter says: an operator is missing"),
        ],
        modes=[
            mode("torch", "inference", "eager", (1.0, 1.0)),
            mode("torch", "inference", "TorchScript", (1.05, 1.0)),
            mode("torch", "inference", "torch.compile", problem="InvalidCxxCompiler: there is no g++"),
            mode("torch", "training step", "eager", (1.0, 1.0)),
            mode("torch", "training step", "torch.export", (0.9, 0.8)),
            mode("tensorflow", "inference", "eager", (1.0, 1.0)),
            mode("tensorflow", "inference", "tf.function", (11.7, 2.5)),
            mode("tensorflow", "inference", "XLA", (9.0, 2.6)),
            mode("tensorflow", "training step", "eager", (1.0, 1.0)),
            mode("tensorflow", "training step", "XLA", (3.1, 2.2)),
        ],
    ).model_copy(update=changes)  # fmt: skip


def rows_of(title, found):
    """The rows of a table of the report."""
    (table,) = (table for section in sections(found) for table in section.tables if table.title == title)
    return {(group, row[0]): row[1:] for group, rows in table.groups.items() for row in rows}


def test_the_answers_are_those_of_the_figures():
    agreement, least, graphs = answers(results()).values()
    assert agreement.state == "unknown" and agreement.sentence == (
        "ONNX and ONNX int8 answer 1,000 validation rows as the run does; in fp32, logits differ by at most 2.7e-06; "
        "with int8 weights, 99.5% or more of the predictions are the same. There are no figures for LiteRT."
    )
    assert least.sentence == (
        "For 1×32, ONNX int8 needs the least processor time, 1.00 ms. For 32×64, ONNX int8 needs the least processor "
        "time, 49.0 ms; the range of ONNX overlaps. The smallest model is that of ONNX int8; the process of ONNX int8 "
        "holds the least memory."
    )
    assert graphs.sentence == (
        "PyTorch: for inference with 1×32, no graph was faster than eager in every repeat; for a training step with "
        "32×64, no graph was faster than eager in every repeat. TensorFlow: for inference with 1×32, tf.function is 12 "
        "times as fast as eager; for a training step with 32×64, XLA is 2.2 times as fast as eager."
    )


def test_what_no_such_model_can_be_exported_to_is_no_failure():
    run, onnx, _, litert = results().formats
    missing = litert.model_copy(update={"problem": "it writes texts, which LiteRT cannot", "is_unsupported": True})
    found = results(formats=[run, onnx, missing], writes_texts=True)
    agreement = answers(found)["Does every format answer as the run does?"]
    assert (agreement.state, agreement.word) == ("good", "Yes")
    assert agreement.sentence == (
        "ONNX answers 1,000 validation rows as the run does; in fp32, logits differ by at most 2.7e-06. LiteRT "
        "cannot hold a model like this one."
    )
    least = answers(found)["Which format costs least?"]
    assert least.sentence.startswith("For a forward pass of 1×32, ONNX needs the least processor time, 2.00 ms. For a ")
    assert rows_of("What has no figures, and why", found)["", "LiteRT"] == ["it writes texts, which LiteRT cannot"]
    for each, is_said in ((found, True), (results(), False)):
        (method,) = (section for section in sections(each) if section.name == "method")
        assert any("a pass for each token" in text for text in method.points.values()) is is_said


def test_the_run_itself_is_called_so_and_equal_logits_are_said_to_be_equal():
    run, onnx, rounded = results().formats[:3]
    equal = onnx.model_copy(update={"largest_difference": 0.0, "model_bytes": 4 * 2**20, "cost": cost(9.0, 90.0, 700)})
    agreement, least, _ = answers(results(formats=[run, equal])).values()
    assert agreement.sentence == "ONNX answers 1,000 validation rows as the run does; in fp32, the logits are equal."
    for agreed, said in ((1.0, "all of the predictions"), (0.9999, "99.9% or more of the predictions")):
        found = results(formats=[run, rounded.model_copy(update={"agreement": agreed})])
        assert (
            f"with int8 weights, {said} are the same"
            in answers(found)["Does every format answer as the run does?"].sentence
        )
    assert least.sentence == (
        "For 1×32, the run itself needs the least processor time, 8.00 ms; the range of ONNX overlaps. For 32×64, the "
        "run itself needs the least processor time, 80.0 ms; the range of ONNX overlaps. The smallest model is that of "
        "the run itself; the process of the run itself holds the least memory."
    )


def test_nothing_measured_is_no_answer():
    nothing = results(formats=[results().formats[3]], modes=[mode("torch", "inference", "every mode", problem="gone")])
    assert [answer.state for answer in answers(nothing).values()] == ["bad", "unknown", "unknown"]
    assert "What has no figures" in markdown_page(content_of(nothing))


def test_what_cannot_be_done_is_a_row_with_its_cause():
    missing = rows_of("What has no figures, and why", results())
    assert missing == {
        ("", "LiteRT"): ["the converter says: an operator is missing"],
        ("", "PyTorch, inference: torch.compile"): ["InvalidCxxCompiler: there is no g++"],
    }
    assert rows_of("A forward pass", results())["PyTorch", "torch.compile"][1:] == ["–"] * 5
    assert set(rows_of("Size, cost and agreement of each format", results())["", "LiteRT"]) == {"–"}


def test_the_tables_show_medians_and_ranges():
    assert rows_of("Size, cost and agreement of each format", results())["", "ONNX int8"] == [
        "onnxruntime 1", "1.00", "99.50%", "3.0e-02", "1.50 (1.35 to 1.65)", "1.00 (0.90 to 1.10)",
        "49.0 (44.1 to 53.9)", "100 (90.0 to 110)",
    ]  # fmt: skip
    assert rows_of("A training step", results())["TensorFlow", "XLA"] == [
        "2.50", "3.23 (2.90 to 3.55)", "3.10 (2.79 to 3.41)", "4.55 (4.09 to 5.00)", "2.20 (1.98 to 2.42)",
    ]  # fmt: skip


@pytest.mark.parametrize("page", [html_page, markdown_page])
def test_page_and_markdown_show_every_figure_and_only_text(page):
    hostile = results(checkpoint="<script>alert(1)</script>|`x`")
    text = page(content_of(hostile))
    assert "<script" not in text and "11.7 (10.5 to 12.9)" in text and "an operator is missing" in text
    for answer in answers(hostile).values():
        assert answer.word in text


def test_a_report_is_whole_and_its_figures_are_read_back(tmp_path):
    folder = tmp_path / "report"
    for _ in range(2):  # the second replaces the first
        write_pages(folder, content_of(results()), results().model_dump(mode="json"))
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.md", "results.json", "figures"}
    names = {"formats-1.png", "formats-2.png", "inference.png", "training-step.png"}
    assert {path.name for path in (folder / "figures").iterdir()} == names
    read = DeploymentResults.model_validate_json((folder / "results.json").read_text(encoding="utf-8"))
    assert read == results()
    (folder / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"holds something that is not a report \(mine.txt\)"):
        write_pages(folder, content_of(results()), {})


@pytest.mark.heavy
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_page_fits_its_window_and_asks_for_nothing(tmp_path, width, height):
    path = tmp_path / "report.html"
    path.write_text(html_page(content_of(results())), encoding="utf-8")
    with browser(tmp_path / "profile") as page:
        page.open(path, width, height)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelectorAll('.answer').length") == 3
        bottom = "Math.max(...[...document.querySelectorAll('.answer')].map(e => e.getBoundingClientRect().bottom))"
        assert page.evaluate(bottom) <= height
        assert page.requests == []


def test_a_gpt2_is_traced_for_batches_of_other_sizes_and_with_padding():
    model = transformers.AutoModelForCausalLM.from_pretrained(RECIPES / "bundled" / "stories" / "gpt2")
    ids = np.random.default_rng(5).integers(3, 600, (3, 11)).astype(np.int32)
    whole, padded = np.ones_like(ids), np.tile((np.arange(11) < 7).astype(np.int32), (3, 1))
    execution = load_backend("torch").execution
    traced = execution(model, "TorchScript", {"input_ids": ids, "attention_mask": whole})
    for rows, mask in ((3, padded), (1, whole)):
        inputs = {"input_ids": torch.tensor(ids[:rows]), "attention_mask": torch.tensor(mask[:rows])}
        with torch.no_grad():
            expected = model(**inputs).logits.numpy()
        found = traced({"input_ids": ids[:rows], "attention_mask": mask[:rows]})
        seen = mask[:rows].astype(bool)
        assert np.abs(found - expected)[seen].max() < 1e-4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployment")
    return finetune(recipe_of("single-label", folder), out=folder / "run")


@pytest.mark.heavy
def test_a_run_is_measured_in_its_framework_and_in_a_format(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deployment, "FRAMEWORKS", {"torch": "pipeline.pytorch"})
    out = tmp_path / "report"
    assert execute(["deployment", str(run.path), "--format", "torchscript", "--quick", "--out", str(out)]) == 0
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [each["title"] for each in found["formats"]] == ["The run, PyTorch", "TorchScript (legacy)"]
    own, export = (each["cost"] for each in found["formats"])
    assert export["peak_memory_bytes"]["median"] < own["peak_memory_bytes"]["median"]
    assert export["first_answer_seconds"]["median"] < own["first_answer_seconds"]["median"]
    gains = {(each["work"], each["mode"]): each["shapes"] for each in found["modes"] if each["problem"] is None}
    assert {mode for _, mode in gains} == {"eager", "torch.export", "TorchScript"}
    assert gains["inference", "eager"][0]["gain"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert "Does every format answer as the run does?" in capsys.readouterr().out


@pytest.mark.heavy
def test_graphs_of_tensorflow_are_measured(run):
    told, batches = [], deployment.batches_of(validation_of(run))
    plan = Plan(QUICK.repeats, QUICK.seconds, {"XLA": "left out"})
    found = mode_costs(told.append, str(run.path), "tensorflow", batches, plan)
    costs = {(each.work, each.mode): each for each in found}
    for work in ("inference", "training step"):
        assert costs[work, "XLA"].problem == "left out"
        assert costs[work, "tf.function"].shapes[0].gain.low > 1
    assert costs["inference", "tf.function"].largest_difference < 1e-4
    modes = ("eager", "tf.function", "XLA")
    assert told == [f"tensorflow, {work}: {mode}" for work in ("inference", "training step") for mode in modes]


@pytest.mark.heavy
def test_a_graph_that_answers_otherwise_than_eager_has_no_figures(run, monkeypatch):
    backend, execution = load_backend("torch"), load_backend("torch").execution

    def wrong(model, mode, example, settings=None):
        function = execution(model, "eager", example, settings)
        return function if mode == "eager" else lambda batch: function(batch) + 0.01

    monkeypatch.setattr(backend, "execution", wrong)
    batches = deployment.batches_of(validation_of(run))
    found = mode_costs(print, str(run.path), "torch", batches, Plan(1, 0.0, QUICK.left_out))
    problems = {each.mode: each.problem for each in found if each.work == "inference"}
    assert problems["eager"] is None
    assert problems["TorchScript"] == "its logits differ from eager's by up to 0.01, but at most 0.0001 is rounding"


def test_a_format_that_does_not_exist_is_refused_before_anything_is_measured(tmp_path, capsys):
    write_run(tmp_path / "run")
    assert execute(["deployment", str(tmp_path / "run"), "--format", "onx", "--out", str(tmp_path / "report")]) == 2
    assert re.search(r'format is "onx", .* Did you mean "onnx"\?', capsys.readouterr().err)
    assert not (tmp_path / "report").exists()
