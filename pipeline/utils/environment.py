"""What this process sets for the libraries that it will import: environment variables, memory, standard error.

Nothing here is done by importing the package. The command line and the processes that the pipeline starts call
`configure_process` first thing; scripts and notebooks may.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import logging
import mmap
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy

from pipeline.utils.cores import free_cores, usable_cores

# How many threads PyTorch, and TensorFlow inside and between its operations, compute with.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
DEFAULTS = {
    "TF_USE_LEGACY_KERAS": "1",  # transformers' TensorFlow classes are Keras 2
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # TensorFlow's own pool keeps what each step frees; the system would take it back and hand it out page by page.
    "TF_CPU_ALLOCATOR_USE_BFC": "true",
    # oneDNN keeps an operation for each new shape. Packed batches have many, and with its own limit of 1,024 the memory
    # of PyTorch grows over thousands of steps. (TensorFlow keeps them once more, with a limit that cannot be set.)
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "TOKENIZERS_PARALLELISM": "true",
    "DATASETS_VERBOSITY": "critical",  # it logs what it also raises
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
# Options of glibc's mallopt: how much free memory is given back to the system, and from which size on a piece of
# memory is the system's own. Older versions take at most 32 MiB for the second.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# For how much memory large pages are asked for: a little less than from where on a piece is the system's own.
LARGE_PAGES_BYTES = 1000 * 2**20
# Of a process that only starts others and writes what they found: transformers imports neither framework there.
NO_FRAMEWORK = "none"
# What the C++ of TensorFlow and LiteRT writes while it is imported or opens a model, before any log level holds.
_NATIVE_NOISE = re.compile(
    rb"absl::InitializeLog|oneDNN custom operations|cudart_stub|cpu_feature_guard|To enable the following instructions"
    rb"|Created TensorFlow Lite"
)


# What is done before this process ends.
_endings: list[Callable[[], None]] = []
# Whether this process was configured for a training that has not begun.
_is_launching = False
# Whether this process was configured to take its memory in large pages.
_takes_large_pages = False


def configure_process(framework: str | None = None) -> str | None:
    """Set what the libraries read once from the environment; call it before torch, tensorflow or transformers.

    It makes the libraries quiet, chooses Keras 2 for TensorFlow, and has the process keep the memory that it frees and
    take it in large pages, which saves time in every step. With `framework` ("torch" or "tensorflow"), transformers
    imports only that one in this process, which saves seconds; with NO_FRAMEWORK neither (its version 5 imports PyTorch
    in any case). Variables that are set already are left alone, but for the framework's.

    Unless a variable says how many, both frameworks compute with a thread for each core that this process may use and
    that no other process uses at the moment, and at least one. Processes that this one starts inherit the number.
    Returns a sentence for people if it is fewer than the process may use.

    >>> configure_process("torch")  # doctest: +SKIP
    """
    global _is_launching
    _is_launching = True
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if framework is not None:
        os.environ["USE_TORCH"] = "1" if framework == "torch" else "0"
        os.environ["USE_TF"] = "1" if framework == "tensorflow" else "0"
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    _keep_freed_memory()
    return _choose_threads()


def before_ending(action: Callable[[], None]) -> None:
    """Have something done before `end_process` ends this process; it may be done twice."""
    _endings.append(action)


def run_endings() -> None:
    """Do what is to be done before this process ends."""
    for action in _endings:
        action()


def end_process(code: int) -> NoReturn:
    """End this process with an exit code, but without the libraries' own endings.

    Both frameworks hold threads that can take seconds to end, or crash, when Python waits for them.
    """
    run_endings()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def missing_modules(names: Iterable[str]) -> list[str]:
    """Those of these modules, each once, that the Python of this process does not have."""
    return [name for name in dict.fromkeys(names) if importlib.util.find_spec(name) is None]


def seconds_since_launch() -> float | None:
    """Seconds since this process began, if it was configured for what comes now; the next calls return None.

    None, too, where the system does not tell, and in a process that was not configured: a notebook may be hours old.
    """
    global _is_launching
    is_launching, _is_launching = _is_launching, False
    if not is_launching or not Path("/proc/self/stat").exists():
        return None
    # The 22nd field, in ticks since the machine was started; the second one is a name in parentheses.
    began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def _choose_threads() -> str | None:
    """Set the number of threads, and say why if it is fewer than the cores that this process may use.

    If the user has set some of the variables, the first one decides for those that are not set.
    """
    if given := next((os.environ[name] for name in THREAD_VARIABLES if os.environ.get(name)), None):
        os.environ.update({name: os.environ.get(name) or given for name in THREAD_VARIABLES})
        return None
    cores = usable_cores()
    threads = max(1, min(cores, round(free_cores()))) if cores > 1 else 1
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if threads == cores:
        return None
    return (
        f"computing with {threads} of {cores} possible threads, since other processes use the rest of the processor; "
        f"{THREAD_VARIABLES[0]}={cores} in the environment chooses all of them"
    )


@contextlib.contextmanager
def without_native_noise() -> Iterator[None]:
    """Hold back what native code writes to standard error, then pass on all but the known messages."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            held.seek(0)
            for line in held:
                if not _NATIVE_NOISE.search(line):
                    os.write(2, line)


@contextlib.contextmanager
def legacy_keras() -> Iterator[None]:
    """Have TensorFlow choose Keras 2 if it is imported in the block; afterwards the environment is as it was."""
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TF_USE_LEGACY_KERAS"]
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = before


@contextlib.contextmanager
def without_variable_of_torch() -> Iterator[None]:
    """Take away the variable that torch sets if it is imported in the block; it sets it anew where it needs it."""
    was_set = "TORCHINDUCTOR_CACHE_DIR" in os.environ
    try:
        yield
    finally:
        if not was_set:
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore the random generators of Python and NumPy after the block; also a decorator.

    The frameworks seed them along with their own.
    """
    python, numpy_state = random.getstate(), numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(numpy_state)


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: the next step needs it again, and the system hands it out page by page."""
    global _takes_large_pages
    is_set = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if sys.platform != "linux" or is_set:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and any(mallopt(M_MMAP_THRESHOLD, size) for size in (2**30, 2**25)):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        _takes_large_pages = True
        _ask_for_large_pages()


def _ask_for_large_pages() -> None:
    """Have memory that glibc hands out from now on come in pages of 2 MB, where the system has them.

    A step passes over far more memory than the processor has addresses of 4 KB pages at hand. The memory is reserved
    and freed at once: glibc keeps it, as it keeps all that is freed, and none of it is in use before it is written.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.madvise.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], [ctypes.c_void_p]
    if reserved := libc.malloc(LARGE_PAGES_BYTES):
        start = reserved // mmap.PAGESIZE * mmap.PAGESIZE
        libc.madvise(start, LARGE_PAGES_BYTES, mmap.MADV_HUGEPAGE)
        libc.free(reserved)


def give_back_freed_memory() -> None:
    """Give the memory that reading and tokenizing needed back to the system, where its C library can do that."""
    import pyarrow  # takes a while

    pyarrow.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    if _takes_large_pages:  # what was reserved of them was given back, too
        _ask_for_large_pages()
