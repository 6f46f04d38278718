"""The tour: what is tried, that its sentence is followed as the model computes, and that the page shows its figures."""

import math
import re
import time

import numpy as np
import pytest

from pipeline import UserError
from pipeline.backend import load_backend
from pipeline.cli.main import execute
from pipeline.deploy.report.mode_costs import Plan
from pipeline.reporting.writer import html_page, markdown_page, write_pages
from pipeline.tour import experiments, sentence
from pipeline.tour.code import code_tokens, compare_code, compared
from pipeline.tour.content import content_of, sections
from pipeline.tour.experiments import Place, functions_of
from pipeline.tour.report import Job, run_jobs
from pipeline.tour.results import TourResults
from pipeline.tour.steps import shares_of
from pipeline.tour.tables import equal_steps
from pipeline.tour.words import WORDS
from pipeline.utils.processes import Child
from tests.helpers.attention_reference import multi_head_attention
from tests.helpers.browser import CONTRAST, browser
from tests.helpers.tour_example import example

NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?(?![\w.])")
PLAN = Plan(1, 0.0, {"torch.compile": "left out"})


@pytest.fixture
def place(framework):
    """A framework as the experiments see it."""
    return Place(framework, load_backend(framework), functions_of(framework))


@pytest.fixture
def followed(place, monkeypatch):
    """What is found of the sentence after two steps of training."""
    monkeypatch.setattr(sentence, "STEPS", 2)
    return experiments.follow(place, None)[0]


@pytest.mark.slow
def test_the_sentence_is_followed_as_the_model_computes_it(followed):
    """Beside the model itself, and beside attention and normalization in NumPy."""
    found, weights = followed.stages, followed.weights
    np.testing.assert_allclose(found["logits"], followed.logits_1TV, atol=1e-6)

    def linear(name):
        return weights[f"encoder.0.{name}.weight"].T, weights[f"encoder.0.{name}.bias"]

    projections = {name: linear(f"attention.{name}") for name in ("query", "key", "value", "out")}
    x_BSD = found["encoder input"]
    output_BSD, weights_BHSS = multi_head_attention(x_BSD, x_BSD, projections, num_heads=2)
    np.testing.assert_allclose(found["attention weights"], weights_BHSS, atol=1e-6)
    np.testing.assert_allclose(found["heads joined"], output_BSD, atol=1e-6)
    (inner, inner_bias), (outer, outer_bias) = linear("feed_forward.inner"), linear("feed_forward.outer")
    fed_BSD = np.maximum(found["residual and norm"] @ inner + inner_bias, 0) @ outer + outer_bias
    np.testing.assert_allclose(found["feed-forward"], fed_BSD, atol=1e-6)
    assert list(found) == list(sentence.STAGES)
    for name, array in found.items():
        assert array.ndim == len(sentence.STAGES[name][0]), name


@pytest.mark.slow
def test_both_frameworks_train_on_the_same_numbers(monkeypatch):
    monkeypatch.setattr(sentence, "STEPS", 3)
    losses = [
        experiments.follow(Place(name, load_backend(name), functions_of(name)), None)[0].losses
        for name in ("torch", "tensorflow")
    ]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-6)
    np.testing.assert_allclose(*losses, rtol=1e-5)  # Keras' Adam adds its epsilon at another place


def test_the_sentence_is_none_of_those_that_are_learned():
    spoken = sentence.language()
    texts = [[spoken.words[number] for number in row if number] for row in spoken.source_BS]
    assert ["the", "black", "cat", "sleeps", "<end>"] not in texts
    assert ["the", "black", "cat", "eats", "<end>"] in texts and len(texts) == 26
    assert [spoken.words[number] for number in spoken.sentence_1S[0]] == ["the", "black", "cat", "sleeps", "<end>"]


def test_python_runs_at_each_call_eagerly_and_no_more_in_a_graph(place):
    found = {(probe.function, probe.mode): probe for probe in experiments.probe(place, PLAN)}
    graph = {"torch": "torch.export", "tensorflow": "tf.function"}[place.name]
    for function in ("talks", "remembers"):
        assert found[function, "eager"].runs_by_call == [1, 1, 1]
        assert found[function, graph].runs_by_call[1:] == [0, 0]
        assert found[function, graph].runs_when_made + found[function, graph].runs_by_call[0] == 1
    assert {probe.answer for (_, mode), probe in found.items() if mode == "eager"} == {"as eager"}
    if place.name == "torch":
        assert found["decides", "torch.jit.trace"].answer == "other than eager"
        assert found["decides", "torch.export"].answer == "refused" and found["decides", "torch.export"].problem


@pytest.mark.slow
def test_the_planted_error_is_found_at_its_line_and_gone_afterwards(place, followed):
    shown = {error.mode: error for error in experiments.show_errors(place, PLAN)}
    assert shown["eager"].names_the_line and 0 < shown["eager"].own_frames < shown["eager"].frames
    assert re.search("size", shown["eager"].message)
    assert experiments.follow(place, followed.weights)[0].losses == pytest.approx(followed.losses)


