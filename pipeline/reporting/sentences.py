"""All sentences of a report: results and codes in, statements with a state out. No other file writes prose.

In this order: the first screen, what a metric shows of two variants, what is wrong, what is doubtful, and what a reader
of the tables has to know. Headings and notes of tables are beside the tables.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.comparison.costs import MIN_RUNS
from pipeline.comparison.results import (
    BatchDifference,
    ControlComparison,
    CostRanking,
    Headline,
    LockstepResult,
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
from pipeline.comparison.statistics.equivalence import MIN_SEEDS
from pipeline.reporting.formatting import (
    difference_interval,
    difference_text,
    largest,
    margin_text,
    spread,
    unit_after,
)
from pipeline.utils.text import count, factor, join_names

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

_NOTHING_TO_COMPARE = "Fewer than two variants finished, so there is nothing to compare."

_BEST = {
    "examples_per_second": "fastest was {} with {:,.0f} examples/s",
    "steady_examples_per_second": "after the first step, fastest was {} with {:,.0f} examples/s",
    "peak_memory_bytes": "smallest was {} with {:,.0f} MiB at its peak",
}
_PROBLEMS: dict[str, tuple[State, str]] = {
    "different_example_counts": (
        "bad",
        "the runs have predictions for different numbers of examples, so these are not resampled",
    ),
    "score_not_reproduced": (
        "bad",
        "the recorded {metric} of {run} is {recorded:.4g}, but its predictions.jsonl gives {recomputed:.4g}",
    ),
    "attention_map_failed": ("unknown", "the attention of {run} could not be drawn: {error}"),
    "control_failed": ("unknown", "the control of {run} failed: {error}"),
    "lockstep_failed": ("unknown", "the lock-step with {attention} attention failed: {error}"),
    "lockstep_outdated": (
        "unknown",
        "the data or the checkpoint changed since the runs, so a lock-step would say nothing about them; repeat the "
        "runs to have one",
    ),
}
_PairRow = TypeVar("_PairRow", ProbeDifference, BatchDifference, OptimizationDifference)


VERDICT_STATES: dict[VerdictCode, State] = {"equivalent": "good", "constant": "good", "different": "bad"}


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
        f"{equal}, and over all steps they differ {spread(shares, '.2g')} times as much as those of two PyTorch "
        "trainings whose first weights differ by one rounding, which is within the bound."
    )
    agreed = [pair.agree for pair in within if pair.agree is not None]
    if control.agree is None or not agreed:
        return [text]
    return [
        text,
        f"Predictions agree in {spread(agreed, '.1%')} of the rows, those of the two PyTorch trainings in "
        f"{control.agree:.1%}.",
    ]


def _until(step: int | None, num_steps: int | None = None) -> str:
    """How long something holds that first fails at `step`, of `num_steps` if that is not all."""
    if step is None:
        return f"in all {num_steps} steps" if num_steps else "to the end"
    return f"until step {step}"


def _is_explained_by_rounding(results: Results) -> bool:
    """Whether each pair has the same batches and starts and ends no further apart than the control's trainings."""
    control = results.sameness.control
    if control is None or len(control.seeds) < MIN_SEEDS:
        return False
    within = {(pair.first, pair.second) for pair in control.pairs if pair.within}
    return all((pair.first, pair.second) in within for pair in results.comparisons)


@dataclass(frozen=True)
class VerdictParts:
    """What is claimed, why, and under which condition."""

    claim: str
    reason: str
    caveat: str = ""


def verdict(pair: PairComparison, metric: str) -> Statement:
    """What can be claimed about a metric of two variants, without a capital and a full stop."""
    comparison = pair.metrics[metric]
    parts = verdict_parts(comparison)
    is_equivalent = comparison.verdict.code == "equivalent"
    text = f"{parts.claim} ({parts.reason})" if is_equivalent else f"{parts.claim}: {parts.reason}"
    return Statement(state=verdict_state(comparison), sentence=text + parts.caveat)


def verdict_state(comparison: MetricComparison) -> State:
    """Whether the metric is equivalent, different or neither."""
    return VERDICT_STATES.get(comparison.verdict.code, "unknown")


def verdict_parts(comparison: MetricComparison) -> VerdictParts:
    """What is claimed, why, and under which condition."""
    code, margin, seeds = comparison.verdict.code, comparison.margin, comparison.seeds
    tested, over_seeds = comparison.equivalence, f"over {count(seeds.n, 'seed')}"
    ninety = f"90% interval {difference_interval(tested.low, tested.high, margin)}"
    if code == "constant":
        return VerdictParts("the same", "it describes the data, and no model changes it")
    if code == "equivalent":
        claim = f"equivalent within {margin_text(margin)} {over_seeds}"
        return VerdictParts(claim, _identical(comparison) or ninety, _caveat(comparison))
    if code == "different":
        size = difference_text(abs(seeds.mean_difference or 0.0), margin, signed=False) + unit_after(margin)
        interval = f"95% interval {difference_interval(seeds.low, seeds.high, margin)} {over_seeds}"
        return VerdictParts("different", f"{comparison.verdict.higher} is higher by {size} ({interval})")
    if code == "inconclusive":
        claim = f"not shown to be equivalent within {margin_text(margin)} {over_seeds}"
        return VerdictParts(claim, f"{ninety}{unit_after(margin)}, {_what_is_shown(comparison)}")
    return VerdictParts("not shown to be equivalent", _what_is_missing(comparison))


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


