"""Pushes a finished run to the Hub: its model with a card, and its recipe, without anything of the user's machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from pydantic import ValidationError

from pipeline.comparison.results import Results
from pipeline.models.library import CONNECTION_ERRORS
from pipeline.reporting.first_screen import answers, with_headline
from pipeline.reporting.formatting import interval, score
from pipeline.runs.directory import Run, load_run
from pipeline.runs.model_card import rebuilt_card, without_folders
from pipeline.runs.model_files import MODEL_CARD, refuse_altered
from pipeline.utils.errors import UserError
from pipeline.utils.files import reason
from pipeline.utils.text import one_line

RECIPE = "recipe.yaml"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# A path, which some versions of transformers leave in the configuration of a model or tokenizer.
_PATH = re.compile(r"[/~\\]|[A-Za-z]:\\")
# Sentences of the model card that are about the run's directory.
_IN_THE_RUN = (
    ("`recipe.yaml` in the run's directory.", "`recipe.yaml` beside this file."),
    (
        "`folder` is the folder of this file, or the model's id on the Hub.",
        "`folder` is this model's id on the Hub, `{repo}`, or a folder with its files.",
    ),
)


def push_run(
    run: Run | str | os.PathLike[str],
    repo: str,
    *,
    private: bool = False,
    report: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> str:
    """Upload a finished run's model and card into a new repository of the Hub, "user/name"; returns its address.

    The card's front matter has scores, data set, license and base model. It also shows the comparison in the folder
    `report`, by default the newest one in reports/ that has this run. `recipe.yaml` is uploaded too, with local files
    by their names; no path and no training data leave the machine. Everything comes in one commit or not at all.

    With `overwrite` an existing repository gets that commit. The token is that of `hf auth login` or HF_TOKEN.

    Raises UserError if the run is not complete, or if the repository cannot be written.

    >>> push_run("runs/sentiment_bert/torch-stock-seed0", "user/sentiment", private=True)  # doctest: +SKIP
    'https://huggingface.co/user/sentiment'
    """
    if not _REPOSITORY.fullmatch(repo):
        message = f'repo is "{repo}", but must be the user or organization and a name, as in "user/name"'
        raise UserError(message, arguments=("repo",))
    finished = run if isinstance(run, Run) else load_run(run)
    refuse_altered(finished.directory.model_folder, finished.record.model_files, thorough=True)
    files = _files(finished, repo, None if report is None else Path(report))
    api = HfApi()
    with _refusals_explained(repo, api.endpoint):
        if (api.token or huggingface_hub.get_token()) is None:
            raise UserError("nobody is logged in to the Hub here; use `hf auth login`, or set HF_TOKEN")
        _make_repository(api, repo, private, overwrite)
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo, additions, commit_message=f"{finished.record.identity.label}, fine-tuned by twinstep")
    return f"{api.endpoint}/{repo}"


def _files(run: Run, repo: str, report: Path | None) -> dict[str, bytes | str]:
    """What is uploaded, by name: the content, or the path of a file that is uploaded as it is."""
    folder, recipe = run.directory.model_folder, run.directory.recipe()
    files: dict[str, bytes | str] = {}
    for file in sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith(".")):
        files[file.name] = _without_paths(file) if file.suffix == ".json" else str(file)
    card = folder / MODEL_CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if not text.startswith("---"):  # older versions wrote cards that the Hub cannot read
        text = rebuilt_card(run)
    for sentence, on_the_hub in _IN_THE_RUN:
        text = text.replace(sentence, on_the_hub.format(repo=repo))
    files[MODEL_CARD] = (text.rstrip("\n") + "\n" + _comparison(run, report)).encode()
    files[RECIPE] = without_folders(recipe).to_yaml().encode()
    return files


def _without_paths(file: Path) -> bytes | str:
    """A JSON file without entries that are paths."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return str(file)
    if not isinstance(values, dict):
        return str(file)
    kept = {key: value for key, value in values.items() if not (isinstance(value, str) and _PATH.match(value))}
    return str(file) if kept == values else (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode()


def _comparison(run: Run, report: Path | None) -> str:
    """The section of the card about the comparison that the run is part of; nothing if there is none."""
    results = _results_in(report) if report is not None else _newest_results_with(run)
    if results is None:
        return ""
    headline = with_headline(results).headline
    assert headline is not None
    lines = [f"- {question} {answer.word}. {answer.sentence}" for question, answer in answers(headline).items()]
    rows = [
        f"| {variant} | {name} | {score(summary.mean, metric.scale)} | "
        f"{interval(summary.low, summary.high, metric.scale)} | {summary.n} |"
        for name, metric in results.metrics.items()
        for variant, summary in metric.variants.items()
    ]
    table = ["| variant | metric | mean | 95% interval | seeds |", "|---|---|---|---|---|", *rows]
    return "\n".join(["", "## Compared with the other variants", "", *lines, "", *table, ""])


def _results_in(report: Path) -> Results:
    file = report / "results.json"
    try:
        return Results.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{report} is not a report: results.json {reason(error)}", arguments=("report",)) from error
    except ValidationError as error:
        message = (
            f"{file} cannot be read, perhaps since an older version wrote it: {one_line(error.errors()[0]['msg'])}"
        )
        raise UserError(f"{message}; write the report anew", arguments=("report",)) from error


def _newest_results_with(run: Run) -> Results | None:
    """The newest report in reports/ that has the run; reports that cannot be read are passed over."""
    found = []
    for file in Path("reports").glob("*/results.json"):
        with contextlib.suppress(UserError):
            results = _results_in(file.parent)
            if any(Path(each.path).resolve() == run.path.resolve() for each in results.runs):
                found.append(results)
    return max(found, key=lambda results: results.created, default=None)


def _make_repository(api: HfApi, repo: str, private: bool, overwrite: bool) -> None:
    """Make the repository, or with `overwrite` use the one that is there. Raises UserError."""
    try:
        # None: what is usual for the user or organization.
        api.create_repo(repo, private=True if private else None)
    except HfHubHTTPError as error:
        if _status(error) != 409:
            raise
        if not overwrite:
            raise UserError(
                f"{repo} exists already; choose another name, or add a commit to it with overwrite=True",
                arguments=("repo", "overwrite"),
            ) from error
        if private and not api.repo_info(repo).private:
            raise UserError(
                f"{repo} exists and everybody can read it, but private=True was asked for; make it private on the Hub, "
                "or choose another name",
                arguments=("private", "repo"),
            ) from error


def _status(error: HfHubHTTPError) -> int:
    return 0 if error.response is None else error.response.status_code


@contextlib.contextmanager
def _refusals_explained(repo: str, endpoint: str) -> Iterator[None]:
    """Say in one message what the Hub, or the way to it, objects to. Raises UserError."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError(f"HF_HUB_OFFLINE is set, so that {endpoint} is not asked; unset it to push a run") from error
    except HfHubHTTPError as error:
        status = _status(error)
        refusals: Mapping[int, str] = {
            401: "the Hub does not know the token; use `hf auth login`, or set HF_TOKEN to a valid one",
            403: f"the token may not write to {repo}; use one with write access, or a name of your own",
        }
        told = one_line(error.server_message or "") or one_line(error)
        raise UserError(
            refusals.get(status, f"{endpoint} answered {status} when {repo} was written: {told}")
        ) from error
    except CONNECTION_ERRORS as error:
        raise UserError(f"{endpoint} cannot be reached: {one_line(reason(error))}; nothing was uploaded") from error
