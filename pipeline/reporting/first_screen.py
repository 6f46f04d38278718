"""The first screen of a report: four questions, each with a word, a sentence and a state; and notices below them.

Whoever decides reads only this. Frameworks are judged first, attentions second: what is said of a pair of frameworks
comes before what is said of the others.
"""

from __future__ import annotations

from pipeline.comparison.costs import MIN_RUNS
from pipeline.comparison.lockstep import CONTROL_FACTOR
from pipeline.comparison.records.base import State
from pipeline.comparison.records.costs import BreakEven, CostComparison, CostPair
from pipeline.comparison.records.scores import Metric, MetricComparison, PairComparison
from pipeline.comparison.results import Answer, Headline, Results, Statement
from pipeline.metrics.loss import LOSS
from pipeline.reporting.elements import Finding, finding
from pipeline.reporting.formatting import (
    FRAMEWORK_NAMES,
    interval,
    margin_text,
    measured,
    measured_range,
    score,
    seconds_of_parts,
)
from pipeline.reporting.sameness.sentences import (
    MAX_NAMED,
    across_and_within,
    compared_steps,
    faults,
    is_explained_by_rounding,
    shares_of,
)
from pipeline.reporting.sentences import (
    capitalized,
    doubts,
    failures,
    machine_doubts,
    problem_statement,
    verdict,
    verdict_state,
)
from pipeline.reporting.tables import main_metrics
from pipeline.reporting.time_parts import time_parts
from pipeline.utils.text import count, join_names

QUESTIONS = {"training": "Same training?", "score": "Same score?", "time": "Time", "memory": "Memory"}
_ANSWERS: dict[State, str] = {"good": "Yes", "unknown": "Not settled", "bad": "No"}
_OTHERS: dict[State, str] = {
    "good": "Equivalent", "unknown": "Not shown to be equivalent", "bad": "Different"
}  # fmt: skip
_NOTHING_TO_COMPARE = "Fewer than two variants finished, so there is nothing to compare."
_MEASURES = {
    "total_seconds": " from its launch to the last step",
    "train_seconds": " of training",
    "peak_memory_bytes": " at its peak",
}


def with_headline(results: Results) -> Results:
    """The results with the sentences of the first screen, unless they have them already."""
    if results.headline is not None:
        return results
    return results.model_copy(update={"headline": write_headline(results)})


def write_headline(results: Results) -> Headline:
    """The four answers of the first screen, and the notices below them."""
    alike = results.of_one_recipe()
    found = faults(alike)
    notices = [Statement(state="bad", sentence=fault) for fault in [*found, *failures(results.runs)]]
    notices += [problem_statement(problem) for problem in results.problems]
    notices += [Statement(state="unknown", sentence=doubt) for doubt in [*doubts(alike), *machine_doubts(results)]]
    return Headline(
        training=_training(results, found),
        score=_score(results),
        time=_time(results),
        memory=_cost(results, results.memory, "takes less"),
        notices=[Statement(state=notice.state, sentence=capitalized(notice.sentence)) for notice in notices],
    )


def answers(headline: Headline) -> dict[str, Finding]:
    """The four questions with their answers."""
    by_kind = {kind: getattr(headline, kind) for kind in QUESTIONS}
    return {QUESTIONS[kind]: Finding(answer.state, answer.word, answer.sentence) for kind, answer in by_kind.items()}


def notices(headline: Headline) -> list[Finding]:
    """What a reader must know besides, the worst first."""
    found = [finding("notice", notice) for notice in headline.notices]
    return sorted(found, key=lambda notice: ("bad", "unknown", "good").index(notice.state))


def _answer(state: State, sentence: str, word: str = "") -> Answer:
    return Answer(state=state, word=word or _ANSWERS[state], sentence=sentence)


def _training(results: Results, found: list[str]) -> Answer:
    """Whether the variants did the same thing: no if a record shows another experiment, whatever the scores."""
    if found:
        named = "; ".join(fault.rstrip(".") for fault in found[:MAX_NAMED])
        more = f"; and {len(found) - MAX_NAMED} more below" if len(found) > MAX_NAMED else ""
        return _answer("bad", f"Not the same experiment: {named}{more}.")
    if not results.comparisons:
        return _answer("unknown", _NOTHING_TO_COMPARE)
    if results.compares_recipes:
        alike = results.of_one_recipe()
        same = (
            [f"Variants of one recipe: {_records(alike)[:1].lower()}{_records(alike)[1:]}."]
            if alike.comparisons
            else []
        )
        return _answer("bad", " ".join([_of_several_recipes(results), *same]))
    sentences = [f"{_records(results)}."]
    explained = is_explained_by_rounding(results)
    scores = _worst([_state(results, pair) for pair in results.comparisons])
    if explained:
        sentences.append(_beside_rounding(results))
    elif not results.sameness.lockstep:
        sentences.append("The steps themselves were not compared.")
    if any(not run.completed for run in results.runs):
        return _answer("unknown", " ".join([*sentences, "But some runs failed."]))
    if scores == "bad" and not explained:
        return _answer("unknown", " ".join([*sentences, "But the scores differ, which none of this explains."]))
    is_proved = explained or bool(results.sameness.lockstep) or scores == "good"
    return _answer("good" if is_proved else "unknown", " ".join(sentences))


