"""Loads recipes: by their name in recipes/ or from a .py or .yaml file, with overrides."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from pipeline.recipe.overrides import RECIPES, Values, parse_overrides, resolve_paths
from pipeline.recipe.schema import VALUES_BEFORE_KEYS, Recipe, explain_error, validated
from pipeline.recipe.yaml_reader import read_yaml
from pipeline.utils.errors import UserError, did_you_mean
from pipeline.utils.text import one_line, shorten


def load_recipe(source: str | os.PathLike | Recipe, overrides: Mapping[str, object] | Iterable[str] = ()) -> Recipe:
    """Read a recipe by its name in `recipes/` or by the path of a .py or .yaml file; a Recipe is taken as it is.

    `overrides` are a mapping, as for `Recipe.override`, or "key=value" texts. Relative paths in the recipe are
    relative to its file's folder, those in overrides to the working directory. Raises UserError.

    >>> load_recipe("sentiment_bert", {"train.epochs": 1}).train.epochs
    1
    """
    recipe = source if isinstance(source, Recipe) else load_shipped(source)
    if isinstance(overrides, str):
        overrides = [overrides]
    if isinstance(overrides, Iterable) and not isinstance(overrides, Mapping):
        overrides = parse_overrides(overrides)
    return recipe.override(overrides) if overrides else recipe


def load_shipped(source: str | os.PathLike) -> Recipe:
    """The recipe as its file has it, paths made absolute. Raises UserError."""
    if not isinstance(source, str | os.PathLike):
        raise UserError(
            f"recipe is {shorten(repr(source), 80)}, but must be a Recipe, a name in recipes/, or the path of a .py or "
            ".yaml file",
            arguments=("recipe",),
        )
    path = _find(str(source))
    if path.suffix == ".py":
        values, name = _from_python(path), path.stem
    else:
        values, name = _from_yaml(path), path.name
    return validated(resolve_paths(values, path.resolve().parent), name)


def load_resolved(path: Path) -> Recipe:
    """The resolved recipe of a run; newer keys, which older versions did not write, are completed. Raises UserError."""
    values = completed(_from_yaml(path))
    return validated(resolve_paths(values, path.resolve().parent), path.name)


def completed(values: Mapping[str, object]) -> Values:
    """The values of a resolved recipe, with what `VALUES_BEFORE_KEYS` says for the keys that it lacks."""
    out: Values = {**values}
    for section, before in VALUES_BEFORE_KEYS.items():
        given = out.get(section)
        out[section] = {**before, **given} if isinstance(given, Mapping) else given
    return out


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with its overrides, what it was before them, and the arguments of the command that give it.

    Default folders have the recipe's name alone if nothing was overridden. `arguments` is None for a recipe that no
    file holds.
    """

    recipe: Recipe
    original: Recipe
    arguments: tuple[str, ...] | None = None

    @classmethod
    def read(cls, source: str | os.PathLike, settings: Sequence[str] = ()) -> LoadedRecipe:
        """A name or path with "key=value" settings, the file read once. Raises UserError."""
        original, changes = load_shipped(source), parse_overrides(settings)
        arguments = (str(source), *(part for setting in settings for part in ("--set", setting)))
        return cls(original.override(changes) if changes else original, original, arguments)

    @classmethod
    def of(cls, source: RecipeSource) -> LoadedRecipe:
        """A recipe object, a name in recipes/, or the path of a file. Raises UserError.

        The original of an object is the recipe of its name in recipes/, if there is one.
        """
        if isinstance(source, LoadedRecipe):
            return source
        if not isinstance(source, Recipe):
            return cls.read(source)
        return cls(source, load_shipped(source.name) if source.name in recipe_names() else source)


# What a function takes where it needs a recipe.
RecipeSource = Recipe | LoadedRecipe | str | os.PathLike[str]


def recipe_names() -> list[str]:
    """Names of the recipes in `recipes/`."""
    return sorted(p.stem for p in RECIPES.iterdir() if p.suffix in (".py", ".yaml") and p.stem != "__init__")


def _find(source: str) -> Path:
    path = Path(source).expanduser()
    if path.suffix in (".py", ".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"recipe {source}: no such file. Recipes in recipes/ are: {', '.join(recipe_names())}")
        return path
    for suffix in (".py", ".yaml"):
        if os.sep not in source and (RECIPES / (source + suffix)).is_file():
            return RECIPES / (source + suffix)
    names = recipe_names()
    raise UserError(
        f'recipe "{source}" is neither a name in recipes/ ({", ".join(names)}) nor a .py or .yaml file.'
        + did_you_mean(source, names)
    )


def _from_python(path: Path) -> Values:
    spec = importlib.util.spec_from_file_location(f"_recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except ValidationError as error:
        raise UserError(explain_error(error, path.stem)) from error
    except Exception as error:
        raise UserError(f"recipe {path}: the file fails with {type(error).__name__}: {one_line(error)}") from error
    finally:
        del sys.modules[spec.name]
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise UserError(f"recipe {path}: the file must set RECIPE = Recipe(...)")
    return recipe.model_dump()


def _from_yaml(path: Path) -> Values:
    try:
        values = read_yaml(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: the file cannot be read as YAML: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"recipe {path}: the file must be a mapping with the keys {', '.join(Recipe.model_fields)}")
    return values
