"""Where recipes come from: a name in recipes/, a .py or .yaml file, and key=value overrides."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.recipe.schema import Recipe, explain, resolve_paths, validated
from pipeline.utils.errors import UserError, did_you_mean
from pipeline.utils.text import one_line

# A recipe is a page of text: more is a mistake or an attack.
MOST_CHARACTERS, MOST_VALUES = 1_000_000, 10_000
RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def load_recipe(source: str | os.PathLike, overrides: Mapping[str, Any] | Iterable[str] = ()) -> Recipe:
    """Read a recipe by its name in `recipes/` or by the path of a .py or .yaml file.

    `overrides` are a mapping of dotted keys or "key=value" texts. Relative paths in the recipe are taken from its
    file's folder, those in overrides from the working directory. Raises UserError.
    """
    recipe = load_shipped(source)
    changes = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    return recipe.override(changes) if changes else recipe


def load_shipped(source: str | os.PathLike) -> Recipe:
    """The recipe as its file has it, paths made absolute."""
    path = _find(str(source))
    if path.suffix == ".py":
        values, name = _from_python(path), path.stem
    else:
        values, name = _from_yaml(path), path.name
    return validated(resolve_paths(values, path.resolve().parent), name)


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with its overrides, what it was before them, and the arguments of the finetune verb that give it.

    Default folders have the recipe's name alone if nothing was overridden. `arguments` is None for a recipe that no
    file holds.
    """

    recipe: Recipe
    original: Recipe
    arguments: tuple[str, ...] | None = None

    @classmethod
    def read(cls, source: str | os.PathLike, settings: Iterable[str] = ()) -> LoadedRecipe:
        """A name or path with "key=value" settings, the file read once. Raises UserError."""
        original, changes = load_shipped(source), parse_overrides(settings)
        arguments = (str(source), *(part for setting in settings for part in ("--set", setting)))
        return cls(original.override(changes) if changes else original, original, arguments)

    @classmethod
    def of(cls, recipe: Recipe) -> LoadedRecipe:
        """A recipe object: it is compared with the one of its name in recipes/, if there is one."""
        return cls(recipe, load_shipped(recipe.name) if recipe.name in recipe_names() else recipe)


def recipe_names() -> list[str]:
    """Names of the recipes in `recipes/`."""
    return sorted(p.stem for p in RECIPES.iterdir() if p.suffix in (".py", ".yaml") and p.stem != "__init__")


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """Turn "train.epochs=1" texts into {"train.epochs": 1}; values are read as YAML. Raises UserError."""
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f'--set "{setting}": want KEY=VALUE, as in --set train.epochs=1')
        try:
            changes[key.strip()] = read_yaml(value)
        except yaml.YAMLError as error:
            raise UserError(f'--set "{setting}": the value is not YAML ({one_line(error)})') from error
    return changes


def read_yaml(text: str) -> Any:
    """Parse YAML safely, with 5e-4 a number as in YAML 1.2. Raises YAMLError, also where it is too large."""
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"{len(text)} characters, but a recipe has at most {MOST_CHARACTERS}")
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # PyYAML's own for a date like 2001-99-99 or a number of a mile
        raise yaml.YAMLError(str(error)) from error


class _Loader(yaml.SafeLoader):
    """Reads YAML safely, and little of it.

    PyYAML follows YAML 1.1, where 5e-4 is a string for want of a dot; this adds YAML 1.2's floats. Aliases let a few
    lines stand for billions of values, and for values that hold themselves; what they stand for is counted.
    """

    def get_single_node(self) -> yaml.Node | None:
        """The document's tree. Raises YAMLError where it stands for too many values."""
        root = super().get_single_node()
        if root is not None and _size(root, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"with its aliases written out it has more than {MOST_VALUES} values")
        return root


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes a node stands for; one that holds itself stands for endlessly many."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # until it is known
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = isinstance(node, yaml.MappingNode)
        known[id(node)] = 1 + sum(_size(each, known) for child in children for each in (child if pairs else (child,)))
    return known[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _find(source: str) -> Path:
    path = Path(source).expanduser()
    if path.suffix in (".py", ".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"recipe {source}: no such file. `make list` shows the recipes that are there.")
        return path
    for suffix in (".py", ".yaml"):
        if os.sep not in source and (RECIPES / (source + suffix)).is_file():
            return RECIPES / (source + suffix)
    names = recipe_names()
    raise UserError(
        f'recipe "{source}" is neither a name in recipes/ ({", ".join(names)}) nor a .py or .yaml file.'
        + did_you_mean(source, names)
    )


def _from_python(path: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location(f"_recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except ValidationError as error:
        raise UserError(explain(error, path.stem)) from error
    except Exception as error:
        raise UserError(f"recipe {path}: the file fails with {type(error).__name__}: {one_line(error)}") from error
    finally:
        del sys.modules[spec.name]
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise UserError(f"recipe {path}: the file must set RECIPE = Recipe(...)")
    return recipe.model_dump()


def _from_yaml(path: Path) -> dict[str, Any]:
    try:
        values = read_yaml(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: the file cannot be read as YAML: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"recipe {path}: want a mapping with keys {', '.join(Recipe.model_fields)}")
    return values
