"""Access to the Hub: use the cache if it cannot be reached, try again, and explain what failed in one sentence."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import huggingface_hub
import transformers
from datasets import config as datasets_config
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import repo_folder_name

from pipeline.recipe.schema import Recipe

# How often a download that breaks off is tried; each try continues where the last one stopped.
ATTEMPTS = 3

Loaded = TypeVar("Loaded")

# By name: huggingface_hub has the errors of requests in its versions before 1, and those of httpx since.
_BROKEN_OFF = ("ChunkedEncodingError", "IncompleteRead", "ProtocolError", "RemoteProtocolError", "ReadError")
_OFFLINE = ("ConnectionError", "ConnectError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "MaxRetryError",
            "NameResolutionError", "ConnectTimeout", "ReadTimeout", "Timeout", "ProxyError")  # fmt: skip

# As requests and as httpx say it.
_SERVER_ERROR = re.compile(r"\b(5\d\d) Server Error|Server error '(5\d\d)\b")


def go_offline_if_unreachable(recipe: Recipe) -> None:
    """If the recipe needs the Hub and it cannot be reached, make the libraries use their caches right away.

    Without this they ask for each file five more times, which takes minutes and fills the screen.
    """
    needs_hub = not os.path.isabs(recipe.checkpoint) or not recipe.data.is_local
    if not needs_hub or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    try:
        seconds = huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT  # the environment variable of that name, else 10
        urllib.request.urlopen(huggingface_hub.constants.ENDPOINT, timeout=seconds).close()
    except urllib.error.HTTPError:
        return  # it can be reached; errors of real requests are reported by the libraries
    except OSError:
        # The libraries read the variable HF_HUB_OFFLINE only when they are imported.
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        transformers.utils.hub._is_offline_mode = True
        datasets_config.HF_HUB_OFFLINE = True


def persistently(load: Callable[[], Loaded]) -> Loaded:
    """What `load` returns; it is called again if a download breaks off.

    huggingface_hub itself tries six times if the Hub is slow or answers 500 to 504, but not in this case.
    """
    attempt = 1
    while True:
        try:
            return load()
        except Exception as error:
            if attempt == ATTEMPTS or not _kinds(error) & set(_BROKEN_OFF):
                raise
            attempt += 1


def explain_hub_error(error: BaseException, key: str, repository: str) -> str:
    """One sentence: why `repository`, which the recipe names in `key`, cannot be loaded, and what to do."""
    if problem := _cache_problem(key, repository):
        return f"{key}: {repository} cannot be loaded: {problem}"
    chain = _chain(error)
    kinds = _kinds(error)
    texts = " ".join(str(link) for link in chain)
    if any(isinstance(link, GatedRepoError) for link in chain) or "gated repo" in texts.lower():
        return (
            f"{key}: {repository} is gated: accept its terms on its page of the Hub, then give a token with "
            "`hf auth login` or HF_TOKEN=..."
        )
    if any(isinstance(link, RevisionNotFoundError) for link in chain):
        return f"{key}: {repository} has no such revision; its page of the Hub lists those that it has"
    if kinds & set(_BROKEN_OFF):
        return (
            f"{key}: the download of {repository} broke off {ATTEMPTS} times; try again, which continues where it "
            "stopped, or name a local copy"
        )
    if status := _SERVER_ERROR.search(texts):
        return (
            f"{key}: the Hub keeps answering {status.group(1) or status.group(2)} Server Error for {repository}; try "
            "again later, or name a local copy"
        )
    if kinds & set(_OFFLINE) or "Couldn't reach" in texts or "couldn't connect" in texts or "offline" in texts.lower():
        return (
            f"{key}: {repository} is not in the local cache and the Hub cannot be reached; connect once, name a local "
            "copy, or try the recipe sentiment_bert, which needs no network"
        )
    if any(isinstance(link, RepositoryNotFoundError) for link in chain) or "DatasetNotFoundError" in kinds:
        return (
            f"{key}: there is no {repository} on the Hub, and no such local folder; if it is private, give a token "
            "with `hf auth login` or HF_TOKEN=..."
        )
    return f"{key}: {repository} cannot be read: {' '.join(str(error).split())[:300]}{anew(key, repository)}"


def anew(key: str, repository: str) -> str:
    """What to do about a damaged copy in the Hub's cache, as the end of a sentence; nothing if there is no copy."""
    folder = _cached_folder(key, repository)
    return f"; if its copy is damaged, delete {folder}, and it is downloaded anew" if folder.exists() else ""


def _cached_folder(key: str, repository: str) -> Path:
    """Where the Hub's cache keeps what the recipe names in `key`."""
    kind = "dataset" if key.startswith("data") else "model"
    return Path(huggingface_hub.constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type=kind))


def _cache_problem(key: str, repository: str) -> str | None:
    """What is wrong with the folders of the Hub's cache, or with the copy in it, which the libraries do not say."""
    caches = [huggingface_hub.constants.HF_HUB_CACHE]
    caches += [str(datasets_config.HF_DATASETS_CACHE)] if key.startswith("data") else []
    for cache in caches:
        if problem := _folder_problem(Path(cache)):
            return f"{problem}; correct that, or name another folder with the environment variable HF_HOME"
    folder = _cached_folder(key, repository)
    if os.path.lexists(folder) and (problem := _copy_problem(folder)):
        return f"{problem}; delete {folder}, and it is downloaded anew"
    return None


def _copy_problem(folder: Path) -> str | None:
    """What is wrong with the copy of a repository: `refs`, and `snapshots` of links to files that were downloaded."""
    for path in (folder, *(folder / "refs", folder / "snapshots"), *sorted(folder.glob("snapshots/*"))):
        if os.path.lexists(path) and (problem := _folder_problem(path)):
            return problem
    for path in sorted(folder.glob("snapshots/*/**/*")):
        if not path.exists():
            return f"{path} is a link to a file that is gone"
        if not _may(path, os.R_OK):
            return f"this user may not read {path}"
    return None


def _folder_problem(folder: Path) -> str | None:
    """Why a folder cannot be used, or cannot be made if it is missing."""
    for path in (*reversed(folder.parents), folder):
        if path.is_symlink() and not path.exists():
            return f"{path} is a link to {os.readlink(path)}, which does not exist"
        if not path.exists():
            return None if _may(path.parent, os.W_OK) else f"this user may not make the folder {path}"
        if not path.is_dir():
            return f"{path} is a file, but must be a folder"
        if not _may(path, os.X_OK):
            return f"this user may not enter the folder {path}"
    return None if _may(folder, os.R_OK) else f"this user may not read the folder {folder}"


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _kinds(error: BaseException) -> set[str]:
    return {type(link).__name__ for link in _chain(error)}


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links