def _beside_rounding(results: Results) -> str:
    """How far whole trainings are apart, as a multiple of the control where there is something to compare."""
    control = results.sameness.control
    pairs = control.pairs if control else []
    shares = [pair.share for pair in pairs if pair.share is not None]
    if not shares or max(shares) > CONTROL_FACTOR:  # more than that can still be within the fixed bound
        return "Over whole trainings, losses differ no more than rounding explains."
    across, within = across_and_within(results, pairs)
    said, whose = (shares_of(across), " across frameworks") if across and within else (shares_of(pairs), "")
    return (
        f"Over whole trainings, losses{whose} differ {said} times (bound: {CONTROL_FACTOR:g}) as much as those of two "
        "PyTorch trainings that start one rounding apart."
    )


def _of_several_recipes(results: Results) -> str:
    """In what the recipes differ, and what is compared; a table with its figures is beneath."""
    keys = [difference.key for difference in results.recipe_differences if difference.is_compared]
    medians = [
        summary.median
        for cost in results.costs
        if cost.name == "trainable_parameters"
        for summary in cost.variants.values()
        if summary.median is not None
    ]
    trained = " and ".join(f"{number:,.0f}" for number in dict.fromkeys(medians))
    what = f"The numbers of trained weights ({trained}), peak" if trained else "Peak"
    return (
        f"Not the same experiment: the recipes differ in {join_names(keys, MAX_NAMED)}. {what} memory and scores can "
        "be compared."
    )


def _records(results: Results) -> str:
    """In what the runs' records agree; only what was compared."""
    agreed, sameness = [], results.sameness
    largest = [row.max_difference for row in sameness.probe if row.max_difference is not None]
    if largest:
        agreed.append(f"same start (outputs before training within {max(largest):.0e})")
    if sameness.batches:
        by_rows = all(row.basis == "rows" for row in sameness.batches)
        agreed.append(("same batches" if by_rows else "batches of the same sizes") + ", same learning rates")
    if any(result.dropout for result in sameness.lockstep):
        agreed.append("same dropout masks")
    if sameness.lockstep:
        names = [result.attention for result in sameness.lockstep]
        all_stepped = {variant.attention for variant in results.variants} <= set(names)
        which = "" if all_stepped else f" ({' and '.join(names)})"
        agreed.append(f"{compared_steps(results)} compared one by one and within bounds{which}")
    return capitalized(", ".join(agreed))


def _score(results: Results) -> Answer:
    """What the tests over seeds show of the first metric; the pair that is named is the one in the worst state."""
    if not results.comparisons:
        return _answer("unknown", _NOTHING_TO_COMPARE)
    states: dict[int, State] = {id(pair): _state(results, pair) for pair in results.comparisons}
    across, within = across_and_within(results, results.comparisons)
    judged = results.comparisons if "bad" in states.values() else across or within
    state = _worst([states[id(pair)] for pair in judged])
    of_which = "pair of frameworks" if judged is across and within else "pair"
    sentences = [_of_pair(results, [pair for pair in judged if states[id(pair)] == state], of_which)]
    if len(results.comparisons) > 1:
        counts = [
            f"{sum(states[id(pair)] == 'good' for pair in pairs)} of {len(pairs)} {name}"
            for name, pairs in (("across frameworks", across), ("within a framework", within))
            if pairs
        ]
        sentences.append(f"Equivalent pairs: {', '.join(counts)}.")
    others = _other_metrics(results)
    word = ""
    if state == "good" and _worst(list(states.values())) != "good":
        word = "Yes, across frameworks"
    elif state == "good" and (others["unknown"] or others["bad"]):
        word = f"Yes, in {next(iter(results.metrics))}"
    for each, found in others.items():
        also = "Also equivalent" if each == state == "good" else _OTHERS[each]
        sentences += [f"{also}: {join_names(found, MAX_NAMED)}."] if found else []
    return _answer(state, " ".join(sentences), word)