def test_the_debugger_shows_values_eagerly_and_none_in_a_graph(place):
    shown = {stop.mode: stop for stop in experiments.stop(place, PLAN)}
    graph = {"torch": "torch.export", "tensorflow": "tf.function"}[place.name]
    assert shown["eager"].stops_by_call == [1, 1, 1] and "2., 4., 6., 8." in shown["eager"].shown
    assert shown[graph].stops_when_made + shown[graph].stops_by_call[0] == 1 and "2." not in shown[graph].shown
    assert shown[graph].stops_by_call[1:] == [0, 0]


def test_a_nan_is_silent_until_it_is_asked_for(place):
    check = experiments.check_nan(place)
    assert check.silent == "[-1.0, nan]"
    assert re.search("nan", check.message, re.IGNORECASE) and check.names_the_line


def test_attention_is_timed_in_each_mode(place):
    costs = {cost.mode: cost for cost in experiments.time_calls(place, PLAN)}
    assert list(costs) == list(place.tour.MODES)
    assert [shape.gain.median for shape in costs["eager"].shapes] == [1.0, 1.0]
    assert costs[place.tour.MODES[1]].largest_difference < 1e-5
    if place.name == "torch":
        assert costs["torch.compile"].problem and not costs["torch.compile"].shapes


FIRST = (
    '"""A text."""\nimport torch\nfrom torch import nn\n\n'
    'def f(x):  # so\n    """Doc."""\n    return nn.Linear(2, 3)(x).sum()\n'
)
SECOND = "import tensorflow as tf\ndef f(x):\n    names = []\n    names.append(tf.nn.relu(x))\n"


def test_tokens_are_those_of_the_code_alone():
    assert " ".join(code_tokens(FIRST)) == (
        "import torch from torch import nn def f ( x ) : return nn . Linear ( 2 , 3 ) ( x ) . sum ( )"
    )


def test_what_two_texts_share_is_counted_and_the_names_of_the_framework_are_listed():
    texts = {"torch": FIRST, "tensorflow": SECOND}
    found = compared("both", texts, texts)
    assert found.tokens == {"torch": 28, "tensorflow": 27}
    assert found.names == {"torch": [".sum", "nn.Linear"], "tensorflow": ["tf.nn.relu"]}
    assert 10 < found.shared_tokens < 20


def test_the_hand_written_files_are_compared():
    attention, transformer, training = compare_code()
    assert 0.5 < attention.shared_tokens / max(attention.tokens.values()) < 1
    assert "nn.Linear" in attention.names["torch"] and "layers.Dense" in attention.names["tensorflow"]
    assert transformer.tokens["torch"] > attention.tokens["torch"]
    assert ".backward" in training.names["torch"] and ".fit" in training.names["tensorflow"]


def test_operators_of_both_frameworks_are_of_the_same_kinds():
    torch = {"aten::addmm": 2.0, "aten::_softmax": 1.0, "aten::native_layer_norm": 0.5, "aten::gelu": 0.5}
    tensorflow = {"_MklMatMul": 2.0, "_MklSoftmax": 1.0, "Rsqrt": 0.5, "Erfc": 0.5}
    for seconds in (torch, tensorflow):
        shares = shares_of(seconds, 8.0)
        assert {kind: share for kind, share in shares.items() if share} == {
            "matrix products": 0.25, "softmax and loss": 0.125, "normalization": 0.0625, "element by element": 0.0625,
        }  # fmt: skip


def test_a_job_waits_for_the_one_that_it_needs_and_few_run_at_once():
    told = []
    jobs = {
        "second": Job(lambda found: Child(math.sqrt, found["first"]), after="first"),
        "first": Job(lambda found: Child(math.sqrt, 256.0)),
        "slow": Job(lambda found: Child(time.sleep, 0.01)),
    }
    assert run_jobs(jobs, 2, told.append) == {"second": 4.0, "first": 16.0, "slow": None}
    assert told[:2] == ["started: first", "started: slow"]


def test_a_job_that_fails_ends_the_others():
    children = []

    def start(function, *arguments):
        children.append(Child(function, *arguments))
        return children[-1]

    jobs = {"long": Job(lambda found: start(time.sleep, 60)), "bad": Job(lambda found: start(math.sqrt, -1.0))}
    with pytest.raises(Exception, match="math domain error"):
        run_jobs(jobs, 2, lambda text: None)
    assert len(children) == 2


# The page


