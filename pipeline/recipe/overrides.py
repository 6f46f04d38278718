"""Overrides of a recipe: "key=value" texts, dotted keys and nested mappings, and the paths among the values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel

from pipeline.recipe.formats import FORMATS, suffix_of
from pipeline.recipe.yaml_reader import read_yaml
from pipeline.utils.errors import UserError
from pipeline.utils.text import one_line

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
# Recipes saved before this folder was renamed name the old one.
_BUNDLED, _FORMER_BUNDLED = "recipes/bundled", "recipes/embedded"
# What belongs to a source of data and means nothing for another one.
_OF_A_SOURCE = ("name", "revision", "train", "validation", "test", "files", "delimiter", "quoting",
                "encoding", "field", "split", "split_columns")  # fmt: skip

# A recipe's values before they are validated, as YAML has them: groups of keys are dicts.
Values = dict[str, object]


def parse_overrides(settings: Iterable[str]) -> Values:
    """Turn "train.epochs=1" texts into {"train.epochs": 1}; values are read as YAML. Raises UserError."""
    changes: Values = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f'setting "{setting}" must be KEY=VALUE, as in train.epochs=1', arguments=("overrides",))
        try:
            changes[key.strip()] = read_yaml(value)
        except yaml.YAMLError as error:
            raise UserError(f'setting "{setting}": the value is not YAML ({one_line(error)})') from error
    return changes


def dotted(changes: Mapping[str, object], recipe: BaseModel) -> Values:
    """Nested changes as dotted keys: {"train": {"epochs": 1}} changes this one key and leaves its neighbors.

    Only what is a group of keys in `recipe` is taken apart. A mapping that is itself a value, such as `data.columns`,
    replaces the old one as a whole. Raises UserError for changes that are no mapping from keys.
    """
    if not isinstance(changes, Mapping) or not all(isinstance(key, str) for key in changes):
        raise UserError(
            f"changes of a recipe are {changes!r}, but must be a mapping from keys to values, such as "
            '{"train.epochs": 1}',
            arguments=("overrides",),
        )
    flat: Values = {}
    for key, value in changes.items():
        group: object = recipe
        for part in key.split("."):
            group = getattr(group, part, None)
        if isinstance(value, Mapping) and isinstance(group, BaseModel):
            flat |= {f"{key}.{inner}": item for inner, item in dotted(value, group).items()}
        else:
            flat[key] = value
    return flat


def merge(values: Values, changes: Mapping[str, object]) -> Values:
    """A recipe's values with `changes` applied; a new source clears what belonged to the old one.

    `values` is changed in place and returned. Raises UserError for a key below a single value.
    """
    data = values["data"]
    assert isinstance(data, dict), "a recipe has data"
    changes = dict(changes)
    files = {key: value for key, value in changes.items() if key.startswith("data.files.")}
    if files and "data.path" not in changes and data["path"] not in FORMATS:
        changes["data.path"] = _format_of(*next(iter(files.items())))
    if changes.get("data.path", data["path"]) != data["path"]:
        for key in _OF_A_SOURCE:
            data.pop(key, None)
    if changes.get("task", values["task"]) != values["task"]:
        values.pop("options", None)
    for key, value in changes.items():
        group, parts = values, key.split(".")
        for depth, part in enumerate(parts[:-1]):
            inner = {} if group.get(part) is None else group[part]
            if not isinstance(inner, dict):
                raise UserError(f'{key}: "{".".join(parts[: depth + 1])}" is a single value and has no keys')
            group[part] = group = inner
        group[parts[-1]] = value
    return values


def resolve_paths(values: Values, base: Path, only: Mapping[str, object] | None = None) -> Values:
    """Make the local paths in `values` absolute; with `only`, just those that its dotted keys name.

    Paths may be texts or `Path` objects. `values` is changed in place and returned.
    """

    def is_chosen(key: str) -> bool:
        return only is None or any(key == name or key.startswith(name + ".") for name in only)

    checkpoint = _as_text(values.get("checkpoint"))
    if isinstance(checkpoint, str) and is_chosen("checkpoint"):
        expanded = os.path.expanduser(checkpoint)
        is_path = (base / expanded).exists() or expanded.startswith((".", os.sep))
        values["checkpoint"] = _absolute(base, expanded) if is_path else checkpoint
    data = values.get("data")
    files = data.get("files") if isinstance(data, dict) else None
    if not isinstance(files, dict):
        return values
    for split, file in files.items():
        if is_chosen(f"data.files.{split}"):
            files[split] = _absolute_files(base, file)
    return values


def _format_of(key: str, file: object) -> str:
    first = file[0] if isinstance(file, list | tuple) and file else file
    suffix = suffix_of(str(first))
    if suffix not in FORMATS:
        raise UserError(f'{key}: cannot tell the format from ".{suffix}"; set data.path=csv or the like')
    return suffix


def _absolute_files(base: Path, files: object) -> object:
    """A path or a list of paths made absolute; anything else as it is."""
    if isinstance(files, list | tuple):
        return [_absolute_files(base, file) for file in files]
    file = _as_text(files)
    return _absolute(base, os.path.expanduser(file)) if isinstance(file, str) else files


def _as_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _absolute(base: Path, path: str) -> str:
    """The path made absolute; one into the former folder of bundled data leads to the current one."""
    absolute = os.path.normpath(base / path)
    before, former, rest = absolute.replace(os.sep, "/").partition(f"/{_FORMER_BUNDLED}/")
    if not former or os.path.exists(absolute):
        return absolute
    candidates = (Path(before, _BUNDLED, rest), RECIPES / "bundled" / rest)
    return next((str(path) for path in candidates if path.exists()), absolute)
