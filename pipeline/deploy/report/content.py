"""The sentences and tables of a deployment report: results in, text out, so that they cannot disagree."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pipeline.deploy.report.results import DeploymentResults, FormatCost, ModeCost, Spread, Work
from pipeline.reporting.content import Section
from pipeline.reporting.elements import Finding, Table
from pipeline.reporting.formatting import FRAMEWORK_NAMES, UNDEFINED, measured, small
from pipeline.utils.text import count, factor

_METHOD = {
    "Processor time": "User and system time of the process, computing with one thread: what else the machine does "
    "changes it little. Each measurement is the mean of several calls; tables show the median of all measurements and "
    "their range.",
    "First answer": "Processor time from the start of Python until the first answer: imports, loading, tracing.",
    "Memory": "The most that a fresh process held at once, Python included.",
    "Agreement": "Before a format is measured, its runtime answers every validation row in a process that cannot "
    "import transformers. What differs from the run by more than rounding, or with int8 weights by more than the "
    "limits of an export, is refused and has no figures here.",
    "Times as fast": "Eager's processor time divided by the mode's own. The modes are measured in turns in one "
    "process, and each repeat gives a ratio.",
    "Modes": "Number of rows and length stay open in every graph. The library's model is used as it is, without "
    "packed rows. A training step is a forward pass with dropout, cross-entropy with made-up labels, a backward pass, "
    "clipping and AdamW. TensorFlow's graphs hold the whole step; PyTorch's hold the forward pass, and "
    "torch.compile's the backward pass, too.",
    "Not measured": "Servers of other projects, such as TF Serving, TorchServe and Triton; GPUs; several threads.",
}
_WRITTEN = (
    "The model writes texts. The answer whose cost is measured is one forward pass, which gives the logits of tokens "
    "that are there already. To write a text takes a pass for each token."
)


def _method(results: DeploymentResults) -> dict[str, str]:
    return {"Answer": _WRITTEN} | _METHOD if results.writes_texts else _METHOD


def facts(results: DeploymentResults) -> str:
    """The line under the title."""
    quick = " · quick, with few repeats" if results.quick else ""
    return f"{results.run.label} · {results.task} · {results.checkpoint} · {results.processor}{quick}"


def answers(results: DeploymentResults) -> dict[str, Finding]:
    """The first screen: its questions with their answers."""
    return {
        "Does every format answer as the run does?": _agreement(results),
        "Which format costs least?": _least(results),
        "What is a graph worth?": _graphs(results),
    }


def sections(results: DeploymentResults) -> list[Section]:
    """The report's sections; those without content are left out."""
    problems = problems_table(results)
    modes = [modes_table(results, work) for work in ("inference", "training step")]
    found = [
        Section("formats", "Formats", tables=[formats_table(results)], figures_first=True),
        Section("modes", "Eager and graphs", tables=modes, figures_first=True) if results.modes else None,
        Section("missing", "What could not be measured", tables=[problems]) if problems else None,
        Section("machine", "Machine", tables=[_machine(results)]),
        Section("method", "How it was measured", points=_method(results)),
    ]
    return [section for section in found if section]


def _agreement(results: DeploymentResults) -> Finding:
    exports = [each for each in results.formats if each.format is not None]
    proved = [each for each in exports if each.problem is None]
    failed = [each.title for each in exports if each.problem is not None and not each.is_unsupported]
    unsupported = [each.title for each in exports if each.is_unsupported]
    if not proved:
        return Finding(
            "bad", "No", f"No format could be measured: {', '.join(failed + unsupported) or 'none was asked for'}."
        )
    rows = count(results.validation_rows, "validation row")
    sentence = f"{listed([each.title for each in proved])} {_verb(proved)} {rows} as the run does"
    if exact := [each for each in proved if each.quantization is None]:
        largest = max(each.largest_difference or 0.0 for each in exact)
        sentence += "; in fp32, " + (
            f"logits differ by at most {small(largest)}" if largest else "the logits are equal"
        )
    if rounded := [each for each in proved if each.quantization is not None]:
        least = min(1.0 if each.agreement is None else each.agreement for each in rounded)
        # Rounded down: 100% means all.
        share = "all" if least == 1 else f"{math.floor(1000 * least) / 10:.1f}% or more"
        sentence += f"; with int8 weights, {share} of the predictions are the same"
    if unsupported:
        sentence += f". {listed(unsupported)} cannot hold a model like this one"
    if not failed:
        return Finding("good", "Yes", f"{sentence}.")
    return Finding("unknown", "Not all", f"{sentence}. There are no figures for {listed(failed)}.")