def leaves(value):
    """Every number in a JSON value, and those in its texts."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str):
        yield from (float(found.replace(",", "")) for found in NUMBER.findall(value) if found.count(".") < 2)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def is_rounded_from(text, known):
    """Whether a printed number is one of the known ones, rounded as it is printed; also as MiB, thousandths, a step."""
    printed = float(text.replace(",", ""))
    digits = len(text.partition(".")[2].partition("e")[0])
    unit = 10.0 ** (int(text.partition("e")[2] or 0) - digits)
    known = np.abs(known)
    scaled = np.concatenate([known, known * 1000, known * 100, known / 2**20, known - 1])
    return bool((np.abs(scaled - printed) <= 0.51 * unit).any())


def test_each_number_in_the_tables_and_sentences_is_one_of_tour_json():
    results = example()
    known = np.array(list(leaves(results.model_dump(mode="json"))))
    share = 509 / 661
    known = np.concatenate([known, [share, 2.0, 1.0]])  # how many names are listed, and heads
    unknown, counted = [], 0
    for section in sections(results):
        cells = [cell for table in section.tables for rows in table.groups.values() for row in rows for cell in row]
        texts = [cell if isinstance(cell, str) else cell.sentence for cell in cells]
        texts += [
            text for listing in section.listings if listing.note for text in (*listing.panes.values(), listing.note)
        ]
        for text in [*texts, section.conclusion]:
            numbers = NUMBER.findall(re.sub(r"\d{4}-\d\d-\d\d", "", text))
            counted += len(numbers)
            unknown += [(section.name, number, text) for number in numbers if not is_rounded_from(number, known)]
    assert unknown == [] and counted > 150


def test_a_number_that_is_not_in_tour_json_would_be_seen():
    known = np.array([0.123456, 2097152.0])
    assert [is_rounded_from(text, known) for text in ("0.12", "1.2e-01", "2.00", "123", "0.13", "3")] == [
        True, True, True, True, False, False,
    ]  # fmt: skip


def test_the_sentences_follow_the_figures():
    found = {section.name: section for section in sections(example())}
    assert 'TensorFlow writes "le chat noir mange"; expected was "le chat noir dort"' in found["sentence"].conclusion
    assert "by more than 4.7e-07" in found["sentence"].conclusion
    assert "torch.export did not run Python any more" in found["idea"].conclusion
    assert "tf.function is 2.9 times as fast as eager" in found["idea"].conclusion
    assert "no graph was faster than eager in every repeat" in found["idea"].conclusion
    assert "Wrong values without a message: torch.jit.trace (branches on a value)" in found["graphs"].conclusion
    assert "Refused with a message: torch.export (takes new lengths)" in found["graphs"].conclusion
    assert "shown by eager (PyTorch), but not by XLA" in found["debugging"].conclusion
    assert "BERT: PyTorch 41.9 ms, TensorFlow 47.1 ms" in found["performance"].conclusion
    assert "until step 31; this is the same experiment" in found["sameness"].conclusion


@pytest.mark.parametrize("page", [html_page, markdown_page])
def test_the_page_says_what_frameworks_and_transformer_are_before_its_first_table(page):
    text = page(content_of(example()))
    table = text.index("<table") if page is html_page else text.index("| ---")
    for word in ("two kitchens", "recipe of a dish"):
        assert text.index(word) < table
    for name in ("read_source", "as_graph", "attend_wrongly", "checked_entropy_gradient"):
        assert text.count(f"def {name}") == 2, "both frameworks' code is shown"
    assert "<script" not in text
    for question in WORDS.points["questions"]:
        assert question in text


@pytest.mark.parametrize(
    ("first_apart", "said"),
    [(None, "in all 20 steps"), (1, "in no step"), (2, "in the first step only"), (9, "until step 8")],
)
def test_the_steps_that_are_equal_are_named(first_apart, said):
    assert equal_steps(first_apart, 20) == said


def test_each_fact_has_a_date_and_a_source():
    for fact in WORDS.facts:
        assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d", fact.date) and fact.source and fact.statement.endswith(".")


def test_a_tour_is_whole_and_read_back_and_replaces_only_a_tour(tmp_path):
    folder, results = tmp_path / "tour", example()
    for _ in range(2):
        write_pages(folder, content_of(results), results.model_dump(mode="json"))
    assert {path.name for path in folder.iterdir()} == {"tour.html", "tour.md", "tour.json", "figures"}
    assert TourResults.model_validate_json((folder / "tour.json").read_text(encoding="utf-8")) == results
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"cross-attention.png", "steps.png", "lockstep.png", "formats-1.png"} <= names
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(UserError, match="holds something that is not a report"):
        write_pages(tmp_path / "mine", content_of(results), {})


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)], ids=["desk", "phone"])
def test_the_page_fits_its_window_and_can_be_read(tmp_path, width, height, dark):
    path = tmp_path / "tour.html"
    path.write_text(html_page(content_of(example())), encoding="utf-8")
    with browser(tmp_path / "profile") as page:
        page.open(path, width, height, dark)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CONTRAST) == [] and page.requests == []


@pytest.mark.heavy
def test_a_quick_tour_is_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert execute(["tour", "--quick"]) == 0
    assert capsys.readouterr().out.split() == ["tour", "reports/tour/tour.html"]
    results = TourResults.model_validate_json((tmp_path / "reports" / "tour" / "tour.json").read_text())
    assert set(results.sentence.translations.values()) == {"le chat noir dort"}
    assert max(stage.largest_difference for stage in results.sentence.stages) < 1e-4
    assert {(cost.framework, cost.model) for cost in results.steps} == {("torch", "BERT"), ("tensorflow", "BERT")}
    assert results.lockstep.same and results.deployment.formats[1].problem is None
