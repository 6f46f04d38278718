"""The tasks that a recipe may name, with their options; `pipeline/tasks/options.py` fills the table."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from pipeline.utils.errors import did_you_mean


class StrictModel(BaseModel):
    """A group of a recipe's keys: frozen, and strict about names and types.

    The text below a key describes it: in the JSON Schema of recipes, and word for word in recipes/README.md.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Options(StrictModel):
    """The base of each task's options."""


@dataclass(frozen=True)
class TaskEntry:
    """What a recipe must know about a task: its options, and other names by which people may ask for it.

    A `former_name` is accepted and replaced; the names of `also_called` get a hint.
    """

    options: type[Options]
    former_name: str | None = None
    also_called: tuple[str, ...] = ()

    def read_options(self, task: str, value: object) -> Options:
        """The options with these values. Raises ValueError, pydantic's own among them, naming the key that is wrong."""
        known = self.options.model_fields
        for key in value if isinstance(value, dict) else ():
            if key not in known:
                there = f"{task} has: {', '.join(known)}" if known else f"{task} has none"
                raise ValueError(f'has no key "{key}"; {there}.{did_you_mean(key, known)}')
        return self.options.model_validate({} if value is None else value)


TASKS: dict[str, TaskEntry] = {}


def register_task(
    name: str, options: type[Options], former_name: str | None = None, also_called: tuple[str, ...] = ()
) -> None:
    """Make a task known to recipes."""
    TASKS[name] = TaskEntry(options, former_name, also_called)


def task_name(name: str) -> str:
    """The name of a task as it is called today. Raises ValueError, with a hint, for a name of no task."""
    if name in TASKS:
        return name
    for task, entry in TASKS.items():
        if name == entry.former_name:
            return task
        if name in entry.also_called:
            raise ValueError(f'is "{name}", which is called "{task}" here; set task={task}')
    raise ValueError(f'is "{name}", but the tasks are: {", ".join(TASKS)}.{did_you_mean(name, TASKS)}')