def _other_metrics(results: Results) -> dict[State, list[str]]:
    """The metrics beside the first one by the states of their pairs; what no model changes is left out."""
    found: dict[State, list[str]] = {"good": [], "unknown": [], "bad": []}
    for name in main_metrics(results)[1:]:
        compared = [pair.metrics[name] for pair in results.comparisons if name in pair.metrics]
        if all(each.verdict.code == "constant" for each in compared):
            continue
        states: list[State] = [verdict_state(each) for each in compared]
        shown = f"validation {LOSS}" if name == LOSS else name
        for state in ("unknown", "bad"):
            pairs = [each for each, its in zip(compared, states, strict=True) if its == state]
            if pairs:
                found[state].append(f"{shown}{_of_how_many(pairs, len(compared), state)}")
        if _worst(states) == "good":
            found["good"].append(shown)
    return found


def _of_how_many(pairs: list[MetricComparison], num_pairs: int, state: State) -> str:
    """' within 1% (2 of 4 pairs; if truly equal, about 40 seeds would show it)'; of the pair that needs most."""
    margin, needed = pairs[0].margin, [pair.equivalence.seeds_needed for pair in pairs]
    within = f" within {margin_text(margin)}" if state == "unknown" and margin.value is not None else ""
    most = [number for number in needed if number is not None]
    seeds = (
        f"; if truly equal, about {count(max(most), 'seed')} would show it"
        if within and most and None not in needed
        else ""
    )
    return f"{within} ({len(pairs)} of {count(num_pairs, 'pair')}{seeds})"


def _of_pair(results: Results, pairs: list[PairComparison], of_which: str) -> str:
    """Both scores of the pair with the largest difference, and the verdict on it."""
    name, metric = next(iter(results.metrics.items()))
    widest = max(pairs, key=lambda pair: abs(pair.metrics[name].seeds.mean_difference or 0.0))
    variants = (widest.first, widest.second)
    scores = ", ".join(_score_of(metric, variant) for variant in variants)
    summaries = [metric.variants[variant] for variant in variants]
    what = f"mean {name}" if any(summary.n > 1 for summary in summaries) else name
    intervals = " with 95% interval" if any(summary.low is not None for summary in summaries) else ""
    which = f", of the {of_which} that differs most" if len(pairs) > 1 else ""
    return f"{capitalized(what)}{intervals}{which}: {scores}: {verdict(widest, name).sentence}."


def _score_of(metric: Metric, variant: str) -> str:
    summary = metric.variants[variant]
    ends = "" if summary.low is None else f" ({interval(summary.low, summary.high, metric.scale)})"
    return f"{variant} {score(summary.mean, metric.scale)}{ends}"


def _state(results: Results, pair: PairComparison) -> State:
    return verdict_state(pair.metrics[next(iter(results.metrics))])


def _worst(states: list[State]) -> State:
    if "bad" in states:
        return "bad"
    return "unknown" if "unknown" in states else "good"


def _time(results: Results) -> Answer:
    """The total time of these runs, then the speed after the first step, and where the order turns."""
    answer = _cost(results, results.time, "is faster")
    if not (results.time.pairs and results.speed.pairs):
        return answer
    pair = results.time.pairs[0]
    speeds = [each for each in results.speed.pairs if (each.first, each.second) == (pair.first, pair.second)]
    sentences = [answer.sentence, *_parts_of_time(results, pair)]
    if speeds:
        # In the order of the sentence before.
        named = [(pair.first, speeds[0].first_median), (pair.second, speeds[0].second_median)]
        (one, its), (other, others) = named if pair.better == pair.first else reversed(named)
        when = "After the first step" if results.speed.cost == "steady_examples_per_second" else "In training"
        overlap = "; ranges overlap" if speeds[0].overlapping and speeds[0].fewest_runs > 1 else ""
        sentences.append(f"{when}: {one} {its:,.0f} examples/s, {other} {others:,.0f}{overlap}.")
    sentences += [_turning_point(each, pair) for each in turning_points(results)]
    return answer.model_copy(update={"sentence": " ".join(sentences)})


def turning_points(results: Results) -> list[BreakEven]:
    """Where the order of the first pair's times turns, if the runs show which of the two is faster after its start."""
    if not results.time.pairs:
        return []
    pair = results.time.pairs[0]
    speeds = [each for each in results.speed.pairs if (each.first, each.second) == (pair.first, pair.second)]
    if not results.speed.pairs or (speeds and not speeds[0].is_shown):
        return []
    return [each for each in results.break_even if (each.first, each.second) == (pair.first, pair.second)]


