"""Every sentence about a comparison: results in, sentences with a state out; nothing else writes prose from numbers."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.comparison.costs import MIN_RUNS
from pipeline.comparison.results import (
    BatchDifference,
    CostRanking,
    Headline,
    Margin,
    MetricComparison,
    OptimizationDifference,
    PairComparison,
    ProbeDifference,
    Problem,
    RecipeDifference,
    Results,
    RunSummary,
    State,
    Statement,
    VerdictCode,
)
from pipeline.comparison.same_experiment import USUAL_GRAD_NORM_RATIO
from pipeline.reporting.formatting import MINUS
from pipeline.utils.text import count, join_names

MAX_NAMED = 3
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
VERDICT_STATES: dict[VerdictCode, State] = {"equivalent": "good", "constant": "good", "different": "bad"}
_PairRow = TypeVar("_PairRow", ProbeDifference, BatchDifference, OptimizationDifference)
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


@dataclass(frozen=True)
class _VerdictParts:
    claim: str
    reason: str
    caveat: str = ""


def with_headline(results: Results) -> Results:
    """The results with the sentences of the first screen, unless they have them already."""
    if results.headline is not None:
        return results
    return results.model_copy(update={"headline": write_headline(results)})


def write_headline(results: Results) -> Headline:
    """The three answers of the first screen, and the notices below them."""
    faults = [
        *_recipe_faults(results.recipe_differences),
        *_probe_faults(results),
        *_batch_faults(results),
        *_rate_faults(results),
        *_lockstep_faults(results),
    ]
    notices = [Statement(state="bad", sentence=fault) for fault in [*faults, *_failures(results.runs)]]
    notices += [_problem(problem) for problem in results.problems]
    notices += [Statement(state="unknown", sentence=doubt) for doubt in [*_doubts(results), *_machine_doubts(results)]]
    return Headline(
        same=_same(results, faults),
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


def verdict(pair: PairComparison, metric: str) -> Statement:
    """What can be claimed about a metric of two variants, without a capital and a full stop."""
    comparison = pair.metrics[metric]
    parts = _verdict_parts(comparison)
    text = f"{parts.claim} ({parts.reason})" if _is_equivalent(comparison) else f"{parts.claim}: {parts.reason}"
    return Statement(state=_state(comparison), sentence=text + parts.caveat)


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


def _same(results: Results, faults: list[str]) -> Statement:
    """Whether the variants did the same thing: no if a record shows another experiment, whatever the scores."""
    if faults:
        named = "; ".join(fault.rstrip(".") for fault in faults[:MAX_NAMED])
        more = f"; and {len(faults) - MAX_NAMED} more below" if len(faults) > MAX_NAMED else ""
        return Statement(state="bad", sentence=f"Not the same experiment: {named}{more}.")
    if not results.comparisons:
        return Statement(state="unknown", sentence=_NOTHING_TO_COMPARE)
    metric = next(iter(results.metrics))
    # A pair that completed a seed in common has every metric of its runs; runs of one recipe have the same ones.
    pairs = sorted(results.comparisons, key=lambda pair: -abs(pair.metrics[metric].seeds.mean_difference or 0.0))
    records = _records(results)
    openings: dict[State, str] = {"bad": f"But the {metric} differs", "unknown": f"The {metric} is "}
    for state, opening in openings.items():
        in_state = [pair for pair in pairs if _state(pair.metrics[metric]) == state]
        if in_state:
            widest = _of_widest_pair(opening, in_state, metric, len(pairs))
            return Statement(state=state, sentence=f"{records}. {widest}")
    if len(pairs) == 1:
        text = f"The {metric} is {verdict(pairs[0], metric).sentence}."
    else:
        text = f"In all {len(pairs)} pairs the {metric} is {_verdict_parts(pairs[0].metrics[metric]).claim}."
    if any(not run.completed for run in results.runs):
        return Statement(state="unknown", sentence=f"{records}. {text} But some runs failed.")
    return Statement(state="good", sentence=f"{records}. {text}")


def _of_widest_pair(opening: str, pairs: list[PairComparison], metric: str, num_pairs: int) -> str:
    """The verdict on the pair with the largest difference, the number of pairs with such a verdict, and its names."""
    widest = pairs[0]
    parts = _verdict_parts(widest.metrics[metric])
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
    if sameness.lockstep:
        steps = min(result.steps for result in sameness.lockstep)
        names = [result.attention for result in sameness.lockstep]
        all_stepped = {variant.attention for variant in results.variants} <= set(names)
        which = "" if all_stepped else f" ({' and '.join(names)})"
        agreed.append(f"{steps} steps in lock-step within bounds{which}")
    return _capitalized(", ".join(agreed))


def _state(comparison: MetricComparison) -> State:
    return VERDICT_STATES.get(comparison.verdict.code, "unknown")


def _is_equivalent(comparison: MetricComparison) -> bool:
    return comparison.verdict.code == "equivalent"


def _verdict_parts(comparison: MetricComparison) -> _VerdictParts:
    """What is claimed, why, and under which condition."""
    code, margin, seeds = comparison.verdict.code, comparison.margin, comparison.seeds
    tested, over_seeds = comparison.equivalence, f"over {count(seeds.n, 'seed')}"
    ninety = f"90% interval {_range(tested.low, tested.high, margin)}"
    if code == "constant":
        return _VerdictParts("the same", "it describes the data, and no model changes it")
    if code == "equivalent":
        claim = f"equivalent within {margin_text(margin)} {over_seeds}"
        return _VerdictParts(claim, _identical(comparison) or ninety, _caveat(comparison))
    if code == "different":
        size = difference_text(abs(seeds.mean_difference or 0.0), margin, signed=False) + _unit(margin)
        interval = f"95% interval {_range(seeds.low, seeds.high, margin)} {over_seeds}"
        return _VerdictParts("different", f"{comparison.verdict.higher} is higher by {size} ({interval})")
    if code == "inconclusive":
        claim = f"not shown to be equivalent within {margin_text(margin)} {over_seeds}"
        return _VerdictParts(claim, ninety + _unit(margin))
    return _VerdictParts("not shown to be equivalent", _what_is_missing(comparison))


def _what_is_missing(comparison: MetricComparison) -> str:
    """Why nothing can be claimed."""
    code, num_seeds = comparison.verdict.code, comparison.seeds.n
    if code == "undefined":
        undefined = comparison.verdict.undefined_seeds
        return f"undefined in {undefined} of {count(num_seeds + undefined, 'seed')}"
    if code == "no_shared_seed":
        return "no seed was completed by both"
    if code == "no_margin":
        return "the margin is relative to a mean of zero"
    verb = "is" if num_seeds == 1 else "are"
    shown = _identical(comparison) or f"difference {_difference_over_examples(comparison)}"
    return f"{count(num_seeds, 'seed')} {verb} too few ({shown})"


def _identical(comparison: MetricComparison) -> str | None:
    texts = {"predictions": "the predictions are the same", "scores": "no difference in any seed"}
    return texts.get(comparison.verdict.identical or "")


def _caveat(comparison: MetricComparison) -> str:
    examples = comparison.bootstrap
    if examples is None or not comparison.verdict.depends_on_examples:
        return ""
    return f"; on other examples it could be {_range(examples.low, examples.high, comparison.margin)}"


def _difference_over_examples(comparison: MetricComparison) -> str:
    margin, examples = comparison.margin, comparison.bootstrap
    text = difference_text(comparison.seeds.mean_difference or 0.0, margin) + _unit(margin)
    if examples is None:
        return text
    return f"{text}, 95% interval over examples {_range(examples.low, examples.high, margin)}"


def difference_text(number: float, margin: Margin, signed: bool = True) -> str:
    """A difference in points or percent, with one decimal more than the margin has."""
    digits = max(1, 1 - math.floor(math.log10(margin.value / margin.unit_size) + 1e-9)) if margin.value else 1
    text = f"{number / margin.unit_size:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", MINUS) if float(text) else f"{0:.{digits}f}"


def margin_text(margin: Margin) -> str:
    """'1 point', '0.5 points', '1%'."""
    size = f"{(margin.value or 0.0) / margin.unit_size:.4g}"
    if margin.unit == "percent":
        return f"{size}%"
    return f"{size} point" + ("" if size == "1" else "s")


def _range(low: float | None, high: float | None, margin: Margin) -> str:
    return f"{difference_text(low or 0.0, margin)} to {difference_text(high or 0.0, margin)}"


def _unit(margin: Margin) -> str:
    return "%" if margin.unit == "percent" else " points"


def _recipe_faults(differences: list[RecipeDifference]) -> list[str]:
    faults = []
    for difference in differences:
        runs_by_value = defaultdict(list)
        for run, value in difference.values.items():
            runs_by_value[json.dumps(value, ensure_ascii=False)].append(run)
        values = "; ".join(f"{value} in {join_names(runs, MAX_NAMED)}" for value, runs in runs_by_value.items())
        faults.append(f"the setting {difference.key} differs: {values}")
    return faults


def _probe_faults(results: Results) -> list[str]:
    faults = []
    far = [row for row in results.sameness.probe if not row.within_tolerance]
    for (first, second), rows in _by_pair(far).items():
        if all(row.same_shape for row in rows):
            size = f"differ by up to {_largest(row.max_difference for row in rows)}"
        else:
            size = "have other shapes"
        seeds = f"seed {', '.join(str(row.seed) for row in rows)}"
        faults.append(
            f"the start of {first} and {second} is not the same function: the logits before training {size} "
            f"(tolerance {rows[0].tolerance:.0e}, {seeds})"
        )
    return faults


def _batch_faults(results: Results) -> list[str]:
    faults = []
    for (first, second), rows in _by_pair(row for row in results.sameness.batches if not row.same).items():
        seeds = ", ".join(f"seed {row.seed}{_since(row.first_different_step)}" for row in rows)
        text = f"the batches of {first} and {second} are not the same: {seeds}"
        for row in rows:
            for variant, other in ((first, row.first_order_of_seed), (second, row.second_order_of_seed)):
                if other is not None:
                    text += f"; the batches of {variant} seed {row.seed} are those of seed {other}"
        faults.append(text)
    return faults


def _since(step: int | None) -> str:
    return ", of equal sizes but other rows" if step is None else f" from step {step} on"


def _rate_faults(results: Results) -> list[str]:
    different = [
        row
        for row in results.sameness.optimization
        if row.learning_rate_max_difference is None or row.learning_rate_max_difference > 1e-12
    ]
    return [
        f"the learning rates of {first} and {second} differ by up to "
        f"{_largest(row.learning_rate_max_difference for row in rows)}"
        for (first, second), rows in _by_pair(different).items()
    ]


def _lockstep_faults(results: Results) -> list[str]:
    faults = []
    for result in (result for result in results.sameness.lockstep if not result.same):
        over = [
            f"{name} {_largest([difference])} (bound {result.bounds[name]:.0e})"
            for name, difference in result.differences.items()
            if difference is None or not difference <= result.bounds[name]
        ]
        faults.append(
            f"in lock-step with {result.attention} attention PyTorch and TensorFlow differ: {', '.join(over)}"
        )
    return faults


def _failures(runs: list[RunSummary]) -> list[str]:
    return [f"the run {run.label} failed; the end of its log is below" for run in runs if not run.completed]


def _problem(problem: Problem) -> Statement:
    """What the comparison itself could not do, or found contradicted."""
    if problem.code == "different_example_counts":
        text = "the runs have predictions for different numbers of examples, so these are not resampled"
        return Statement(state="bad", sentence=text)
    if problem.code == "score_not_reproduced":
        text = f"the recorded {problem.metric} of {problem.run} is {problem.recorded:.4g}, "
        return Statement(state="bad", sentence=f"{text}but its predictions.jsonl gives {problem.recomputed:.4g}")
    if problem.code == "attention_map_failed":
        text = f"the attention of {problem.run} could not be drawn: {problem.error}"
    elif problem.code == "lockstep_failed":
        text = f"the lock-step with {problem.attention} attention failed: {problem.error}"
    else:
        text = (
            "the data or the checkpoint changed since the runs, so a lock-step would say nothing about them; repeat "
            "the runs to have one"
        )
    return Statement(state="unknown", sentence=text)


def _doubts(results: Results) -> list[str]:
    """What is not a fault, but keeps a careful reader from being sure."""
    doubts = []
    low, high = USUAL_GRAD_NORM_RATIO
    for row in results.sameness.optimization:
        ratio = row.grad_norm_median_ratio
        if ratio is not None and not low <= ratio <= high:
            names = f"{row.first} and {row.second} in seed {row.seed}"
            doubts.append(f"the gradient norms of {names} have a ratio of {ratio:.2f}, far from 1")
    for run in results.runs:
        undefined = [name for name, value in run.metrics.items() if value is None]
        if undefined:
            doubts.append(f"undefined in {run.label}: {', '.join(undefined)}; the run may have diverged")
    resumed = [run.label for run in results.runs if run.train and run.train.resumed_at]
    if resumed:
        doubts.append(f"these runs were resumed, which changes their speed and first step: {', '.join(resumed)}")
    by_size = any(row.basis == "sizes" for row in results.sameness.batches)
    if by_size and not results.sameness.batch_sizes_vary:
        doubts.append(
            "all steps have about the same size, and not all runs recorded their rows, so the order of the data is not "
            "shown to be the same"
        )
    return doubts


def _machine_doubts(results: Results) -> list[str]:
    doubts = []
    if len(results.machines) > 1:
        names = "; ".join(f"{machine.processor}, {machine.cores} cores" for machine in results.machines)
        doubts.append(f"the runs were made on different machines, so their speeds cannot be compared: {names}")
    for machine in results.machines:
        mixed = [f"{name} {' and '.join(several)}" for name, several in machine.versions.items() if len(several) > 1]
        if mixed:
            doubts.append(f"versions differ between the runs: {', '.join(mixed)}")
    threads = {_threads(run) for run in results.runs if run.completed}
    if len(threads) > 1:
        doubts.append(f"the runs had different numbers of threads ({', '.join(sorted(threads))}), which changes speed")
    return doubts


def _threads(run: RunSummary) -> str:
    """Runs of earlier versions recorded "default" for TensorFlow's own choice, which was one for each core."""
    environment = run.environment
    assert environment is not None, "completed runs have one"
    return str(environment.cores) if environment.threads == "default" else environment.threads


def _by_pair(rows: Iterable[_PairRow]) -> dict[tuple[str, str], list[_PairRow]]:
    groups: dict[tuple[str, str], list[_PairRow]] = defaultdict(list)
    for row in rows:
        groups[row.first, row.second].append(row)
    return groups


def _largest(numbers: Iterable[float | None]) -> str:
    """The largest number; one that is undefined is larger than all."""
    known = list(numbers)
    return "an undefined amount" if None in known else f"{max(number for number in known if number is not None):.2g}"


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
