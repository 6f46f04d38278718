"""The command that runs the library's own tests with the swapped attention, on a few tests in the library's layout."""

import pytest

from tests.benchmarks import library_suite

TESTS = """
import unittest

from transformers import BertConfig, {model}
from {framework} import {tensor}


class {model}Test(unittest.TestCase):
    def attention_after_a_call(self):
        sizes = dict(hidden_size=14, num_attention_heads=2, num_hidden_layers=1, intermediate_size=23)
        model = {model}(BertConfig(vocab_size=31, **sizes))
        self.assertEqual(tuple(model({tensor}([[5, 7, 11]])).last_hidden_state.shape), (1, 3, 14))
        return model.{attention}

    def test_model(self):
        self.attention_after_a_call()

    def test_initialization(self):
        self.assertIn("transformers", type(self.attention_after_a_call()).__module__)

    def test_attention_is_that_of_the_library(self):
        self.assertIn("transformers", type(self.attention_after_a_call()).__module__)

    def test_sum(self):
        self.assertEqual(2 + 2, 5)
"""
WORDS = {
    "torch": dict(model="BertModel", tensor="tensor", attention="encoder.layer[0].attention.self"),
}


@pytest.fixture
def checkout(framework, tmp_path):
    """A folder with four tests of BERT: two look at the module that attends, and one fails in any case."""
    folder = tmp_path / "tests" / "models" / "bert"
    folder.mkdir(parents=True)
    for package in (folder, *list(folder.parents)[:2]):
        (package / "__init__.py").touch()
    file = folder / f"{library_suite.PREFIXES[framework]}bert.py"
    file.write_text(TESTS.format(framework=framework, **WORDS[framework]), encoding="utf-8")
    return tmp_path


@pytest.mark.heavy
@pytest.mark.parametrize("framework", WORDS)
def test_a_test_that_fails_only_when_swapped_is_a_fault_unless_it_looks_at_the_stock_module_by_nature(
    framework, checkout, capsys
):
    assert library_suite.main(["--tests", str(checkout), "--framework", framework]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(("stock:", "swapped:"))]
    assert lines[:2] == [
        "3 tests pass with the stock attention, 1 of them when swapped",
        "3 models were swapped, and their attentions called 3 times",
    ]
    of_test = [f"{kind}: tests/models/bert/" for kind in ("fails by nature", "FAILS WHEN SWAPPED")]
    assert lines[2].startswith(of_test[0]) and "::test_initialization " in lines[2]
    assert lines[3].startswith(of_test[1]) and "::test_attention_is_that_of_the_library: " in lines[3]
    assert lines[4].startswith("fails with the stock attention, too: ") and "::test_sum: " in lines[4]
    assert len(lines) == 5


def test_a_folder_without_the_librarys_tests_is_refused_with_the_command_that_fetches_them(tmp_path, capsys):
    assert library_suite.main(["--tests", str(tmp_path)]) == 2
    assert "git clone --depth 1 --branch v" in capsys.readouterr().out