def _parts_of_time(results: Results, pair: CostPair) -> list[str]:
    """Where the total of each of the two goes, in the order of the sentence with the totals."""
    parts = time_parts(results)
    names = [pair.first, pair.second] if pair.better == pair.first else [pair.second, pair.first]
    if results.time.cost != "total_seconds" or not all(name in parts for name in names):
        return []
    before, first, rest = (
        " and ".join(each) for each in zip(*(seconds_of_parts(parts[name].in_order) for name in names), strict=True)
    )
    frameworks = {variant.name: variant.framework for variant in results.variants}
    slower = "" if pair.is_shown else _slower_in_first_step(results, pair)
    traces = ", in which TensorFlow traces its graph," if "tensorflow" in map(frameworks.get, names) else ""
    if slower:
        graph = ": it traces its graph" if frameworks.get(slower) == "tensorflow" else ""
        traces = f" (longer in every run of {slower}{graph})"
    return [
        f"Of these seconds, {before} pass before the first batch, {first} in the first step{traces} and {rest} in the "
        "other steps."
    ]


def _slower_in_first_step(results: Results, pair: CostPair) -> str:
    """The variant of the pair each run of which has a longer first step than any of the other; empty if none."""
    if pair.fewest_runs < MIN_RUNS or not results.time.is_same_machine:
        return ""
    for cost in (cost for cost in results.costs if cost.name == "first_step_seconds"):
        for quick, slow in ((pair.first, pair.second), (pair.second, pair.first)):
            most, least = cost.variants[quick].high, cost.variants[slow].low
            if most is not None and least is not None and most < least:
                return slow
    return ""


def _range_of(results: Results, cost: str, variant: str) -> str:
    """' (range 15.5 to 19.6)' over the variant's runs; empty if there is one."""
    found = [each for each in results.costs if each.name == cost and variant in each.variants]
    ends = [measured_range(each.variants[variant].low, each.variants[variant].high, each.unit) for each in found]
    return f" (range {ends[0]})" if ends and ends[0] else ""


def _turning_point(turning: BreakEven, pair: CostPair) -> str:
    """Which variant takes less time in longer trainings, and how long these have to be."""
    if turning.faster == pair.better:
        return f"{turning.faster} takes less time for longer trainings{', too' if pair.is_shown else ''}."
    return (
        f"From about {float(f'{turning.examples:.3g}'):,.0f} training examples on, {turning.faster} takes less time in "
        f"all; these runs had {turning.examples_of_run:,.0f}."
    )


def _cost(results: Results, comparison: CostComparison, is_better: str) -> Answer:
    """A cost of the first pair, which is one of frameworks if there is one."""
    if not comparison.pairs:
        return _answer("unknown", _NOTHING_TO_COMPARE)
    pair = comparison.pairs[0]
    sentence = cost_sentence(results, comparison, pair)
    if not comparison.is_same_machine:
        opening = "The runs were made on different machines, so this compares the machines too: "
        return _answer("bad", opening + sentence, "Not comparable")
    if not pair.is_shown:
        return _answer("unknown", sentence, "No difference shown")
    return _answer("good", sentence, f"{_name_of_better(pair)} {is_better}")


def _name_of_better(pair: CostPair) -> str:
    framework = pair.better.partition("/")[0]
    return FRAMEWORK_NAMES.get(framework, framework) if pair.differ_in == "framework" else pair.better


def cost_sentence(results: Results, comparison: CostComparison, pair: CostPair) -> str:
    """'torch/stock 600 MiB at its peak, tensorflow/stock 900 MiB, 1.50 times as much.'; and why that is not shown.

    Each with its range over the runs, if there are several.
    """
    unit, amount = ("bytes", "much") if comparison.cost == "peak_memory_bytes" else ("s", "long")
    named = [(pair.first, pair.first_median), (pair.second, pair.second_median)]
    if pair.better == pair.second:
        named.reverse()
    (better, less), (other, more) = [
        (name, " ".join(measured(median, unit)) + _range_of(results, comparison.cost, name)) for name, median in named
    ]
    times = "" if pair.factor is None else f", {pair.factor:.2f} times as {amount}"
    medians = " (medians)" if pair.fewest_runs > 1 else ""
    sentence = f"{better} {less}{_MEASURES.get(comparison.cost, '')}, {other} {more}{times}{medians}"
    if pair.is_shown:
        return f"{sentence}."
    if pair.overlapping and pair.fewest_runs > 1:
        return f"{sentence}; the ranges overlap."
    few = f"; with {count(pair.fewest_runs, 'run')} of each, chance is not ruled out"
    return f"{sentence}{few if pair.fewest_runs < MIN_RUNS else ''}."
