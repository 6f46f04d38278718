"""Reads YAML as recipes need it: safely, of bounded size, and with 5e-4 as a number."""

from __future__ import annotations

import re

import yaml

# A recipe is a page of text: more is a mistake or an attack.
MOST_CHARACTERS, MOST_VALUES = 1_000_000, 10_000


def read_yaml(text: str) -> object:
    """Parse YAML safely, with 5e-4 a number as in YAML 1.2. Raises YAMLError, also for a text that is too large."""
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"{len(text)} characters, but a recipe has at most {MOST_CHARACTERS}")
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # PyYAML's own, for a date like 2001-99-99 or an endless number
        raise yaml.YAMLError(str(error)) from error


class _Loader(yaml.SafeLoader):
    """Reads YAML safely, and little of it.

    PyYAML follows YAML 1.1, where 5e-4 is a string because it has no dot; this adds YAML 1.2's floats. Aliases let a
    few lines stand for billions of values, and for values that contain themselves; the values they stand for are
    counted.
    """

    def get_single_node(self) -> yaml.Node | None:
        """The document's tree. Raises YAMLError if it stands for too many values."""
        root = super().get_single_node()
        if root is not None and _size(root, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"with its aliases written out it has more than {MOST_VALUES} values")
        return root


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes a node stands for; one that contains itself stands for endlessly many."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # until it is known
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = isinstance(node, yaml.MappingNode)
        known[id(node)] = 1 + sum(_size(each, known) for child in children for each in (child if pairs else (child,)))
    return known[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