def _verb(formats: list[FormatCost]) -> str:
    return "answers" if len(formats) == 1 else "answer"


def _named(each: FormatCost) -> str:
    return "the run itself" if each.format is None else each.title


def _least(results: DeploymentResults) -> Finding:
    known = [each for each in results.formats if each.cost is not None]
    if len(known) < 2:
        return Finding("unknown", "Not settled", "There are not two formats with figures to compare.")
    sentences = []
    for number, shape in enumerate(results.shapes):
        spreads = {_named(each): each.cost.milliseconds[number] for each in known if each.cost is not None}
        best, others = _best(spreads)
        also = f"; the range of {listed(others)} overlaps" if others else ""
        work = "a forward pass of " if results.writes_texts else ""
        sentences.append(
            f"For {work}{shape_name(shape)}, {best} needs the least processor time, "
            f"{number_in_words(spreads[best].median)} ms{also}."
        )
    smallest = min((each for each in known if each.model_bytes is not None), key=lambda each: each.model_bytes or 0)
    memory, _ = _best({_named(each): each.cost.peak_memory_bytes for each in known if each.cost is not None})
    sentences.append(
        f"The smallest model is that of {_named(smallest)}; the process of {memory} holds the least memory."
    )
    return Finding("good", "Measured", " ".join(sentences))


def _graphs(results: DeploymentResults) -> Finding:
    found = [cost for cost in results.modes if cost.shapes]
    if not found:
        return Finding("unknown", "Not settled", "No mode of execution could be measured.")
    sentences = []
    for framework in dict.fromkeys(cost.framework for cost in found):
        parts = []
        for work, number in (("inference", 0), ("training step", -1)):
            costs = [cost for cost in found if cost.framework == framework and cost.work == work]
            if len(costs) > 1:
                where = "a training step" if work == "training step" else "inference"
                parts.append(f"for {where} with {shape_name(results.shapes[number])}, {gain_in_words(costs, number)}")
        if parts:
            sentences.append(f"{FRAMEWORK_NAMES[framework]}: {'; '.join(parts)}.")
    if not sentences:
        return Finding("unknown", "Not settled", "No graph could be measured.")
    return Finding("good", "Measured", " ".join(sentences))


def gain_in_words(costs: list[ModeCost], number: int) -> str:
    """What the graph that gains most gains on a shape."""
    graphs = {cost.mode: cost.shapes[number].gain for cost in costs if cost.mode != "eager"}
    best = max(graphs, key=lambda mode: graphs[mode].median)
    if graphs[best].low <= 1:
        return "no graph was faster than eager in every repeat"
    return f"{best} is {factor(graphs[best].median)} times as fast as eager"


def formats_table(results: DeploymentResults) -> Table:
    """Each format beside the run itself."""
    shapes = [f"{shape_name(shape)}, ms" for shape in results.shapes]
    return Table(
        "Size, cost and agreement of each format",
        [
            "Format", "Runtime", "Model, MiB", "Agreement", "Largest difference", "First answer, s", *shapes,
            "Memory, MiB",
        ],
        {"": [_format_row(each, len(shapes)) for each in results.formats]},
        f"In {count(results.processes, 'fresh process')} for each format, with one thread. The first row is the run "
        f"itself{'' if results.writes_texts else ', as predict computes it'}.",
        num_texts=2,
    )  # fmt: skip


