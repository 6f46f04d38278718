"""What is tried in each framework: the sentence, attention in every mode, Python's view, errors, the debugger, NaN.

All of it runs in one child process of the framework, by the functions of its `tour.py`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import pdb
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import Backend, load_backend
from pipeline.deploy.report.mode_costs import EAGER, Plan, cause, interleaved, processor_seconds
from pipeline.deploy.report.results import ModeCost
from pipeline.deploy.runtimes import Arrays
from pipeline.tour import sentence
from pipeline.tour.results import Answer, NanCheck, Probe, ShownError, Stop
from pipeline.utils.errors import ProofError
from pipeline.utils.files import temporary_files_vanish
from pipeline.utils.text import shorten

if TYPE_CHECKING:
    from types import ModuleType

# Queries, keys and values [B, H, T, K]: a short text and a batch of longer ones.
CALL_SHAPES = ((1, 2, 8, 16), (8, 8, 64, 32))
# The functions of `tour.py` whose source is shown.
SHOWN = (
    "train", "read_source", "write_target", "mix", "talks", "remembers", "decides", "halves", "stops", "attend_wrongly",
    "entropy_gradient", "checked_entropy_gradient", "as_graph",
)  # fmt: skip
# Of a message or of what a debugger shows.
MOST_CHARACTERS = 300
PROJECT = str(Path(__file__).resolve().parents[1])
_EXAMPLE = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
# The inputs of each function's calls, the first of which is the example for a trace.
_INPUTS = {
    "talks": [_EXAMPLE] * 3,
    "remembers": [_EXAMPLE] * 3,
    "decides": [_EXAMPLE, -_EXAMPLE],
    "halves": [_EXAMPLE, np.resize(_EXAMPLE, 6), np.resize(_EXAMPLE, 8)],
}
# The line of `attend_wrongly` that is wrong, as both frameworks have it.
_WRONG_LINE = "scores_BHTS = "
# A line of a message that repeats another error.
_NAMED = re.compile(r"\w+Error: ")
# How lines of a message begin that say where the error was.
_WHERE = ("in user code", "File ", "* ", "Exception encountered", "Call arguments", "\N{BULLET}", "-> ")
_SHOW_AND_GO_ON = "p doubled_N\ncontinue\n"


@dataclass(frozen=True)
class Findings:
    """What one framework's process found."""

    followed: sentence.Followed
    num_parameters: int
    code: dict[str, str]
    calls: list[ModeCost]
    probes: list[Probe]
    errors: list[ShownError]
    stops: list[Stop]
    nan_check: NanCheck


class Place(NamedTuple):
    """A framework: its name, its interface, and its functions of the tour."""

    name: str
    backend: Backend
    tour: ModuleType


