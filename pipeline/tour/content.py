"""The sections of the tour: results in, sentences and listings out, so that they cannot disagree."""

from __future__ import annotations

from pipeline.deploy.report.content import (
    FRAMEWORK_NAMES,
    answers,
    formats_table,
    gain_in_words,
    listed,
    modes_table,
    number_in_words,
    problems_table,
)
from pipeline.reporting.content import Listing, Section
from pipeline.reporting.formatting import date, small
from pipeline.reporting.sameness.tables import lockstep
from pipeline.reporting.writer import Content, Names
from pipeline.tour import tables
from pipeline.tour.figures import pictures
from pipeline.tour.results import ShownError, Stage, Stop, TourResults
from pipeline.tour.words import WORDS, heading

NAMES = Names("tour.html", "tour.md", "tour.json")


def content_of(results: TourResults) -> Content:
    """What the tour says."""
    quick = " · quick, with few repeats" if results.quick else ""
    return Content(
        kind="tour",
        heading="PyTorch and TensorFlow, side by side",
        created=date(results.created),
        facts=f"Measured on this machine: {results.processor}, one thread{quick}",
        answers={},
        sections=sections(results),
        pictures=pictures(results),
        names=NAMES,
    )


def sections(results: TourResults) -> list[Section]:
    """The tour's sections, in the order in which they are read."""
    return [
        Section("start", *heading("start"), points=WORDS.points["start"]),
        _sentence(results),
        _idea(results),
        _code(results),
        _debugging(results),
        _graphs(results),
        _performance(results),
        _deployment(results),
        _sameness(results),
        Section(
            "ecosystem",
            *heading("ecosystem"),
            WORDS.ecosystem,
            tables=[tables.facts(results.facts), tables.versions(results.versions)],
        ),
        Section("questions", *heading("questions"), points=WORDS.points["questions"]),
        Section("method", *heading("method"), points=WORDS.points["method"]),
    ]


def _listing(results: TourResults, title: str, *names: str) -> Listing:
    """Functions that were run, side by side."""
    shown = {
        FRAMEWORK_NAMES[framework]: "\n\n".join(results.code[name][framework].strip() for name in names)
        for framework in results.code[names[0]]
    }
    return Listing(title, shown)


def _sentence(results: TourResults) -> Section:
    found = results.sentence
    largest = max(stage.largest_difference for stage in found.stages)
    written = " and ".join(
        f'{FRAMEWORK_NAMES[framework]} writes "{text}"' for framework, text in found.translations.items()
    )
    lead = (
        f"A Transformer of {found.parameters:,} parameters learns to translate from {found.training_sentences} pairs "
        f'of sentences, in each framework by itself. Then it reads "{found.source}", which was not among them. Each '
        "box shows the first values of one step of its computation, with the shape of the whole array; of several "
        "heads, the first. For these steps both frameworks have the weights that PyTorch has trained."
    )
    conclusion = (
        f'{written}; expected was "{found.expected}". With the same weights, no value of any step differs by more than '
        f"{small(largest)}: both frameworks compute the same Transformer."
    )
    stages = [_stage(number, stage) for number, stage in enumerate(found.stages, start=1)]
    listings = [
        _listing(results, "The encoder, step by step", "read_source"),
        _listing(results, "The decoder, step by step", "write_target"),
        *stages,
    ]
    title, _ = heading("sentence")
    return Section("sentence", title, lead, conclusion, listings, [tables.sizes(found), tables.losses(found)])


def _stage(number: int, stage: Stage) -> Listing:
    """A step's values in both frameworks."""
    shape = " × ".join(f"{letter} {size}" for letter, size in zip(stage.letters, stage.shape, strict=True))
    note = f"{stage.meaning} Shape: {shape}. Largest difference: {small(stage.largest_difference)}."
    panes = {FRAMEWORK_NAMES[framework]: _printed(rows, stage) for framework, rows in stage.shown.items()}
    return Listing(f"{number}. {stage.name[0].upper()}{stage.name[1:]}", panes, note)


def _printed(rows: list[list[float]], stage: Stage) -> str:
    """Rows and columns of numbers under their words, if they have any."""
    is_whole = all(number == int(number) for row in rows for number in row)
    cells = [[f"{number:.0f}" if is_whole else f"{number:.2f}" for number in row] for row in rows]
    width = max(len(cell) for row in [*cells, stage.columns] for cell in row) + 1
    edge = max((len(name) for name in stage.rows), default=0)
    lines = [" " * edge + "".join(name.rjust(width) for name in stage.columns)] if stage.columns else []
    for number, row in enumerate(cells):
        name = stage.rows[number] if stage.rows else ""
        lines.append(name.ljust(edge) + "".join(cell.rjust(width) for cell in row))
    return "\n".join(lines)


def _idea(results: TourResults) -> Section:
    probes = [probe for probe in results.probes if probe.function == "remembers" and probe.runs_by_call]
    again = [probe.mode for probe in probes if probe.runs_by_call[-1] and probe.mode != "eager"]
    never = [probe.mode for probe in probes if not probe.runs_by_call[-1]]
    also = f", and {listed(again)} did" if again else ""
    conclusion = (
        f"At the last of three calls, {listed(never) if never else 'no graph'} did not run Python any more{also}: what "
        "a function does besides computing happens while the graph is made. "
    )
    conclusion += " ".join(f"{_gain(results, framework)}." for framework in FRAMEWORK_NAMES)
    listings = [
        _listing(results, "What Python sees", "talks", "remembers"),
        _listing(results, "Attention, timed", "mix", "as_graph"),
    ]
    return Section("idea", *heading("idea"), conclusion, listings, [tables.runs(results.probes), tables.calls(results)])


