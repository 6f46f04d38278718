"""The command that serves a finished run or an export over HTTP. It configures the process, then imports."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import app, configure_for, continue_in_python_of, tell
from pipeline.cli.options import Debug, ModelFolder, OwnFramework, Settings
from pipeline.recipe.overrides import parse_overrides
from pipeline.utils.environment import configure_process
from pipeline.utils.errors import UserError

if TYPE_CHECKING:
    from pipeline.deploy.serving.served_model import ServedModel
    from pipeline.runs.prediction import Opened

# The environment variable with the token that requests must have.
TOKEN = "TOKEN"


@app.command()
def serve(
    run: ModelFolder,
    host: Annotated[
        str, typer.Option(help="The address to listen on; by default only this machine's own.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 chooses a free one.")] = 8000,
    framework: OwnFramework = None,
    batch: Annotated[int, typer.Option(min=1, help="The most rows that the model answers together.")] = 32,
    queue: Annotated[int, typer.Option(min=1, help="The most rows that wait; more are refused with 503.")] = 1024,
    deadline: Annotated[
        float, typer.Option(min=0.001, help="Seconds after which a request is refused with 504.")
    ] = 30.0,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Serve a finished run or an export over HTTP: POST /predict, the Open Inference Protocol v2, and a page to try it.

    If the environment variable TOKEN is set, requests must carry it as their bearer token. SIGTERM and Ctrl-C end the
    server once it has answered what it has taken.
    """
    token = _token()
    _refuse_without_packages()
    opening = _opening(run, framework, parse_overrides(settings or ()))
    from pipeline.deploy.serving.app import is_local_name
    from pipeline.deploy.serving.requests import Limits
    from pipeline.deploy.serving.server import listening_socket
    from pipeline.deploy.serving.server import serve as serve_model

    limits = Limits(batch_rows=batch, waiting_rows=queue, deadline_seconds=deadline)
    with listening_socket(host, port) as listener:
        if token is None and not is_local_name(listener.getsockname()[0]):
            tell(f"warning: {host} can be reached from other machines, and no {TOKEN} protects the model")
        model = opening()
        model.warm_up()
        serve_model(model, listener, limits, token, lambda url: _show(model.description.name, url))


def _opening(folder: Path, framework: str | None, changes: dict[str, object]) -> Callable[[], ServedModel]:
    """What opens a run or an export to serve it; the process is configured for it. Raises UserError."""
    from pipeline.deploy.manifest import is_export, read_manifest
    from pipeline.runs.directory import load_run

    if is_export(folder):
        if framework is not None:
            raise UserError(f"{folder} is an export, which has a runtime of its own; leave the framework out")
        manifest = read_manifest(folder)
        format_name = manifest.format
        continue_in_python_of(manifest.facts.framework)
        tell(configure_process())
        from pipeline.deploy.answering import open_export

        return lambda: _served(open_export(folder, changes), format_name)
    finished = load_run(folder)
    chosen = framework or finished.record.framework
    tell(configure_for(chosen))
    from pipeline.runs.prediction import open_run

    return lambda: _served(open_run(finished, chosen, changes), chosen)


def _served(opened: Opened, kind: str) -> ServedModel:
    from pipeline.deploy.serving.served_model import ServedModel

    return ServedModel(opened.task, opened.predictor(), opened.task.recipe.name, f"twinstep_{kind}")


def _show(name: str, url: str) -> None:
    print(f"serving {name} at {url}", flush=True)


def _token() -> str | None:
    """The token that requests must have, if there is one. Raises UserError for an empty one, which protects nothing."""
    token = os.environ.get(TOKEN)
    if token is not None and not token.strip():
        raise UserError(f"the environment variable {TOKEN} is set, but empty; give it a value, or unset it")
    return token and token.strip()


def _refuse_without_packages() -> None:
    if missing := [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise UserError(f"serving needs {missing[0]}, which is not installed; pip install '.[serve]'")
