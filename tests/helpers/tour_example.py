"""A tour whose figures are made up: one of everything, with numbers that occur once."""

from pipeline.comparison.records.sameness import LockstepResult
from pipeline.deploy.report.results import DeploymentResults, FormatCost, ModeCost, ProcessCost, ShapeCost, Spread
from pipeline.runs.record import RunIdentity
from pipeline.tour.results import (
    CodeComparison,
    NanCheck,
    Probe,
    SentenceTour,
    ShownError,
    Stage,
    StepCost,
    Stop,
    TourResults,
)
from pipeline.tour.words import WORDS

SHOWN = (
    "train", "read_source", "write_target", "mix", "talks", "remembers", "decides", "halves", "stops", "attend_wrongly",
    "entropy_gradient", "checked_entropy_gradient", "as_graph",
)  # fmt: skip
FRAMEWORKS = ("torch", "tensorflow")


def spread(middle):
    return Spread(median=middle, low=middle * 0.9, high=middle * 1.1)


def mode(framework, name, gains=(), problem=None, work="inference"):
    shapes = [ShapeCost(milliseconds=spread(17.3 / gain), gain=spread(gain)) for gain in gains]
    return ModeCost(
        framework=framework, work=work, mode=name, problem=problem, shapes=shapes, first_call_seconds=0.0731,
        largest_difference=1.9e-7,
    )  # fmt: skip


def stage(name, letters, shape, values, rows=(), columns=()):
    return Stage(
        name=name, letters=letters, meaning="What it is.", shape=shape,
        shown={"torch": values, "tensorflow": [[number + 0.01 for number in row] for row in values]},
        rows=list(rows), columns=list(columns), largest_difference=4.7e-7,
    )  # fmt: skip


def deployment():
    return DeploymentResults(
        created="2026-11-26T11:00:00+00:00",
        quick=False,
        run=RunIdentity(recipe="mine", framework="torch", attention="stock", seed=0),
        run_folder="run",
        task="sequence-classification",
        checkpoint="some/model",
        validation_rows=1009,
        shapes=[(1, 32), (32, 64)],
        processes=3,
        repeats=9,
        processor="A Processor",
        versions={"python": "3.11.9"},
        formats=[
            FormatCost(
                format=kind, title=title, runtime=f"{title} 1", model_bytes=3407872, agreement=1.0,
                largest_difference=2.3e-6,
                cost=ProcessCost(
                    first_answer_seconds=spread(1.53), milliseconds=[spread(2.91), spread(53.7)],
                    peak_memory_bytes=spread(113 * 2**20),
                ),
            )
            for kind, title in ((None, "The run, PyTorch"), ("onnx", "ONNX"))
        ],
        modes=[
            mode(framework, name, gains, work=work)
            for work in ("inference", "training step")
            for framework, name, gains in (
                ("torch", "eager", (1.0, 1.0)), ("torch", "TorchScript", (1.37, 1.09)),
                ("tensorflow", "eager", (1.0, 1.0)), ("tensorflow", "XLA", (9.7, 3.3)),
            )
        ],
    )  # fmt: skip