def _what_is_shown(comparison: MetricComparison) -> str:
    """The margin within which equivalence is shown, and how many seeds the recipe's margin would need."""
    margin, tested = comparison.margin, comparison.equivalence
    widest = difference_text(max(abs(tested.low or 0.0), abs(tested.high or 0.0)), margin, signed=False)
    shown = f"which shows equivalence within {widest}{unit_after(margin)}"
    if tested.seeds_needed is None:
        return shown
    return f"{shown}; within {margin_text(margin)} it takes about {count(tested.seeds_needed, 'seed')}"


def _identical(comparison: MetricComparison) -> str | None:
    texts = {"predictions": "the predictions are the same", "scores": "no difference in any seed"}
    return texts.get(comparison.verdict.identical or "")


def _caveat(comparison: MetricComparison) -> str:
    examples = comparison.bootstrap
    if examples is None or not comparison.verdict.depends_on_examples:
        return ""
    return f"; on other examples it could be {difference_interval(examples.low, examples.high, comparison.margin)}"


def _difference_over_examples(comparison: MetricComparison) -> str:
    margin, examples = comparison.margin, comparison.bootstrap
    text = difference_text(comparison.seeds.mean_difference or 0.0, margin) + unit_after(margin)
    if examples is None:
        return text
    return f"{text}, 95% interval over examples {difference_interval(examples.low, examples.high, margin)}"


def faults(results: Results) -> list[str]:
    """What in the records shows that the experiments are not the same, whatever the scores."""
    return [
        *_recipe_faults(results.recipe_differences),
        *_probe_faults(results),
        *_batch_faults(results),
        *_rate_faults(results),
        *_lockstep_faults(results),
        *(_further_apart(results) if _has_enough_controls(results) else []),
    ]


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
            size = f"differ by up to {largest(row.max_difference for row in rows)}"
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
        f"{largest(row.learning_rate_max_difference for row in rows)}"
        for (first, second), rows in _by_pair(different).items()
    ]


def _lockstep_faults(results: Results) -> list[str]:
    faults = []
    for result in (result for result in results.sameness.lockstep if not result.same):
        over = [
            f"{name.replace('_', ' ')} {largest([difference])} (allowed {result.bounds[name]:.0e})"
            for name, difference in result.differences.items()
            if difference is None or not difference <= result.bounds[name]
        ]
        faults.append(
            f"in lock-step with {result.attention} attention PyTorch and TensorFlow differ: {', '.join(over)}"
        )
    return faults


def _further_apart(results: Results) -> list[str]:
    """The pairs of variants that are further apart than rounding explains."""
    control = results.sameness.control
    return [
        f"the losses of {pair.first} and {pair.second} are {factor(pair.share)} times as far apart as those of two "
        "PyTorch trainings whose first weights differ by one rounding"
        for pair in (control.pairs if control else [])
        if not pair.within and pair.share is not None
    ]


def _has_enough_controls(results: Results) -> bool:
    """Whether there are enough controls: with few, rounding may by chance begin to grow late in all of them."""
    return results.sameness.control is not None and len(results.sameness.control.seeds) >= MIN_SEEDS


def failures(runs: list[RunSummary]) -> list[str]:
    """The runs that failed."""
    return [f"the run {run.label} failed; the end of its log is below" for run in runs if not run.completed]


def problem_statement(problem: Problem) -> Statement:
    """What the comparison itself could not do, or found contradicted."""
    state, text = _PROBLEMS[problem.code]
    return Statement(state=state, sentence=text.format(**problem.model_dump()))


def doubts(results: Results) -> list[str]:
    """What is not a fault, but keeps a careful reader from being sure."""
    doubts = [] if _has_enough_controls(results) else _further_apart(results)
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


def machine_doubts(results: Results) -> list[str]:
    """What keeps a careful reader from comparing speeds."""
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


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _by_pair(rows: Iterable[_PairRow]) -> dict[tuple[str, str], list[_PairRow]]:
    groups: dict[tuple[str, str], list[_PairRow]] = defaultdict(list)
    for row in rows:
        groups[row.first, row.second].append(row)
    return groups


REPRODUCING = "The same command on the same kind of machine with the same versions gives the same scores; speeds vary."
AGREEMENT = "Two variants can score alike and still be right on different examples."
NO_LOG = "There is no log."


def attention_lead(text: str, is_cross: bool) -> str:
    """What the attention maps show."""
    if is_cross:
        return f"From which tokens of a text each written token was made, after training: “{text}”"
    return f"The attention weights after training for one text: “{text}”"


def sameness_lead(results: Results) -> str:
    """Why the report shows more than scores, and what was compared."""
    if not results.comparisons:
        return "There are no two variants to compare."
    steps = ", and the steps themselves one by one" if results.sameness.lockstep else ""
    return (
        "Scores alone cannot tell: two different trainings can score alike. So the start and the batches of every step "
        f"were compared{steps}."
    )


def limits(results: Results) -> dict[str, str]:
    """What a reader must not conclude from the report, by subject."""
    seeds = max((len(variant.seeds) for variant in results.variants), default=0)
    few = "; with so few, intervals are wide and “not settled” is the honest answer to much" if seeds < 5 else ""
    found = {
        "Seeds": f"{count(seeds, 'seed')} a variant{few}.",
        "Dropout": "If a recipe leaves dropout to the frameworks, each draws from its own generator. Runs of one seed "
        "then share start and batches, but not these draws, so their scores may differ as much as those of two seeds.",
        "Many tests": "The intervals and p values are those of each comparison alone, not corrected for their number.",
        "Not settled": "If equivalence could not be shown, a difference has not been shown either.",
        "Machine": "Speed and memory hold for this machine, these versions and this size of model.",
    }
    if len(results.machines) > 1:
        found["Machine"] = "The runs come from different machines, so their speed and memory cannot be compared."
    return found
