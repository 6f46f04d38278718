"""What the report of a sweep says: the answers of its first screen, the tables, the method; results in, text out."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.reporting.content import Section
from pipeline.reporting.elements import Cell, Finding, Table
from pipeline.reporting.formatting import FRAMEWORK_NAMES, UNDEFINED, date, measured, score
from pipeline.reporting.writer import Content, Names
from pipeline.sweeps.figures import pictures
from pipeline.sweeps.results import SweepResults, TrialRecord
from pipeline.sweeps.space import brief
from pipeline.utils.text import count

NAMES = Names("sweep.html", "sweep.md", "sweep.json")
_METHOD = {
    "Trials": "Each is a run of its own, in a process of its own, with the seed of the sweep. The first has the "
    "recipe's own values, if the space has them.",
    "Values": "The next ten are drawn at random, the later ones by Optuna's TPE sampler, where scores were good. A "
    "space of no more points than trials is searched point by point. Values that were drawn before are not trained "
    "again.",
    "Pruned": "After each epoch a trial is stopped if its score is worse than the median of the completed trials after "
    "the same epoch, once four are completed.",
    "Score": "The metric on the validation split, of the weights that the recipe keeps. The best of many scores is "
    "partly luck, so it is higher than the same settings would score on other rows.",
    "Test": "No trial is scored on the test split while the sweep searches. The best one is, once, when it is over.",
    "Importance": "The share of the variance of the completed trials' scores that a key explains (fANOVA).",
}


def content_of(results: SweepResults) -> Content:
    """The report of a sweep, for HTML and Markdown alike."""
    settings = results.settings
    framework = FRAMEWORK_NAMES[settings.framework]
    facts = f"{results.task} · {results.checkpoint} · {framework}, {settings.attention} attention, seed {settings.seed}"
    return Content(
        "sweep", results.recipe, date(results.created), facts, answers(results), sections(results),
        pictures=pictures(results), names=NAMES,
    )  # fmt: skip


def answers(results: SweepResults) -> dict[str, Finding]:
    """The first screen: its questions with their answers."""
    return {
        "Which values are best?": _best(results),
        "Are they better than the recipe's own?": _gain(results),
        "What does the best trial score on test?": _test(results),
        "Which key matters?": _importance(results),
        "What did it take?": _effort(results),
    }


def sections(results: SweepResults) -> list[Section]:
    """The report's sections."""
    failed = [trial for trial in results.trials if trial.state == "failed"]
    return [
        Section("trials", "Trials", tables=[trials_table(results)], figures_first=True),
        *([Section("failed", "Failed trials", tables=[_causes(failed)])] if failed else ()),
        Section("space", "What was searched", tables=[_space(results), _machine(results)]),
        Section("method", "How it was done", points=_METHOD),
    ]


def values_in_words(trial: TrialRecord) -> str:
    """The values of a trial, such as "train.learning_rate 3.1e-04, train.batch_size 16"."""
    return ", ".join(f"{key} {brief(value)}" for key, value in trial.values.items())


def trials_table(results: SweepResults) -> Table:
    """Every trial: the completed ones by their score, then the others."""
    keys, settings = list(results.settings.space), results.settings
    others = [trial for trial in results.trials if trial.state != "completed"]
    rows: list[list[Cell]] = [
        [
            str(trial.number), _state(trial, results), score(trial.score, settings.scale),
            *(brief(trial.values[key]) for key in keys), str(len(trial.scores) or UNDEFINED),
            UNDEFINED if trial.seconds is None else measured(trial.seconds, "s")[0],
        ]
        for trial in (*results.completed, *others)
    ]  # fmt: skip
    note = "The score of a pruned trial is its last one."
    columns = ["Trial", "State", settings.metric, *keys, "Epochs", "Seconds"]
    return Table(f"{count(len(rows), 'trial')}, the best first", columns, {"": rows}, note, num_texts=2)


def _state(trial: TrialRecord, results: SweepResults) -> str:
    if trial.number == results.best:
        return "best"
    if trial.repeats is not None:
        return f"{trial.state}, as trial {trial.repeats}"
    return f"{trial.state}, the recipe's own" if trial.number == results.own else trial.state


def _best(results: SweepResults) -> Finding:
    if results.best is None:
        return Finding("bad", "None", "No trial was completed.")
    trial, settings = results.trial(results.best), results.settings
    found = score(trial.score, settings.scale)
    sentence = f"{values_in_words(trial)}: {settings.metric} {found} on validation. best.yaml is this recipe."
    return Finding("good", f"Trial {trial.number}", sentence)


def _gain(results: SweepResults) -> Finding:
    if results.own is None or results.best is None:
        return Finding("unknown", "Not settled", "The space does not have the recipe's own values, or they failed.")
    settings, own, best = results.settings, results.trial(results.own), results.trial(results.best)
    if best.number == own.number:
        return Finding("unknown", "No", f"No other trial has a better {settings.metric} than the recipe as it is.")
    found = f"{settings.metric} {score(best.score, settings.scale)} instead of {score(own.score, settings.scale)}"
    if best.score == own.score:
        return Finding("unknown", "No", f"Both have {settings.metric} {score(own.score, settings.scale)}.")
    return Finding("good", "On validation", f"{found}, with one seed; compare both over several seeds to be sure.")


def _test(results: SweepResults) -> Finding:
    if results.test is None:
        return Finding("unknown", "Not known", "The recipe has no test split.")
    settings = results.settings
    found = score(results.test.get(settings.metric), settings.scale)
    sentence = f"{settings.metric}, on rows that no choice was made by."
    if others := [str(number) for number in results.tested if number != results.best]:
        sentence = (
            f"{settings.metric}. Earlier, when they were best, it was also scored for trials {', '.join(others)}."
        )
    return Finding("good", found, sentence)


def _importance(results: SweepResults) -> Finding:
    if not results.importance:
        return Finding("unknown", "Not known", "Too few trials are completed, or all have the same score.")
    shares = ", ".join(f"{key} {share:.0%}" for key, share in results.importance.items())
    return Finding("good", next(iter(results.importance)), f"Explained variance of the score: {shares}.")


def _effort(results: SweepResults) -> Finding:
    seconds = sum(trial.seconds or 0.0 for trial in results.trials)
    return Finding("good", f"{seconds / 60:.1f} minutes", f"In all processes together: {_states(results.trials)}.")


def _states(trials: Iterable[TrialRecord]) -> str:
    states = [trial.state for trial in trials]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _causes(failed: list[TrialRecord]) -> Table:
    rows: list[list[Cell]] = [[f"{each.number}: {values_in_words(each)}", each.cause or UNDEFINED] for each in failed]
    return Table("Why trials failed", ["Trial", "Why"], {"": rows}, num_texts=2)


def _space(results: SweepResults) -> Table:
    rows: list[list[Cell]] = [[key, values] for key, values in results.settings.space.items()]
    return Table("The values of each key", ["Key", "Values"], {"": rows}, num_texts=2)


def _machine(results: SweepResults) -> Table:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return Table(
        "Machine", ["What", "Which"], {"": [["Processor", results.processor], ["Versions", versions]]}, num_texts=2
    )