def run_experiments(
    send: Callable[[str], None], framework: str, plan: Plan, weights: dict[str, NDArray] | None = None
) -> Findings:
    """Everything that is tried in a framework; `send` is told what is being done.

    The sentence is followed with these weights of the tiny Transformer, or with those that training gives here.
    """
    backend = load_backend(framework)
    place = Place(framework, backend, functions_of(framework))
    with temporary_files_vanish("tour"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        send(f"{framework}: a sentence is followed through a Transformer")
        followed, num_parameters = follow(place, weights)
        send(f"{framework}: attention, eagerly and as a graph")
        calls = time_calls(place, plan)
        send(f"{framework}: what Python sees, errors, the debugger")
        return Findings(
            followed, num_parameters, code_shown(place), calls, probe(place, plan), show_errors(place, plan),
            stop(place, plan), check_nan(place),
        )  # fmt: skip


def functions_of(framework: str) -> ModuleType:
    """The `tour.py` of a framework."""
    if framework == "torch":
        from pipeline.pytorch import tour
    else:
        from pipeline.tensorflow import tour
    return tour


def code_shown(place: Place) -> dict[str, str]:
    """The source of the functions that the tour shows, as they were run."""
    marks = "  # fmt: skip"  # for the formatter, not for readers
    return {name: inspect.getsource(getattr(place.tour, name)).replace(marks, "") for name in SHOWN}


def follow(place: Place, shared: dict[str, NDArray] | None) -> tuple[sentence.Followed, int]:
    """Train the tiny Transformer and follow the sentence through it; also returns its number of parameters."""
    tour, spoken = place.tour, sentence.language()
    settings = sentence.settings(len(spoken.words))
    weights = sentence.first_weights(place.backend.weight_shapes(tour.Transformer(settings)))
    model = tour.build(settings, weights)
    source_BS, target_BT, sentence_1S = map(tour.tensor, (spoken.source_BS, spoken.target_BT, spoken.sentence_1S))
    mask_BS, mask_1S = (tour.tensor((ids != 0).astype(np.int64)) for ids in (spoken.source_BS, spoken.sentence_1S))
    losses = tour.train(model, source_BS, mask_BS, target_BT, sentence.STEPS, sentence.LEARNING_RATE)
    trained = place.backend.get_weights(model)
    max_new_tokens = spoken.target_BT.shape[1]
    written_1T = tour.write_texts(model, sentence_1S, mask_1S, max_new_tokens)
    if shared is not None:
        model = tour.build(settings, shared)
    text_1T = tour.tensor(tour.write_texts(model, sentence_1S, mask_1S, max_new_tokens)[:, :-1])
    stages = tour.read_source(model, sentence_1S, mask_1S)
    stages |= tour.write_target(model, stages["encoder output"], mask_1S, text_1T)
    logits_1TV = tour.array(model(sentence_1S, mask_1S, text_1T))
    arrays = {name: tour.array(value) for name, value in stages.items()}
    num_parameters = sum(value.size for name, value in weights.items() if name not in ("positions", "output_bias"))
    return sentence.Followed(losses, trained, written_1T, arrays, logits_1TV), num_parameters


def time_calls(place: Place, plan: Plan) -> list[ModeCost]:
    """Attention alone in each mode: its first call, then all modes in turns."""
    rng = np.random.default_rng(0)
    batches: list[Arrays] = [
        {name: rng.standard_normal(shape).astype(np.float32) for name in "qkv"} for shape in CALL_SHAPES
    ]
    costs = {mode: ModeCost(framework=place.name, work="inference", mode=mode) for mode in place.tour.MODES}
    functions: list[dict[str, Callable[[Arrays], NDArray]]] = [{}, {}]
    for mode in place.tour.MODES:
        try:
            if mode in plan.left_out:
                raise ProofError(plan.left_out[mode])
            started, first, differences = processor_seconds(), 0.0, []
            for number, batch in enumerate(batches):  # a graph for each shape, as a program of torch.export needs it
                functions[number][mode] = _called(place, mode, batch)
                expected = functions[number][EAGER](batch)
                differences.append(float(np.abs(functions[number][mode](batch) - expected).max()))
                if number == 0:
                    first = processor_seconds() - started
            found: dict[str, object] = {"first_call_seconds": first, "largest_difference": max(differences)}
        except Exception as error:  # a framework or a compiler raises what it likes, and the tour says it
            found = {"problem": cause(error)}
            for each in functions:
                each.pop(mode, None)
        costs[mode] = costs[mode].model_copy(update=found)
    shapes = [interleaved(each, batch, plan) for each, batch in zip(functions, batches, strict=True)]
    for mode in functions[0]:
        costs[mode] = costs[mode].model_copy(update={"shapes": [shape[mode] for shape in shapes]})
    return list(costs.values())


def _called(place: Place, mode: str, batch: Arrays) -> Callable[[Arrays], NDArray]:
    """Attention in a mode, called with arrays that are made tensors once."""
    inputs = tuple(place.tour.tensor(array) for array in batch.values())
    function = place.tour.as_graph(place.tour.mix, mode, inputs)
    return lambda _: place.tour.array(function(*inputs))


def probe(place: Place, plan: Plan) -> list[Probe]:
    """Each function that does more than computing, in each mode."""
    return [
        _probed(place, mode, name, inputs)
        for name, inputs in _INPUTS.items()
        for mode in place.tour.MODES
        if mode not in plan.left_out
    ]


def _probed(place: Place, mode: str, name: str, inputs: list[NDArray]) -> Probe:
    function, tensors = getattr(place.tour, name), [place.tour.tensor(array) for array in inputs]
    printed, problem = io.StringIO(), None
    answer: Answer = "as eager"
    with contextlib.redirect_stdout(io.StringIO()):
        expected = [place.tour.array(function(tensor)) for tensor in tensors]
    place.tour.NOTES.clear()
    runs: list[int] = []

    def note_runs() -> None:
        runs.append(printed.getvalue().count("\n") + len(place.tour.NOTES) - sum(runs))

    try:
        with contextlib.redirect_stdout(printed):
            graph = place.tour.as_graph(function, mode, (tensors[0],))
            note_runs()
            for tensor, array in zip(tensors, expected, strict=True):
                if not np.array_equal(place.tour.array(graph(tensor)), array):
                    answer = "other than eager"
                note_runs()
    except Exception as error:  # whatever a framework raises at what it cannot do
        answer, problem = "refused", cause(error)
    is_counted = name in ("talks", "remembers")
    return Probe(
        framework=place.name, mode=mode, function=name, calls=len(inputs), answer=answer, problem=problem,
        runs_when_made=runs[0] if is_counted and runs else 0, runs_by_call=runs[1:] if is_counted else [],
    )  # fmt: skip


def show_errors(place: Place, plan: Plan) -> list[ShownError]:
    """The whole Transformer with an error in its attention, in each mode."""
    spoken = sentence.language()
    model = place.tour.frozen(sentence.settings(len(spoken.words)))
    mask_BS = (spoken.source_BS != 0).astype(np.int64)
    inputs = tuple(map(place.tour.tensor, (spoken.source_BS, mask_BS, spoken.target_BT)))
    return [_shown(place, mode, model, inputs) for mode in place.tour.MODES if mode not in plan.left_out]


def _shown(place: Place, mode: str, model: Callable, inputs: tuple) -> ShownError:
    def whole(*ids: object) -> object:
        return model(*ids)

    with place.tour.planted_error():
        try:
            place.tour.as_graph(whole, mode, inputs)(*inputs)
        except Exception as error:  # the planted one, in the framework's words
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.line or "" for frame in frames] + str(error).splitlines()
            return ShownError(
                framework=place.name,
                mode=mode,
                frames=len(frames),
                own_frames=sum(frame.filename.startswith(PROJECT) for frame in frames),
                names_the_line=any(_WRONG_LINE in line for line in lines),
                message=_message(error),
            )
    raise AssertionError(f"{mode} computes with keys that are not transposed")


