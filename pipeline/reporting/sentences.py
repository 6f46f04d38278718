"""The sentences of a report below its first screen: results and codes in, statements with a state out.

In this order: what a metric shows of two variants, what failed, what is doubtful, and what a reader of the tables has
to know. What is said of how far the trainings are the same is in `sameness/sentences.py`, and of predictions in
`details/sentences.py`. The first screen is written by `first_screen.py`, from these sentences; headings and notes of
tables are beside the tables. No other file writes prose.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.comparison.records.base import State
from pipeline.comparison.records.costs import Machine
from pipeline.comparison.records.scores import MetricComparison, PairComparison, VerdictCode
from pipeline.comparison.results import Problem, Results, RunSummary, Statement
from pipeline.comparison.same_experiment import USUAL_GRAD_NORM_RATIO
from pipeline.models.attention import described
from pipeline.reporting.formatting import FRAMEWORK_NAMES, difference_interval, difference_text, margin_text, unit_after
from pipeline.reporting.sameness.sentences import MAX_NAMED, further_apart, has_enough_controls
from pipeline.utils.text import count, join_names

MAX_KEYS = 6

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
    "lockstep_failed": ("unknown", "the lock-step with {described} failed: {error}"),
    "lockstep_outdated": (
        "unknown",
        "the data or the checkpoint changed since the runs, so a lock-step would say nothing about them; repeat the "
        "runs to have one",
    ),
}
VERDICT_STATES: dict[VerdictCode, State] = {"equivalent": "good", "constant": "good", "different": "bad"}


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
    ninety = (
        f"90% interval of the difference {difference_interval(tested.low, tested.high, margin)}{unit_after(margin)}"
    )
    if code == "constant":
        return VerdictParts("the same", "it describes the data, and no model changes it")
    if code == "equivalent":
        claim = f"equivalent within {margin_text(margin)} {over_seeds}"
        return VerdictParts(claim, _identical(comparison) or ninety, _caveat(comparison))
    if code == "different":
        size = difference_text(abs(seeds.mean_difference or 0.0), margin, signed=False) + unit_after(margin)
        ends = sorted(abs(end or 0.0) for end in (seeds.low, seeds.high))  # both on one side of zero
        low, high = (difference_text(end, margin, signed=False) for end in ends)
        interval = f"95% interval {low} to {high} {over_seeds}"
        return VerdictParts("different", f"{comparison.verdict.higher} is higher by {size} ({interval})")
    if code == "inconclusive":
        claim = f"not shown to be equivalent within {margin_text(margin)} {over_seeds}"
        return VerdictParts(claim, f"{ninety}, {_what_is_shown(comparison)}")
    return VerdictParts("not shown to be equivalent", _what_is_missing(comparison))


def _what_is_missing(comparison: MetricComparison) -> str:
    """Why nothing can be claimed."""
    code, num_seeds = comparison.verdict.code, comparison.seeds.n
    if code == "undefined":
        undefined = comparison.verdict.undefined_seeds
        return f"undefined in {undefined} of {count(num_seeds + undefined, 'seed')}"
    if code == "all_zero":
        return "every run scores 0, so none has learned what this measures, and equal scores show nothing"
    if code == "no_shared_seed":
        return "no seed was completed by both"
    if code == "no_margin":
        return "the margin is relative to a mean of zero"
    too_few = f"{count(num_seeds, 'seed')} {'is' if num_seeds == 1 else 'are'} too few"
    identical = _identical(comparison)
    return f"{identical}, but {too_few}" if identical else f"{too_few} ({_difference_text(comparison)})"


def _what_is_shown(comparison: MetricComparison) -> str:
    """The margin within which equivalence is shown, and how many seeds the recipe's margin would need."""
    margin, tested = comparison.margin, comparison.equivalence
    widest = difference_text(max(abs(tested.low or 0.0), abs(tested.high or 0.0)), margin, signed=False)
    shown = f"which shows equivalence within {widest}{unit_after(margin)}"
    if tested.seeds_needed is None:
        return shown
    seeds = count(tested.seeds_needed, "seed")
    return f"{shown}; within {margin_text(margin)} it takes about {seeds} if there is no true difference"


def _identical(comparison: MetricComparison) -> str | None:
    texts = {"predictions": "the predictions are the same", "scores": "no difference in any seed"}
    return texts.get(comparison.verdict.identical or "")


def _caveat(comparison: MetricComparison) -> str:
    examples = comparison.bootstrap
    if examples is None or not comparison.verdict.depends_on_examples:
        return ""
    ends = difference_interval(examples.low, examples.high, comparison.margin)
    return f"; on other validation examples it could be {ends}{unit_after(comparison.margin)}"


