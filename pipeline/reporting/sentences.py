"""Every sentence of a report's first screen: results in, statements with a state out.

The claims about metrics are in `verdicts.py`, what is wrong or doubtful in `faults.py`; nothing else writes prose from
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.comparison.costs import MIN_RUNS
from pipeline.comparison.results import (
    ControlComparison,
    CostRanking,
    Headline,
    LockstepResult,
    PairComparison,
    Results,
    State,
    Statement,
)
from pipeline.comparison.statistics.equivalence import MIN_SEEDS
from pipeline.reporting.faults import MAX_NAMED, doubts, failures, faults, machine_doubts, problem_statement
from pipeline.reporting.verdicts import verdict, verdict_parts, verdict_state
from pipeline.utils.text import count, factor

WORDS: dict[str, dict[State, str]] = {
    "same": {"good": "Yes", "unknown": "Not settled", "bad": "No"},
    "speed": {"good": "Measured", "unknown": "Not settled", "bad": "Not comparable"},
    "memory": {"good": "Measured", "unknown": "Not settled", "bad": "Not comparable"},
    "notice": {"good": "Note", "unknown": "Caution", "bad": "Fault"},
    "verdict": {"good": "Equivalent", "unknown": "Not settled", "bad": "Different"},
    "check": {"good": "Same", "unknown": "Not settled", "bad": "Different"},
}

QUESTIONS = {
    "same": "Did they do the same thing?",
    "speed": "Which was faster, and by how much?",
    "memory": "What did it cost in memory?",
}

_NOTHING_TO_COMPARE = "Fewer than two variants finished, so there is nothing to compare."

_BEST = {
    "examples_per_second": "fastest was {} with {:,.0f} examples/s",
    "steady_examples_per_second": "after the first step, fastest was {} with {:,.0f} examples/s",
    "peak_memory_bytes": "smallest was {} with {:,.0f} MiB at its peak",
}


@dataclass(frozen=True)
class Finding:
    """A cell or line of a report with a state: the word for it, and what there is to say."""

    state: State
    word: str
    sentence: str = ""


def with_headline(results: Results) -> Results:
    """The results with the sentences of the first screen, unless they have them already."""
    if results.headline is not None:
        return results
    return results.model_copy(update={"headline": write_headline(results)})


def write_headline(results: Results) -> Headline:
    """The three answers of the first screen, and the notices below them."""
    found = faults(results)
    notices = [Statement(state="bad", sentence=fault) for fault in [*found, *failures(results.runs)]]
    notices += [problem_statement(problem) for problem in results.problems]
    notices += [Statement(state="unknown", sentence=doubt) for doubt in [*doubts(results), *machine_doubts(results)]]
    return Headline(
        same=_same(results, found),
        speed=ranking_sentence(results.speed),
        memory=ranking_sentence(results.memory),
        notices=[Statement(state=notice.state, sentence=_capitalized(notice.sentence)) for notice in notices],
    )


def answers(headline: Headline) -> dict[str, Finding]:
    """The three questions with their answers."""
    statements = {"same": headline.same, "speed": headline.speed, "memory": headline.memory}
    return {QUESTIONS[kind]: finding(kind, statement) for kind, statement in statements.items()}


def notices(headline: Headline) -> list[Finding]:
    """What a reader must know besides, the worst first."""
    found = [finding("notice", notice) for notice in headline.notices]
    return sorted(found, key=lambda notice: ("bad", "unknown", "good").index(notice.state))


def finding(kind: str, statement: Statement) -> Finding:
    """A statement with the word for its state."""
    return Finding(statement.state, WORDS[kind][statement.state], statement.sentence)


def ranking_sentence(ranking: CostRanking) -> Statement:
    """Which variant was best in a cost, by how much, and what keeps that from being settled."""
    if ranking.code == "nothing_to_compare" or ranking.best is None or ranking.median is None:
        return Statement(state="unknown", sentence=_NOTHING_TO_COMPARE)
    value = ranking.median / 2**20 if ranking.cost == "peak_memory_bytes" else ranking.median
    ratios = ", ".join(f"{other} {ratio:.2f} × that" for other, ratio in ranking.ratios.items())
    sentence = f"{_BEST[ranking.cost].format(ranking.best, value)}; {ratios}."
    remarks = []
    if ranking.slow_first_step is not None:
        share = f"{ranking.first_step_share:.0%}"
        remarks.append(f"The first step took {share} of {ranking.slow_first_step}'s training.")
    if ranking.code == "different_machines":
        opening = "The runs were made on different machines, so this compares the machines too"
        return Statement(state="bad", sentence=" ".join([f"{opening}: {sentence}", *remarks]))
    if ranking.fewest_runs is not None and ranking.fewest_runs < MIN_RUNS:
        remarks.append(f"With {count(ranking.fewest_runs, 'run')} of a variant, chance is not ruled out.")
    if ranking.overlapping:
        names = " and ".join(ranking.overlapping)
        remarks.append(f"The ranges of {ranking.best} and {names} overlap, so their order is not shown.")
    state = "good" if ranking.code == "ranked" else "unknown"
    return Statement(state=state, sentence=" ".join([_capitalized(sentence), *remarks]))


def _same(results: Results, found: list[str]) -> Statement:
    """Whether the variants did the same thing: no if a record shows another experiment, whatever the scores."""
    if found:
        named = "; ".join(fault.rstrip(".") for fault in found[:MAX_NAMED])
        more = f"; and {len(found) - MAX_NAMED} more below" if len(found) > MAX_NAMED else ""
        return Statement(state="bad", sentence=f"Not the same experiment: {named}{more}.")
    if not results.comparisons:
        return Statement(state="unknown", sentence=_NOTHING_TO_COMPARE)
    state, text = _scores(results)
    sentence = " ".join([f"{_records(results)}.", *_evidence(results), text])
    if state == "bad":
        return Statement(state=state, sentence=sentence)
    if any(not run.completed for run in results.runs):
        return Statement(state="unknown", sentence=f"{sentence} But some runs failed.")
    # Trainings that are no further apart than rounding explains are the same, however widely their scores scatter.
    return Statement(state="good" if _is_explained_by_rounding(results) else state, sentence=sentence)


def _scores(results: Results) -> tuple[State, str]:
    """What the tests over seeds show of the first metric: of the worst pair, or of all."""
    metric = next(iter(results.metrics))
    # A pair that completed a seed in common has every metric of its runs; runs of one recipe have the same ones.
    pairs = sorted(results.comparisons, key=lambda pair: -abs(pair.metrics[metric].seeds.mean_difference or 0.0))
    openings: dict[State, str] = {"bad": f"But the {metric} differs", "unknown": f"The {metric} is "}
    for state, opening in openings.items():
        in_state = [pair for pair in pairs if verdict_state(pair.metrics[metric]) == state]
        if in_state:
            return state, _of_widest_pair(opening, in_state, metric, len(pairs))
    if len(pairs) == 1:
        return "good", f"The {metric} is {verdict(pairs[0], metric).sentence}."
    return "good", f"In all {len(pairs)} pairs the {metric} is {verdict_parts(pairs[0].metrics[metric]).claim}."


def _of_widest_pair(opening: str, pairs: list[PairComparison], metric: str, num_pairs: int) -> str:
    """The verdict on the pair with the largest difference, the number of pairs with such a verdict, and its names."""
    widest = pairs[0]
    parts = verdict_parts(widest.metrics[metric])
    claim = "" if widest.metrics[metric].verdict.code == "different" else parts.claim
    where = f" in {len(pairs)} of {num_pairs} pairs, such as {widest.first} and {widest.second}"
    return f"{opening}{claim}{where if num_pairs > 1 else ''}: {parts.reason}."


def _records(results: Results) -> str:
    """In what the runs' records agree; only what was compared."""
    agreed, sameness = [], results.sameness
    largest = [row.max_difference for row in sameness.probe if row.max_difference is not None]
    if largest:
        agreed.append(f"same start (logits within {max(largest):.0e})")
    if sameness.batches:
        by_rows = all(row.basis == "rows" for row in sameness.batches)
        agreed.append(("same batches" if by_rows else "batches of the same sizes") + ", same learning rates")
    if any(result.dropout for result in sameness.lockstep):
        agreed.append("same dropout masks")
    if sameness.lockstep:
        steps = min(result.steps for result in sameness.lockstep)
        names = [result.attention for result in sameness.lockstep]
        all_stepped = {variant.attention for variant in results.variants} <= set(names)
        which = "" if all_stepped else f" ({' and '.join(names)})"
        agreed.append(f"{steps} steps in lock-step within bounds{which}")
    return _capitalized(", ".join(agreed))