def _format_row(each: FormatCost, num_shapes: int) -> list[str | Finding]:
    size = UNDEFINED if each.model_bytes is None else measured(each.model_bytes, "bytes")[0]
    agreement = UNDEFINED if each.agreement is None else f"{each.agreement:.2%}"
    cells: list[str | Finding] = [
        each.title,
        each.runtime or UNDEFINED,
        size,
        agreement,
        small(each.largest_difference),
    ]
    if each.cost is None:
        return [*cells, *[UNDEFINED] * (num_shapes + 2)]
    cost, memory = each.cost, each.cost.peak_memory_bytes
    in_mib = Spread(median=memory.median / 2**20, low=memory.low / 2**20, high=memory.high / 2**20)
    return [*cells, *map(in_words, (cost.first_answer_seconds, *cost.milliseconds, in_mib))]


def modes_table(results: DeploymentResults, work: Work) -> Table:
    """Each mode of execution of both frameworks beside eager."""
    shapes = [title for shape in results.shapes for title in (f"{shape_name(shape)}, ms", "times as fast as eager")]
    groups: dict[str, list[list[str | Finding]]] = {}
    for cost in results.modes:
        if cost.work == work:
            cells = [text for each in cost.shapes for text in (in_words(each.milliseconds), in_words(each.gain))]
            first = UNDEFINED if cost.first_call_seconds is None else number_in_words(cost.first_call_seconds)
            checked = [small(cost.largest_difference)] if work == "inference" else []
            row = [cost.mode, first, *checked, *(cells or [UNDEFINED] * len(shapes))]
            groups.setdefault(FRAMEWORK_NAMES[cost.framework], []).append([*row])
    title = "A forward pass" if work == "inference" else "A training step"
    difference = ["Largest difference"] if work == "inference" else []
    note = f"Over {count(results.repeats, 'interleaved repeat')}."
    if difference:
        note += " The difference is that of a logit from eager's; what differs by more than rounding has no figures."
    return Table(title, ["Mode", "First call, s", *difference, *shapes], groups, note)


def problems_table(results: DeploymentResults) -> Table:
    """Everything that was asked for and has no figures, with the cause; causes that several share are told once."""
    causes: dict[str, list[str]] = {}
    for each in results.formats:
        if each.problem is not None:
            causes.setdefault(each.problem, []).append(each.title)
    for cost in results.modes:
        if cost.problem is not None:
            name = f"{FRAMEWORK_NAMES[cost.framework]}, {cost.work}: {cost.mode}"
            causes.setdefault(cost.problem, []).append(name)
    rows: list[list[str | Finding]] = [["; ".join(names), cause] for cause, names in causes.items()]
    return Table("What has no figures, and why", ["What", "Why"], {"": rows}, num_texts=2)


def _machine(results: DeploymentResults) -> Table:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    rows: list[list[str | Finding]] = [
        ["Run", results.run_folder],
        ["Processor", results.processor],
        ["Versions", versions],
    ]
    return Table("Where it was measured", ["What", "Which"], {"": rows}, num_texts=2)


def _best(spreads: dict[str, Spread]) -> tuple[str, list[str]]:
    """The name of the lowest median, and the names whose range reaches into its range."""
    best = min(spreads, key=lambda name: spreads[name].median)
    return best, [name for name, each in spreads.items() if name != best and each.low <= spreads[best].high]


def shape_name(shape: Iterable[int]) -> str:
    """ "32×64" for rows and tokens."""
    return "×".join(map(str, shape))


def in_words(spread: Spread) -> str:
    """ "1.23 (1.20 to 1.31)"; one number if there is no range."""
    low, high = number_in_words(spread.low), number_in_words(spread.high)
    return low if low == high else f"{number_in_words(spread.median)} ({low} to {high})"


def number_in_words(value: float) -> str:
    """A measured number with three figures."""
    return measured(value, "")[0]


def listed(names: list[str]) -> str:
    """ "a, b and c"."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