def _message(error: Exception) -> str:
    """What an error says itself, without the lines that say where it was."""
    lines = [line.strip() for line in str(error).splitlines()]
    named = [line for line in lines if _NAMED.match(line) and "Exception encountered" not in line]
    said = [line for line in lines if line and not line.startswith(_WHERE)]
    # TensorFlow repeats the error that an inner function raised, after the lines of all outer ones.
    text = named[-1] if named else f"{type(error).__name__}: {' '.join(said)}"
    return shorten(text.replace(f"{PROJECT}/", ""), MOST_CHARACTERS)


def stop(place: Place, plan: Plan) -> list[Stop]:
    """A function with a breakpoint, called three times in each mode, with a debugger that prints a variable."""
    return [_stopped(place, mode) for mode in place.tour.MODES if mode not in plan.left_out]


def _stopped(place: Place, mode: str) -> Stop:
    example, shown, stops = place.tour.tensor(_EXAMPLE), list[str](), list[int]()
    with _debugger(shown), contextlib.suppress(Exception):  # a mode may refuse to stop
        graph = place.tour.as_graph(place.tour.stops, mode, (example,))
        stops.append(len(shown))
        for _ in range(3):
            graph(example)
            stops.append(len(shown) - sum(stops))
    made, *calls = stops or [len(shown)]
    return Stop(
        framework=place.name, mode=mode, stops_when_made=made, stops_by_call=calls, shown=shown[0] if shown else ""
    )  # fmt: skip


@contextlib.contextmanager
def _debugger(shown: list[str]) -> Iterator[None]:
    """Python's debugger with two commands typed in advance; what it prints at each stop is added to `shown`."""

    def begin() -> None:
        output = io.StringIO()
        debugger = pdb.Pdb(stdin=io.StringIO(_SHOW_AND_GO_ON), stdout=output, nosigint=True, readrc=False)
        debugger.prompt, debugger.use_rawinput = "", False
        frame: FrameType | None = sys._getframe(1)
        debugger.reset()
        debugger.interaction(frame, None)
        printed = [line for line in output.getvalue().splitlines() if line and not line.startswith((">", "->"))]
        shown.append(shorten(" ".join(printed), MOST_CHARACTERS))

    before, sys.breakpointhook = sys.breakpointhook, begin
    try:
        yield
    finally:
        sys.breakpointhook = before


def check_nan(place: Place) -> NanCheck:
    """The gradient of an entropy where a weight is 0, without and with a check."""
    weights_T = place.tour.tensor(np.array([1.0, 0.0], np.float32))
    silent = place.tour.array(place.tour.entropy_gradient(weights_T)).tolist()
    message, lines, said = "", list[str](), list[warnings.WarningMessage]()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            place.tour.checked_entropy_gradient(weights_T)
    except Exception as error:  # PyTorch raises RuntimeError, TensorFlow InvalidArgumentError
        message = _message(error)
        frames = traceback.extract_tb(error.__traceback__)
        lines = [str(error), *(str(each.message) for each in said), *(frame.line or "" for frame in frames)]
    return NanCheck(
        framework=place.name,
        silent=str(silent),
        message=message,
        names_the_line=any("entropy = -" in line for line in lines),
    )
