"""How the same purpose reads in both frameworks: the tokens that two texts share, and the framework's names in them."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

from pipeline.tour.results import ByFramework, CodeComparison

_FOLDERS = {"torch": "pytorch", "tensorflow": "tensorflow"}
_PIPELINE = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "tensorflow", "tf_keras")
_LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip
# Methods of Python's own types are no concepts of a framework.
_PYTHONS = {name for kind in (list, dict, str, tuple, set) for name in dir(kind)}


def compare_code() -> list[CodeComparison]:
    """The attention, the Transformer and the training of the tour, in both frameworks."""
    files = {name: _source(f"{name}.py") for name in ("attention", "transformer")}
    tours = _source("tour.py")
    training = {framework: _function(text, "train") for framework, text in tours.items()}
    return [
        compared("Attention", files["attention"], files["attention"]),
        compared("Transformer", files["transformer"], files["transformer"]),
        compared("Training: a loop, and Keras' fit", training, tours),
    ]


def compared(name: str, texts: ByFramework, imports: ByFramework) -> CodeComparison:
    """Two texts of one purpose; what they use of their frameworks is imported in `imports`."""
    tokens = {framework: list(code_tokens(text)) for framework, text in texts.items()}
    first, second = tokens.values()
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    return CodeComparison(
        name=name,
        tokens={framework: len(found) for framework, found in tokens.items()},
        shared_tokens=sum(block.size for block in blocks),
        names={framework: sorted(framework_names(text, imports[framework])) for framework, text in texts.items()},
    )


def code_tokens(source: str) -> Iterator[str]:
    """Python's tokens in a text without comments, docstrings and layout."""
    docstrings = {
        (node.lineno, node.col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT and token.start not in docstrings:
            yield token.string


def framework_names(source: str, imports: str) -> set[str]:
    """What a text uses of its framework: names that are imported from it, and methods of its objects."""
    reader = _NamesReader(_imported(imports))
    reader.visit(ast.parse(source))
    return reader.found


class _NamesReader(ast.NodeVisitor):
    """Collects names that begin with an imported one, as "nn.Linear", and methods, as ".backward"."""

    def __init__(self, imported: set[str]):
        self.imported, self.found = imported, set[str]()

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            root, name = _path(node.func)[0], node.func.attr
            if root not in self.imported | {"self"} and name not in _PYTHONS and not name.startswith("_"):
                self.found.add(f".{name}")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        root, path = _path(node)
        if root in self.imported:
            self.found.add(".".join([root, *path]))
        else:
            self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in self.imported:
            self.found.add(node.id)


def _path(node: ast.Attribute) -> tuple[str, list[str]]:
    """The name at the root of a dotted expression, if it is one, and the attributes after it."""
    path, inner = [node.attr], node.value
    while isinstance(inner, ast.Attribute):
        path.insert(0, inner.attr)
        inner = inner.value
    return inner.id if isinstance(inner, ast.Name) else "", path


def _imported(source: str) -> set[str]:
    """The names that a text imports from a framework."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                if (module or alias.name).partition(".")[0] in _PACKAGES:
                    found.add(alias.asname or alias.name)
    return found


def _source(file: str) -> ByFramework:
    return {
        framework: (_PIPELINE / folder / file).read_text(encoding="utf-8") for framework, folder in _FOLDERS.items()
    }


def _function(source: str, name: str) -> str:
    (node,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
    return ast.get_source_segment(source, node) or ""
