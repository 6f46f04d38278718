"""The tables of the tour, as text: HTML and Markdown show the same cells."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.deploy.report.content import FRAMEWORK_NAMES, in_words, number_in_words
from pipeline.reporting.elements import Cell, Finding, Table
from pipeline.reporting.formatting import UNDEFINED, measured, small
from pipeline.tour.results import (
    CodeComparison,
    Fact,
    NanCheck,
    Probe,
    SentenceTour,
    ShownError,
    StepCost,
    Stop,
    TourResults,
)
from pipeline.utils.text import count

_ANSWERS = {
    "as eager": Finding("good", "As eager"),
    "other than eager": Finding("bad", "Wrong"),
    "refused": Finding("unknown", "Refused"),
}
# What each probe does, for people.
PROBES = {
    "talks": "prints a line",
    "remembers": "adds to a list",
    "decides": "branches on a value",
    "halves": "takes new lengths",
}
_APART = (
    " Each framework trains with an Adam of its own here, and Keras' adds its epsilon at another place than PyTorch's. "
    "For its recipes this project has one optimizer, the same in both: see the section on the same numbers."
)
# Of a table whose rows are in groups by framework.
Groups = dict[str, list[list[Cell]]]


def sizes(found: SentenceTour) -> Table:
    """The sizes of the tiny Transformer."""
    rows: list[list[Cell]] = [[name, str(number)] for name, number in found.sizes.items()]
    return Table("Sizes of the model", ["Size", "Value"], {"": rows})


def losses(found: SentenceTour) -> Table:
    """The loss at the beginning, in the middle and at the end of the training, in both frameworks."""
    steps = dict.fromkeys((0, found.steps // 2, found.steps - 1))
    rows: list[list[Cell]] = [
        [f"step {step + 1}", *(number_in_words(each[step]) for each in found.losses.values())] for step in steps
    ]
    apart = found.first_step_over_rounding
    note = f"The losses are equal within one millionth {equal_steps(apart, found.steps)}." + (_APART if apart else "")
    return Table("Training", ["Loss", *(FRAMEWORK_NAMES[name] for name in found.losses)], {"": rows}, note)


def equal_steps(first_apart: int | None, steps: int) -> str:
    """In which steps two trainings are equal, from the first one, counted from 1, in which they are not."""
    if first_apart is None:
        return f"in all {count(steps, 'step')}"
    if first_apart < 3:
        return "in no step" if first_apart == 1 else "in the first step only"
    return f"until step {first_apart - 1}"


def calls(results: TourResults) -> Table:
    """Attention alone in each mode of execution."""
    groups: Groups = {}
    for cost in results.calls:
        cells = [text for each in cost.shapes for text in (in_words(each.milliseconds), in_words(each.gain))]
        first = UNDEFINED if cost.first_call_seconds is None else number_in_words(1000 * cost.first_call_seconds)
        row: list[Cell] = [cost.mode, first, small(cost.largest_difference)]
        row += cells or [UNDEFINED] * 2 * len(results.call_shapes)
        groups.setdefault(FRAMEWORK_NAMES[cost.framework], []).append(row)
    shapes = [text for each in results.call_shapes for text in (f"{sizes_of(each)}, ms", "times as fast as eager")]
    problems = [f" {cost.mode}: {cost.problem}." for cost in results.calls if cost.problem]
    note = "Shapes are those of queries, keys and values: texts × heads × tokens × width of a head."
    columns = ["Mode", "First call, ms", "Largest difference", *shapes]
    return Table("Attention alone", columns, groups, note + "".join(problems))


def sizes_of(shape: Iterable[int]) -> str:
    """ "1 × 2 × 8 × 16"."""
    return " × ".join(map(str, shape))


def runs(probes: list[Probe]) -> Table:
    """How often Python ran in functions that do something besides computing."""
    groups: Groups = {}
    for probe in probes:
        if probe.runs_by_call:
            by_call = ", ".join(map(str, probe.runs_by_call))
            row = [*_probed(probe), str(probe.runs_when_made), by_call]
            groups.setdefault(FRAMEWORK_NAMES[probe.framework], []).append(row)
    note = "How often Python ran: while the graph was made, and in each call."
    return Table("Three calls", ["Mode and function", "Results", "When made", "By call"], groups, note, num_texts=2)


def answers(probes: list[Probe]) -> Table:
    """What became of functions that depend on values and lengths."""
    groups: Groups = {}
    for probe in probes:
        if not probe.runs_by_call:
            groups.setdefault(FRAMEWORK_NAMES[probe.framework], []).append(_probed(probe))
    title = "Other values, and other lengths than the example's"
    note = "Wrong: other values than eagerly, without any message."
    return Table(title, ["Mode and function", "Results"], groups, note, num_texts=2)


def _probed(probe: Probe) -> list[Cell]:
    answer = _ANSWERS[probe.answer]
    cell = Finding(answer.state, answer.word, probe.problem) if probe.problem else answer
    return [f"{probe.mode}: {probe.function}, which {PROBES[probe.function]}", cell]


def code(comparisons: list[CodeComparison]) -> Table:
    """The tokens that two texts share, and how many names of the framework each has."""
    rows: list[list[Cell]] = [
        [
            each.name,
            *(str(number) for number in each.tokens.values()),
            f"{share(each):.0%}",
            *(str(len(names)) for names in each.names.values()),
        ]
        for each in comparisons
    ]
    names = list(FRAMEWORK_NAMES.values())
    columns = ["What", *(f"{name}, tokens" for name in names), "Shared", *(f"{name}, names" for name in names)]
    note = (
        "Tokens are Python's, without comments and docstrings. Shared: those that stand in both texts in the same "
        "order. Names: how many of the framework's names a reader meets."
    )
    return Table("The same in both frameworks", columns, {"": rows}, note)


def names(comparison: CodeComparison) -> Table:
    """The names of the frameworks in a text."""
    rows: list[list[Cell]] = [
        [FRAMEWORK_NAMES[framework], ", ".join(found)] for framework, found in comparison.names.items()
    ]
    return Table("The names in the training", ["Framework", "Names"], {"": rows}, num_texts=2)


def share(comparison: CodeComparison) -> float:
    """The part of the longer text that stands in the other, too."""
    return comparison.shared_tokens / max(comparison.tokens.values())


def errors(found: list[ShownError]) -> Table:
    """What each mode shows of the planted error."""
    groups: Groups = {}
    for each in found:
        cell = Finding("good", "Yes") if each.names_the_line else Finding("bad", "No")
        row: list[Cell] = [each.mode, cell, each.message, str(each.frames), str(each.own_frames)]
        groups.setdefault(FRAMEWORK_NAMES[each.framework], []).append(row)
    columns = ["Mode", "Line shown", "Message, shortened", "Lines of the traceback", "Of this project"]
    return Table("The error", columns, groups, num_texts=3)


def stops(found: list[Stop]) -> Table:
    """Where the debugger stopped, and what it printed."""
    groups: Groups = {}
    for each in found:
        by_call = ", ".join(map(str, each.stops_by_call)) or UNDEFINED
        row: list[Cell] = [each.mode, each.shown or "it did not stop", str(each.stops_when_made), by_call]
        groups.setdefault(FRAMEWORK_NAMES[each.framework], []).append(row)
    columns = ["Mode", "It prints", "Stops when made", "Stops by call"]
    return Table("The debugger is asked for the variable doubled_N", columns, groups, num_texts=2)


def nan_checks(found: list[NanCheck]) -> Table:
    """A NaN without and with a check."""
    rows: list[list[Cell]] = [
        [FRAMEWORK_NAMES[each.framework], each.silent, each.message, "yes" if each.names_the_line else "no"]
        for each in found
    ]
    columns = ["Framework", "Without a check", "The check's message, shortened", "Line shown"]
    return Table("The gradient of an entropy where a weight is 0", columns, {"": rows}, num_texts=4)


def steps(costs: list[StepCost]) -> Table:
    """Time and memory of training steps, and where the time goes."""
    groups: Groups = {}
    for cost in costs:
        row: list[Cell] = [
            FRAMEWORK_NAMES[cost.framework],
            in_words(cost.milliseconds),
            number_in_words(cost.first_step_seconds),
            measured(cost.peak_memory_bytes, "bytes")[0],
            *(number_in_words(number) for number in cost.milliseconds_by_kind.values()),
        ]
        groups.setdefault(f"{cost.model}, {cost.recipe}", []).append(row)
    kinds = list(costs[0].milliseconds_by_kind) if costs else []
    note = (
        "Processor time of one thread in a fresh process. Memory is the most that the process held, Python included. "
        "The kinds are shares of profiled steps, times the time of a step that was not profiled. Between operators: "
        "Python, the runtime, reading batches."
    )
    title = "Time and memory of a step, and its milliseconds by kind of operator"
    return Table(title, ["Framework", "Step, ms", "First step, s", "Memory, MiB", *kinds], groups, note)


def facts(found: list[Fact]) -> Table:
    """What is stated without being measured."""
    rows: list[list[Cell]] = [[each.subject, each.statement, f"{each.date}: {each.source}"] for each in found]
    columns = ["Subject", "What holds", "Date and source"]
    return Table("Stated, with date and source", columns, {"": rows}, num_texts=3)


def versions(found: dict[str, str]) -> Table:
    """What is installed."""
    rows: list[list[Cell]] = [[name, version] for name, version in found.items()]
    return Table("Installed here", ["Package", "Version"], {"": rows}, num_texts=2)