def _gain(results: TourResults, framework: str) -> str:
    own = [cost for cost in results.calls if cost.framework == framework and cost.shapes]
    if len(own) < 2:
        return f"{FRAMEWORK_NAMES[framework]}: no graph was timed"
    shape = tables.sizes_of(results.call_shapes[0])
    return f"{FRAMEWORK_NAMES[framework]}, attention alone on a short text ({shape}): {gain_in_words(own, 0)}"


def _code(results: TourResults) -> Section:
    shares = [f"{each.name} {tables.share(each):.0%}" for each in results.comparisons]
    conclusion = (
        f"Of the longer text, so much stands in the other, too: {listed(shares)}. The model reads nearly alike; what "
        "must be learned anew is the training, where PyTorch shows each step and Keras does all of them in one call."
    )
    found = [tables.code(results.comparisons), tables.names(results.comparisons[-1])]
    return Section("code", *heading("code"), conclusion, [_listing(results, "Training", "train")], found)


def _debugging(results: TourResults) -> Section:
    named = [_mode(each) for each in results.errors if each.names_the_line]
    hidden = [_mode(each) for each in results.errors if not each.names_the_line]
    stopping = [_mode(each) for each in results.stops if each.stops_by_call and each.stops_by_call[-1]]
    passing = [_mode(each) for each in results.stops if not each.stops_by_call or not each.stops_by_call[-1]]
    conclusion = f"The line with the error is shown by {listed(named)}" if named else "No mode shows the erroneous line"
    conclusion += f", but not by {listed(hidden)}. " if hidden else ". "
    conclusion += f"At the last call, the debugger stops in {listed(stopping)}" if stopping else "It never stops"
    conclusion += f", and no more in {listed(passing)}. " if passing else ". "
    conclusion += "A NaN passes without a message until it is asked for."
    listings = [
        _listing(results, "Attention with an error", "attend_wrongly"),
        _listing(results, "A stop, and a NaN", "stops", "entropy_gradient", "checked_entropy_gradient"),
    ]
    found = [tables.errors(results.errors), tables.stops(results.stops), tables.nan_checks(results.nan_checks)]
    return Section("debugging", *heading("debugging"), conclusion, listings, found)


def _mode(found: ShownError | Stop) -> str:
    return f"{found.mode} ({FRAMEWORK_NAMES[found.framework]})" if found.mode == "eager" else found.mode


def _graphs(results: TourResults) -> Section:
    names: dict[str, list[str]] = {}
    for probe in results.probes:
        names.setdefault(probe.answer, []).append(f"{probe.mode} ({tables.PROBES[probe.function]})")
    wrong, refused = names.get("other than eager"), names.get("refused")
    said = f"Wrong values without a message: {listed(wrong)}." if wrong else "No graph gave wrong values in silence."
    said += f" Refused with a message: {listed(refused)}." if refused else ""
    gains = answers(results.deployment)["What is a graph worth?"].sentence
    found = [modes_table(results.deployment, work) for work in ("inference", "training step")]
    return Section(
        "graphs",
        *heading("graphs"),
        f"{said} A whole model: {gains}",
        [_listing(results, "What a graph cannot know", "decides", "halves")],
        [tables.answers(results.probes), *found],
    )


def _performance(results: TourResults) -> Section:
    models: dict[str, list[str]] = {}
    for cost in results.steps:
        said = f"{FRAMEWORK_NAMES[cost.framework]} {number_in_words(cost.milliseconds.median)} ms"
        models.setdefault(cost.model, []).append(said)
    said = "; ".join(f"{model}: {', '.join(found)}" for model, found in models.items())
    return Section(
        "performance",
        *heading("performance"),
        f"A step takes: {said}. Which framework is faster depends on the model; look at where the time goes.",
        tables=[tables.steps(results.steps)],
        figures_first=True,
    )


def _deployment(results: TourResults) -> Section:
    found = results.deployment
    agreement, least, _ = answers(found).values()
    problems = problems_table(found)
    return Section(
        "deployment",
        *heading("deployment"),
        f"{agreement.sentence} {least.sentence}",
        tables=[formats_table(found), *([problems] if problems else [])],
        figures_first=True,
        code=["make export RUN=runs/sentiment_bert/torch-stock-seed0 FORMAT=onnx"],
    )


def _sameness(results: TourResults) -> Section:
    found = results.lockstep
    first = found.first_step_over_rounding
    until = tables.equal_steps(first, found.steps)
    same = "the same experiment" if found.same else "not the same experiment"
    masks = "with the same dropout masks" if found.dropout else "without dropout"
    title, _ = heading("sameness")
    return Section(
        "sameness",
        title,
        f"Both frameworks take the same steps of {results.lockstep_recipe}: same first weights, same batches, {masks}.",
        f"The losses are equal within one millionth {until}; this is {same}. What differs later is rounding, which "
        "grows: PyTorch differs as much from itself if its first weights are off by one rounding.",
        tables=[lockstep([found])],
        figures_first=True,
        code=[f"make lockstep RECIPE={results.lockstep_recipe} STEPS={found.steps}"],
    )