def example(**changes):
    """Figures of a whole tour."""
    words = ["the", "cat", "<end>"]
    return TourResults(
        created="2026-11-26T11:00:00+00:00",
        quick=False,
        processor="A Processor",
        versions={"python": "3.11.9", "torch": "2.13.0"},
        code={
            name: {framework: f"def {name}(x):\n    return {framework}.{name}(x)\n" for framework in FRAMEWORKS}
            for name in SHOWN
        },
        sentence=SentenceTour(
            source="the black cat sleeps",
            expected="le chat noir dort",
            translations={"torch": "le chat noir dort", "tensorflow": "le chat noir mange"},
            training_sentences=29,
            vocabulary=["<padding>", "<end>", "<start>", "the"],
            sizes={"D model width": 8, "H heads": 2},
            parameters=1672,
            steps=3,
            losses={"torch": [3.19, 2.23, 0.43], "tensorflow": [3.19, 2.23, 0.47]},
            first_step_over_rounding=3,
            model_difference={"torch": 0.0, "tensorflow": 6.1e-8},
            stages=[
                stage("source tokens", "BS", [1, 3], [[3, 5, 1]], columns=words),
                stage("scores", "BHSS", [1, 2, 3, 3], [[0.31, 0.43, -0.57], [0.11, 0.13, 0.17]], words, words),
                stage("cross-attention", "BHTS", [1, 2, 3, 3], [[0.2, 0.7, 0.1], [0.6, 0.3, 0.1]], words[:2], words),
            ],
        ),
        call_shapes=[[1, 2, 8, 16], [8, 8, 64, 32]],
        calls=[
            mode("torch", "eager", (1.0, 1.0)), mode("torch", "torch.export", (0.83, 1.23)),
            mode("torch", "torch.compile", problem="there is no compiler"),
            mode("tensorflow", "eager", (1.0, 1.0)), mode("tensorflow", "tf.function", (2.9, 1.9)),
        ],
        probes=[
            Probe(
                framework="torch", mode="eager", function="remembers", calls=3, runs_by_call=[1, 1, 1],
                answer="as eager",
            ),
            Probe(
                framework="torch", mode="torch.export", function="remembers", calls=3, runs_when_made=1,
                runs_by_call=[0, 0, 0], answer="as eager",
            ),
            Probe(
                framework="tensorflow", mode="tf.function", function="talks", calls=3, runs_by_call=[1, 0, 0],
                answer="as eager",
            ),
            Probe(framework="torch", mode="torch.jit.trace", function="decides", calls=2, answer="other than eager"),
            Probe(
                framework="torch", mode="torch.export", function="halves", calls=3, answer="refused",
                problem="AssertionError: Guard failed",
            ),
        ],
        comparisons=[
            CodeComparison(
                name=name, tokens={"torch": 613, "tensorflow": 661}, shared_tokens=509,
                names={"torch": ["nn.Linear", ".backward"], "tensorflow": ["layers.Dense"]},
            )
            for name in ("Attention", "Training")
        ],
        errors=[
            ShownError(
                framework="torch", mode="eager", frames=13, own_frames=7, names_the_line=True,
                message="RuntimeError: sizes",
            ),
            ShownError(
                framework="tensorflow", mode="XLA", frames=19, own_frames=11, names_the_line=False,
                message="ValueError: x",
            ),
        ],
        stops=[
            Stop(framework="torch", mode="eager", stops_when_made=0, stops_by_call=[1, 1, 1], shown="tensor([2.])"),
            Stop(framework="tensorflow", mode="XLA", stops_when_made=1, stops_by_call=[0, 0, 0], shown=""),
        ],
        nan_checks=[
            NanCheck(framework=name, silent="[-1.0, nan]", message="LogBackward0", names_the_line=True)
            for name in FRAMEWORKS
        ],
        steps=[
            StepCost(
                recipe="mine", model="BERT", framework=name, steps=20, milliseconds=spread(middle),
                first_step_seconds=0.67, peak_memory_bytes=701 * 2**20,
                milliseconds_by_kind={"matrix products": middle * 0.61, "between operators": middle * 0.39},
            )
            for name, middle in (("torch", 41.9), ("tensorflow", 47.1))
        ],
        deployment=deployment(),
        lockstep_recipe="mine",
        lockstep=LockstepResult(
            attention="stock", steps=59, dropout=0.05, differences={"loss": 2.1e-4}, control={"loss": 1.7e-4},
            num_controls=3, bounds={"loss": 1e-3}, same=True, loss_by_step=[1e-7, 2.1e-4],
            control_loss_by_step=[1e-7, 1.7e-4], first_step_over_rounding=32, control_first_step_over_rounding=30,
            worst_parameter="classifier.weight",
        ),
        facts=WORDS.facts,
    ).model_copy(update=changes)  # fmt: skip