def _difference_text(comparison: MetricComparison) -> str:
    margin, examples = comparison.margin, comparison.bootstrap
    text = "difference " + difference_text(comparison.seeds.mean_difference or 0.0, margin) + unit_after(margin)
    if examples is None:
        return text
    return f"{text}, 95% interval over examples {difference_interval(examples.low, examples.high, margin)}"


def failures(runs: list[RunSummary]) -> list[str]:
    """The runs that failed."""
    return [f"the run {run.label} failed; the end of its log is below" for run in runs if not run.completed]


def problem_statement(problem: Problem) -> Statement:
    """What the comparison itself could not do, or found contradicted."""
    state, text = _PROBLEMS[problem.code]
    words = problem.model_dump() | {"described": described(problem.attention or "")}
    return Statement(state=state, sentence=text.format(**words))


def doubts(results: Results) -> list[str]:
    """What is not a fault, but keeps a careful reader from being sure."""
    doubts = [] if has_enough_controls(results) else further_apart(results)
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
        names = "; ".join(map(machine_text, results.machines))
        doubts.append(f"the runs were made on different machines, so their speeds cannot be compared: {names}")
    for machine in results.machines:
        mixed = [
            f"{name} {versions_text(results, machine, name)}" for name, each in machine.versions.items() if each[1:]
        ]
        if mixed:
            doubts.append(f"versions differ between the runs: {', '.join(mixed)}")
    threads = {_threads(run) for run in results.runs if run.completed}
    if len(threads) > 1:
        doubts.append(f"the runs had different numbers of threads ({', '.join(sorted(threads))}), which changes speed")
    return doubts


def machine_text(machine: Machine) -> str:
    """'AMD EPYC, 2 cores'."""
    cores = "" if machine.cores is None else f", {count(machine.cores, 'core')}"
    return f"{machine.processor or 'unknown processor'}{cores}"


def versions_text(results: Results, machine: Machine, package: str) -> str:
    """'4.57.6'; of several versions, which framework has which, or which runs if those of a framework differ."""
    versions = machine.versions[package]
    if len(versions) == 1:
        return versions[0]
    having: dict[str, list[RunSummary]] = {version: [] for version in versions}
    for run in results.runs:
        if run.label in machine.runs and run.environment is not None:
            version = (run.environment.versions | run.environment.framework).get(package)
            if version is not None:  # the environment of one framework lacks packages of the other
                having[version].append(run)
    frameworks = [{FRAMEWORK_NAMES[run.framework] for run in runs} for runs in having.values()]
    if all(len(each) == 1 for each in frameworks) and len(set.union(*frameworks)) == len(versions):
        owners = [list(each) for each in frameworks]
    else:
        owners = [[run.label for run in runs] for runs in having.values()]
    return " and ".join(f"{v} in {join_names(names, MAX_NAMED)}" for v, names in zip(versions, owners, strict=True))


def _threads(run: RunSummary) -> str:
    """Runs of earlier versions recorded "default" for TensorFlow's own choice, which was one for each core."""
    environment = run.environment
    assert environment is not None, "completed runs have one"
    return str(environment.cores) if environment.threads == "default" else environment.threads


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


AGREEMENT = "Two variants can score alike and still be right on different examples."
NO_LOG = "There is no log."


def attention_lead(text: str, is_cross: bool) -> str:
    """What the attention maps show."""
    if is_cross:
        return f"From which tokens of a text each written token was made, after training: “{text}”"
    return f"The attention weights after training for one text: “{text}”"


def reproducing(results: Results) -> str:
    """Whether the same command gives the same scores again: a GPU computes the same bits only if it was told to."""
    same = "The same command on the same kind of machine with the same versions and number of threads gives"
    devices = {run.environment.framework.get("device", "cpu") for run in results.runs if run.environment}
    if devices <= {"cpu"}:
        return (
            f"{same} the same scores; speeds vary. A processor always computes the same bits: train.deterministic, "
            "whichever it is, changes only what a GPU does."
        )
    varies = any(difference.key == "train.deterministic" for difference in results.recipe_differences)
    if results.settings.get("train.deterministic") is True and not varies:
        return f"{same} the same scores, also on a GPU, since train.deterministic is on; speeds vary."
    return (
        f"{same} nearly the same scores; speeds vary. A GPU computes the same bits each time only with "
        "train.deterministic=true."
    )


def settings_lead(results: Results) -> str:
    """Whether all runs had the same settings."""
    keys = [difference.key for difference in results.recipe_differences]
    if not keys:
        return "All runs have these settings."
    return f"Not the same in all runs: {join_names(keys, MAX_KEYS)}."


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
        "Data": "Scores hold for this data, this model and these settings; with others, variants may differ more.",
        "Machine": "Speed and memory hold for this machine, these versions and this size of model.",
    }
    if len(results.machines) > 1:
        found["Machine"] = "The runs come from different machines, so their speed and memory cannot be compared."
    return found