def _evidence(results: Results) -> list[str]:
    """What lock-step and the control show, a sentence for each."""
    stepped = [result for result in results.sameness.lockstep if result.num_controls]
    control = results.sameness.control
    return [*(_lockstep_evidence(stepped) if stepped else []), *(_control_evidence(control) if control else [])]


def _lockstep_evidence(stepped: list[LockstepResult]) -> list[str]:
    shares = [
        ours / theirs
        for result in stepped
        if (ours := result.differences["parameters"]) is not None and (theirs := result.control.get("parameters"))
    ]
    steps = [result.first_step_over_rounding for result in stepped]
    first = min((step for step in steps if step is not None), default=None)
    until = _until(first, min(result.steps for result in stepped))
    equal = f"In lock-step the losses are equal except for rounding {until}"
    if not shares:
        return [f"{equal}."]
    return [
        f"{equal}, and at the end the parameters of PyTorch and TensorFlow differ {factor(max(shares))} times as "
        "much as those of two PyTorch trainings whose first weights differ by one rounding."
    ]


def _control_evidence(control: ControlComparison) -> list[str]:
    within = [pair for pair in control.pairs if pair.within]
    if not within or len(within) < len(control.pairs):
        return []
    steps = [pair.first_step_over_rounding for pair in within]
    first = min((step for step in steps if step is not None), default=None)
    equal = f"In whole trainings the losses of all variants are equal except for rounding {_until(first)}"
    shares = [pair.share for pair in within if pair.share is not None]
    if first is None or not shares:
        return [f"{equal}."]
    text = (
        f"{equal}, and over all steps they differ {_spread(shares, '.2g')} times as much as those of two PyTorch "
        "trainings whose first weights differ by one rounding, which is within the bound."
    )
    agreed = [pair.agree for pair in within if pair.agree is not None]
    if control.agree is None or not agreed:
        return [text]
    return [
        text,
        f"Predictions agree in {_spread(agreed, '.1%')} of the rows, those of the two PyTorch trainings in "
        f"{control.agree:.1%}.",
    ]


def _until(step: int | None, num_steps: int | None = None) -> str:
    """How long something holds that first fails at `step`, of `num_steps` if that is not all."""
    if step is None:
        return f"in all {num_steps} steps" if num_steps else "to the end"
    return f"until step {step}"


def _spread(numbers: list[float], form: str) -> str:
    low, high = format(min(numbers), form), format(max(numbers), form)
    return low if low == high else f"{low} to {high}"


def _is_explained_by_rounding(results: Results) -> bool:
    """Whether each pair has the same batches and starts and ends no further apart than the control's trainings."""
    control = results.sameness.control
    if control is None or len(control.seeds) < MIN_SEEDS:
        return False
    within = {(pair.first, pair.second) for pair in control.pairs if pair.within}
    return all((pair.first, pair.second) in within for pair in results.comparisons)


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
