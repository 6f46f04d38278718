"""The space of a sweep: which keys of a recipe take which values, read from a text or a mapping, and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import yaml

from pipeline.recipe.schema import Recipe
from pipeline.recipe.yaml_reader import read_yaml
from pipeline.utils.errors import UserError
from pipeline.utils.text import one_line

# A value that a trial gives a key.
Value = str | int | float | bool | None
Kind = Literal["choice", "log", "uniform", "int"]
WAYS = "KEY=log(LOW,HIGH), KEY=uniform(LOW,HIGH), KEY=int(LOW,HIGH) or KEY=VALUE,VALUE,..."
_RANGE = re.compile(r"(\w+)\((.*)\)", re.DOTALL)
# Settings are separated by spaces, but a space may also be inside one, as in "log(1e-5, 1e-3)".
_BETWEEN_SETTINGS = re.compile(r"\s+(?=[^\s=,()]+\s*=)")
# What decides which rows are scored, and how: with other values of these keys, two scores cannot be compared.
_DECIDE_THE_SCORE = (
    "name", "task", "metrics", "data.path", "data.name", "data.revision", "data.files.validation", "data.files.test",
    "data.validation", "data.test", "data.limit.validation", "data.limit.test", "data.split", "train.keep_metric",
)  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """A key of the recipe and its values: the choices, or the lowest and the highest of a range."""

    key: str
    kind: Kind
    values: tuple[Value, ...]

    def __str__(self) -> str:
        values = ",".join(map(shown, self.values))
        return values if self.kind == "choice" else f"{self.kind}({values})"

    def contains(self, value: object) -> bool:
        """Whether a trial may have this value."""
        if self.kind == "choice":
            return any(each == value and isinstance(each, bool) == isinstance(value, bool) for each in self.values)
        low, high = cast("tuple[float, float]", self.values)
        is_number = isinstance(value, int if self.kind == "int" else int | float) and not isinstance(value, bool)
        return is_number and low <= cast(float, value) <= high

    def all_values(self) -> Sequence[Value] | None:
        """Every value that there is; None if there are endlessly many."""
        if self.kind == "choice":
            return self.values
        low, high = cast("tuple[int, int]", self.values)
        return range(low, high + 1) if self.kind == "int" else None

    def samples(self) -> tuple[Value, ...]:
        """Values by which the key can be tried out: the choices, or both ends of the range and what is between."""
        if self.kind not in ("log", "uniform"):
            return self.values
        low, high = cast("tuple[float, float]", self.values)
        return low, high, math.sqrt(low * high) if self.kind == "log" else (low + high) / 2


def shown(value: Value) -> str:
    """A value as YAML has it, with all its digits."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def brief(value: Value) -> str:
    """A value for people: a number with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else shown(value)


def read_space(space: str | Mapping[str, object], recipe: Recipe) -> tuple[Parameter, ...]:
    """The parameters of a space, given as "KEY=VALUES KEY=VALUES" or as a mapping from keys to values.

    The values are "log(1e-5,1e-3)", "uniform(0,0.1)", "int(1,5)", or choices: "16,32", in a mapping also a list.
    Raises UserError naming the setting that is wrong, or does not fit the recipe.
    """
    parameters = tuple(_settings(space))
    if not parameters:
        raise UserError(f"the space is empty; write {WAYS}", arguments=("space",))
    keys = [parameter.key for parameter in parameters]
    if repeated := [key for key in keys if keys.count(key) > 1]:
        raise UserError(f"space: {repeated[0]} is given twice", arguments=("space",))
    for parameter in parameters:
        _refuse_misfit(parameter, recipe)
    return parameters


def _settings(space: str | Mapping[str, object]) -> Iterator[Parameter]:
    if isinstance(space, Mapping):
        for key, values in space.items():
            yield _parameter(key, values if isinstance(values, str) else _listed(key, values))
        return
    if not isinstance(space, str):
        raise UserError(f"the space is {space!r}, but must be a text or a mapping; write {WAYS}", arguments=("space",))
    for setting in _BETWEEN_SETTINGS.split(space.strip()) if space.strip() else ():
        key, equals, values = setting.partition("=")
        if not (equals and key.strip() and values.strip()):
            raise _not_a_setting(setting)
        yield _parameter(key.strip(), values.strip())


def _listed(key: str, values: object) -> list[object]:
    if isinstance(values, list | tuple | range):
        return list(values)
    raise UserError(
        f'space: the values of {key} are {values!r}, but must be a text, such as "log(1e-5,1e-3)", or a list of values',
        arguments=("space",),
    )


def _parameter(key: str, values: str | list[object]) -> Parameter:
    """A setting, its values still unknown to the recipe. Raises UserError."""
    setting = f"{key}={values}"
    if isinstance(values, list):
        return _choices(setting, key, values)
    if match := _RANGE.fullmatch(values):
        return _range(setting, key, match[1], [_read(setting, part) for part in match[2].split(",")])
    if "(" in values or ")" in values:
        raise _not_a_setting(setting)
    return _choices(setting, key, [_read(setting, part) for part in values.split(",")])


def _choices(setting: str, key: str, values: list[object]) -> Parameter:
    for value in values:
        if not isinstance(value, Value):
            raise _wrong(setting, f"{value!r} is not a single value, which a choice must be")
    chosen = cast("list[Value]", values)
    if len({(type(value), value) for value in chosen}) < len(chosen):
        raise _wrong(setting, "a value is given twice")
    if len(chosen) < 2:
        raise _wrong(setting, "a sweep needs two values or more; what is to be the same in all trials is an override")
    return Parameter(key, "choice", tuple(chosen))


def _range(setting: str, key: str, kind: str, ends: list[object]) -> Parameter:
    if kind not in ("log", "uniform", "int") or len(ends) != 2:
        raise _not_a_setting(setting)
    for end in ends:
        is_number = isinstance(end, int if kind == "int" else int | float) and not isinstance(end, bool)
        if not is_number or not math.isfinite(cast(float, end)):
            wanted = "a whole number" if kind == "int" else "a number"
            raise _wrong(setting, f"{end!r} is an end of the range, but must be {wanted}")
    low, high = cast("list[float]", ends)
    if low >= high:
        raise _wrong(setting, f"the lowest value, {low:g}, must come first and be below the highest, {high:g}")
    if kind == "log" and low <= 0:
        raise _wrong(setting, f"the lowest value of log(LOW,HIGH) is {low:g}, but must be above 0; uniform takes any")
    values = (int(low), int(high)) if kind == "int" else (float(low), float(high))
    return Parameter(key, cast(Kind, kind), values)


def _read(setting: str, text: str) -> object:
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise _wrong(setting, f'"{text}" cannot be read as a value ({one_line(error)})') from error


def _refuse_misfit(parameter: Parameter, recipe: Recipe) -> None:
    """Raise UserError if the recipe does not take a value, or if scores could not be compared, or would be the same."""
    key, setting = parameter.key, f"{parameter.key}={parameter}"
    if any(key == each or key.startswith(f"{each}.") or each.startswith(f"{key}.") for each in _DECIDE_THE_SCORE):
        raise _wrong(setting, f"trials are compared by one score on the same rows, which {key} would change")
    variants = []
    for value in parameter.samples():
        try:
            variants.append(recipe.override({key: value}).experiment())
        except UserError as error:
            whole = isinstance(value, float) and "integer" in str(error)
            advice = f"; write whole numbers as {key}=int(LOW,HIGH), or name them: {key}=16,32" if whole else ""
            raise _wrong(setting, f"{error}{advice}") from error
    if all(variant == variants[0] for variant in variants):
        raise _wrong(setting, f"{key} changes nothing in a result")


def _not_a_setting(setting: str) -> UserError:
    return UserError(f'space: "{setting}" is not a setting of a sweep; write {WAYS}', arguments=("space",))


def _wrong(setting: str, what: str) -> UserError:
    return UserError(f"space: {setting}: {what}", arguments=("space",))
