"""The machine that a run is made on: processor, versions and peak memory."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.backend import FRAMEWORKS
from pipeline.runs.record import EnvironmentRecord
from pipeline.utils.processes import ask_python_of

PACKAGES = ("twinstep", "transformers", "tokenizers", "datasets", "evaluate", "safetensors", "numpy", "accelerate")
OF_FRAMEWORKS = ("torch", "tensorflow", "tf-keras")


def describe_environment(
    framework_versions: dict[str, str],
    startup_seconds: float,
    processes: int = 1,
    launch_seconds: float | None = None,
) -> EnvironmentRecord:
    """What environment.json holds; `framework_versions` are those of the backend."""
    return EnvironmentRecord(
        versions=package_versions(),
        framework=framework_versions,
        processor=processor(),
        cores=os.cpu_count(),
        threads=framework_versions["threads"],
        platform=platform.platform(),
        command=as_typed(sys.argv),
        startup_seconds=round(startup_seconds, 3),
        launch_seconds=None if launch_seconds is None else round(launch_seconds, 3),
        processes=processes,
    )


def as_typed(arguments: Sequence[str]) -> list[str]:
    """A command as a person types it, from the arguments of its process, whose first is the file that runs.

    `python -m pipeline` runs `pipeline/__main__.py`; runs of earlier versions recorded no more than that file's name.

    >>> as_typed(["pipeline/__main__.py", "list"]), as_typed(["bin/twinstep", "list"])
    (['python', '-m', 'pipeline', 'list'], ['twinstep', 'list'])
    """
    program, *options = arguments or [""]
    file = Path(program)
    if file.name == "__main__.py":
        return ["python", "-m", file.parent.name or "pipeline", *options]
    return [file.name or "python", *options]


def package_versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """The versions of this process's Python and of those packages that it has, by default those that a run uses."""
    versions = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def versions_of_both() -> dict[str, str]:
    """The versions that both frameworks use, each asked of its own Python, and their own versions."""
    packages = (*PACKAGES, *OF_FRAMEWORKS)
    return merged_versions({name: ask_python_of(name, package_versions, packages) for name in FRAMEWORKS})


def merged_versions(versions: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """One text for each package from the versions of each framework: "5.24.0 (torch), 4.57.6 (tensorflow)" if two."""
    merged = {}
    for package in dict.fromkeys(itertools.chain.from_iterable(versions.values())):
        found = {framework: each[package] for framework, each in versions.items() if package in each}
        apart = ", ".join(f"{version} ({framework})" for framework, version in found.items())
        merged[package] = apart if len(set(found.values())) > 1 else next(iter(found.values()))
    return merged


def processor() -> str:
    """The processor's model name."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def instruction_extensions() -> list[str]:
    """The processor's extensions of the instruction set, sorted; empty where the system does not list them."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return sorted(line.partition(":")[2].split())
    return []


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once."""
    status = Path("/proc/self/status")
    # Counted from this program's start; getrusage counts what the process was before it became this program, too.
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
