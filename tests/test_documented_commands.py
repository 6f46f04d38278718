"""Every command of the README pages and of the docstrings of recipes runs, on small data and for a few steps.

What is run elsewhere, and what cannot be run, is in RUN_ELSEWHERE with the place or the reason.
"""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch

from pipeline.cli.main import execute
from pipeline.recipe.loading import load_shipped
from pipeline.training.kill_test import KillTestReport, Segment
from pipeline.utils.environment import THREAD_VARIABLES
from tests.benchmarks import (
    attention_step_time,
    bench,
    busy,
    damage_counts,
    data_size,
    gpu_check,
    gradient_checkpointing,
    kill_matrix,
    memory_series,
    rank_faults,
    rank_memory,
    real_text,
    translation,
)
from tests.benchmarks import processes as processes_benchmark
from tests.helpers import documented_data, pages
from tests.helpers.children import call_here, run_experiments_here, run_program_here
from tests.helpers.one_framework import needs
from tests.helpers.run_writer import write_run

COMMANDS = list(dict.fromkeys(command for _, command in pages.commands()))
BUNDLED = ("sentiment_bert", "dates_t5", "stories_gpt2", "translate_transformer")
RUN_ELSEWHERE = {
    "make list": "tests/test_documentation.py",
    "make schema OUT=recipe.schema.json": "tests/recipe/test_json_schema.py",
    **{
        f".venv/bin/python -m tests.benchmarks.serving {drill}": "takes minutes; tests/deploy/test_server.py"
        for drill in (
            "load runs/sentiment_bert/torch-stock-seed0 --clients 1 8 32 128",
            "soak runs/sentiment_bert/torch-stock-seed0 --seconds 600",
        )
    },
    "make serve RUN=runs/sentiment_bert/torch-stock-seed0": "tests/deploy/test_server.py; it runs until it is stopped",
    "make watch RUN=runs/sentiment_bert/torch-stock-seed0": "tests/cli/test_watching.py",
    'make finetune SET="train.trackers=tensorboard"': "tests/training/test_trackers.py",
    "make tour": "tests/tour/test_tour.py, quickly",
    'make compare RECIPE=translate_transformer ATTENTIONS="stock handwritten handwritten-model"': (
        "takes minutes; tests/frameworks/test_body.py compares runs of them"
    ),
    'make sweep SPACE="train.learning_rate=log(1e-5,1e-3) train.batch_size=16,32" TRIALS=20': (
        "takes minutes; tests/sweeps/test_sweep.py"
    ),
    "make push RUN=runs/sentiment_bert/torch-stock-seed0 REPO=user/name PRIVATE=1": "tests/deploy/test_hub.py",
    "make init FILE=reviews.jsonl": "tests/training/test_drafting.py",
    "make lockstep STEPS=50": "tests/test_documentation.py, with two steps",
    "make bench DATA=../shared/data REPEATS=3": "needs data that are not in this repository",
    ".venv/bin/python -m tests.benchmarks.real_text --data ../shared": "needs data that are not in this repository",
    "make finetune PROCESSES=2": "tests/training/test_processes.py",
    "make finetune PROCESSES=2 FRAMEWORK=tensorflow RESTARTS=3": "tests/training/test_processes.py",
    ".venv/bin/python -m tests.benchmarks.library_versions .venv-torch/bin/python": (
        "needs a second environment; tests/models/test_untied_t5.py asks both versions, if there are two"
    ),
    ".venv/bin/python -m tests.benchmarks.packed_gradients": "takes minutes; test_packed.py compares these gradients",
    **{command: "tests/deploy/test_export.py" for command in COMMANDS if re.search("make export|EXPORT=", command)},
    ".venv/bin/python -m tests.benchmarks.cache_race --rounds 40": "takes minutes; test_cache.py plays one round",
    ".venv/bin/python -m tests.benchmarks.export_matrix": "takes minutes; tests/deploy/test_export.py exports a run",
    "make deployment RUN=runs/sentiment_bert/torch-stock-seed0": "tests/deploy/test_deployment_report.py, quickly",
    'make finetune SET="train.compile=true"': "compiles for minutes; tests/frameworks/test_compile.py",
    **{
        f".venv/bin/python -m tests.benchmarks.compiled_steps {name}": "compiles for minutes; its parts are tested"
        for name in ("torch", "tensorflow")
    },
    "make bench": "takes minutes; `make bench QUICK=1` is run",
    "make gpu-check": "takes minutes; `make gpu-check QUICK=1` is run",
    **{
        f".venv/bin/python -m recipes.bundled.{name}.grammar": "tests/recipes compares what it writes"
        for name in ("sentiment", "dates", "stories", "translation")
    },
    "make kill-test KILLS=5": "tests/training/test_kill_test.py, with one kill",
    ".venv/bin/python -m recipes.bundled.translation.vocabulary": "tests/recipes/test_translation.py",
    ".venv/bin/python -m tests.helpers.first_screen reports/sentiment_bert recipes/bundled/sentiment/report.png": (
        "tests/reporting/test_report.py takes a picture"
    ),
    ".venv/bin/python -m tests.benchmarks.translation --data ../shared": "needs data that are not in this repository",
}
FEW_STEPS = {"--seeds": "0", "--frameworks": "torch"}
LIMITS = ["data.limit.train=64", "data.limit.validation=16", "train.epochs=1"]
SHORT_ANSWERS = ["options.num_beams=2", "options.max_new_tokens=4"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder with the data sets and checkpoints that recipes name."""
    folder = tmp_path_factory.mktemp("hub")
    documented_data.write_checkpoints(folder)
    documented_data.write_data_of_the_hub(folder)
    return folder


@pytest.fixture
def workplace(hub, tmp_path, monkeypatch):
    """The working directory: it has what the pages show, and nothing else of the machine is touched."""
    for organization in hub.iterdir():
        (tmp_path / organization.name).symlink_to(organization)
    for code in pages.blocks("README.md", "python"):
        if file := pages.FILE_NAME.match(code):
            (tmp_path / file[1]).write_text(code, encoding="utf-8")
    attention = pages.block_with("README.md", "python", "class WindowAttention")
    (tmp_path / "my_attention.py").write_text(attention, encoding="utf-8")
    (tmp_path / "reviews.jsonl").write_text('{"text": "a good room"}\nthe bad room\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("USE_TORCH", "USE_TF"):  # a command sets them; they are put back afterwards
        monkeypatch.setenv(name, "1")
    return tmp_path


def documented(*verbs):
    """(command, the words after `python -m pipeline`) of each command of the pipeline's verbs."""
    chosen = []
    for command in COMMANDS:
        if command not in RUN_ELSEWHERE:
            for _, module, *words in pages.expanded(command):
                if module == "pipeline" and words[0] in verbs:
                    chosen.append((command, words))
    return chosen


def small(words):
    """The words with fewer seeds and the like, and with settings that leave little to train."""
    words = [FEW_STEPS.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    name = words[1]
    settings = LIMITS if name in BUNDLED else ["train.epochs=1"]
    if name.endswith(("_t5", "_marian", "_transformer")):
        settings = [*settings, *SHORT_ANSWERS]
    return [*words, *(part for setting in settings for part in ("--set", setting))]


def cases(*verbs):
    """Cases for the commands of the verbs."""
    return [pytest.param(words, id=command) for command, words in documented(*verbs)]


def each_once(*verbs):
    """Cases for the commands of the verbs: of those that are the same on small data the first."""
    found = {}
    for command, words in documented(*verbs):
        found.setdefault(tuple(small(words)), pytest.param(words, id=command))
    return list(found.values())


def write_local_data(words, folder):
    """The files that a command names, if it does."""
    if words[1] == "mine.py" or any("data.files" in word for word in words):
        documented_data.write_local_data(folder, words[1].removesuffix(".py"))


@pytest.mark.slow
@pytest.mark.parametrize("words", each_once("finetune", "check"))
def test_a_command_that_trains_runs(words, workplace):
    write_local_data(words, workplace)
    assert execute(small(words)) == 0
    if words[0] == "finetune":
        (metrics,) = workplace.glob("runs/*/*/metrics.json")
        assert load_shipped(metrics.with_name("recipe.yaml")).train.epochs == 1


@pytest.mark.slow
@pytest.mark.parametrize("words", each_once("compare"))
def test_a_comparison_runs(words, workplace, monkeypatch):
    run_experiments_here(monkeypatch)
    assert execute(small(words)) == 0
    (report,) = workplace.glob("reports/*/report.html")
    assert "torch/stock" in report.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("words", cases("predict", "attention-maps"))
def test_a_command_that_uses_a_run_runs(words, workplace, capsys):
    folder = words[1]
    assert execute(small(["finetune", Path(folder).parent.name, "--out", folder])) == 0
    capsys.readouterr()
    assert execute(words) == 0
    printed = capsys.readouterr().out
    assert words[0] != "predict" or "--out" in words or json.loads(printed)["index"] == 0
    assert Path(workplace, folder, "attention.png").exists() is (words[0] == "attention-maps")
    assert Path(workplace, "answers.jsonl").exists() is ("--out" in words)


@pytest.mark.parametrize("words", cases("report", "index"))
def test_a_command_that_reports_runs(words, workplace):
    for seed, name in enumerate("ab"):
        write_run(workplace / "runs" / name, seed=seed)
    assert execute(["report", "runs/a", "runs/b"]) == 0
    assert execute(words) == 0
    assert (workplace / "reports" / "index.html").exists() is (words[0] == "index")


@pytest.mark.slow
def test_a_benchmark_runs(tmp_path, monkeypatch):
    needs("tensorflow")  # for its weights in a file of TensorFlow's
    monkeypatch.chdir(pages.ROOT)
    ((_, _, *words),) = pages.expanded("make bench QUICK=1")
    few = ["--only", "classification", "--contestants", "ours-torch-fp32"]
    run_child = bench.run_child

    def contestants_alone(module, arguments, environment, log):
        """What is not measured here needs no process of its own."""
        if module == "contestants":
            return run_child(module, arguments, environment, log)
        return run_program_here([sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]).returncode or None

    monkeypatch.setattr(bench, "run_child", contestants_alone)
    monkeypatch.setattr(bench, "_device", lambda: "cpu")
    assert not bench.main([*words, *few, "--out", str(tmp_path)])
    assert "| ours-torch-fp32" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_check_of_a_gpu_runs_without_one_too(workplace, monkeypatch):
    ((_, _, *words),) = pages.expanded("make gpu-check QUICK=1")
    monkeypatch.setattr(gpu_check, "ATTENTIONS", ("stock",))
    monkeypatch.setattr(gpu_check, "FRAMEWORKS", ("torch",))
    monkeypatch.setattr(gpu_check, "AT_ONCE", 1)
    monkeypatch.setattr(gpu_check.processes, "call", call_here)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # it sets this and the number of threads
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")
    assert not gpu_check.main(
        [*words, "--parts", "recording lockstep", "--steps", "2", "--out", str(workplace / "gpu")]
    )
    report = (workplace / "gpu" / "report.md").read_text(encoding="utf-8")
    assert "| sentiment_bert | stock | 0 | the same bits |" in report and "| sentiment_bert | torch | stock |" in report


def test_the_check_of_several_gpus_compares_one_process_with_one_for_each(monkeypatch):
    compared = []
    monkeypatch.setattr(gpu_check.lockstep, "compare_processes", lambda recipe, counts, steps: compared.append(counts))
    with pytest.raises(AttributeError):  # there is no report
        gpu_check.processes_table(["sentiment_bert"], 4, steps=2)
    with pytest.raises(AttributeError):
        gpu_check.processes_table(["sentiment_bert"], 0, steps=2)  # on the processor
    assert gpu_check.processes_table(["sentiment_bert"], 1, steps=2) == [
        "There is one GPU, and so none for a second process."
    ]
    assert compared == [[4], [2]]


@pytest.mark.slow
def test_the_measurement_of_a_step_runs(capsys, monkeypatch):
    assert ".venv/bin/python -m tests.benchmarks.attention_step_time torch" in COMMANDS
    monkeypatch.setattr(attention_step_time, "WARMUP_ROUNDS", 0)
    attention_step_time.main("torch", rounds=1)
    assert "handwritten / sdpa" in capsys.readouterr().out


@pytest.mark.slow
def test_the_measurement_of_large_data_runs(capsys, monkeypatch):
    assert ".venv/bin/python -m tests.benchmarks.data_size --rows 10000 100000" in COMMANDS
    monkeypatch.setattr(data_size, "call", call_here)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE)  # it sets another
    data_size.main(["--rows", "64", "--only", "check", "train", "--steps", "1"])
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [["64", "check"], ["64", "train"]]


@pytest.mark.parametrize(("identical", "ended", "last"), [(True, 0, "yes |"), (False, 1, "not model weights |")])
def test_a_configuration_whose_killed_run_differs_is_named(capsys, monkeypatch, identical, ended, last):
    assert ".venv/bin/python -m tests.benchmarks.kill_matrix --frameworks torch tensorflow" in COMMANDS
    segments = [Segment(last_step=5, killed_in="training"), Segment(resumed_at=4)]
    report = KillTestReport("a title", 1, segments, {"model weights": identical, "predictions": True})
    monkeypatch.setattr(kill_matrix, "kill_test", lambda *arguments, **options: report)
    assert kill_matrix.main(["--frameworks", "torch", "--only", "bf16"]) == ended
    assert capsys.readouterr().out.splitlines()[2] == f"| bf16 | torch | 1 of 1 | training 5 | 4 | {last}"


@pytest.mark.heavy
def test_a_fault_of_two_processes_is_measured_and_the_run_resumed(capsys):
    assert ".venv/bin/python -m tests.benchmarks.rank_faults --resume" in COMMANDS
    assert rank_faults.main(["--frameworks", "torch", "--only", "SIGKILL of rank 1", "--resume"]) == 0
    _, _, row = capsys.readouterr().out.splitlines()
    assert row.startswith("| SIGKILL of rank 1 | torch | ") and " | 1 | " in row and "saved" in row
    assert "| yes | rank 1 of 2 was ended by signal 9 (SIGKILL), so the other ranks were ended, too." in row


@pytest.mark.heavy
def test_the_measurement_of_several_processes_runs(capsys):
    assert ".venv/bin/python -m tests.benchmarks.processes --repeats 3" in COMMANDS
    few = [word for limit in ("data.limit.train=192", "data.limit.validation=16") for word in ("--set", limit)]
    processes_benchmark.main([*few, "--frameworks", "torch", "--processes", "2", "--repeats", "1"])
    _, row, shares = capsys.readouterr().out.splitlines()
    assert row.split()[:2] == ["torch", "2"]
    assert "% of a step in torch" in shares


@pytest.mark.slow
def test_no_damage_passes_or_is_uncaught(capsys, monkeypatch):
    assert ".venv/bin/python -m tests.benchmarks.damage_counts --flips 6000" in COMMANDS
    monkeypatch.setattr(
        datasets.config, "HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE
    )  # it has one of its own
    assert damage_counts.main(["--frameworks", "torch", "--flips", "40", "--commands", "3", "--edits", "0"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == ["40", "40", "40", "3"]


@pytest.mark.slow
def test_the_measurement_of_memory_runs(capsys, monkeypatch):
    assert ".venv/bin/python -m tests.benchmarks.memory_series --steps 2000 --lines 100000" in COMMANDS
    monkeypatch.setattr(memory_series, "call", call_here)
    memory_series.main(["--frameworks", "torch", "--steps", "50", "--lines", "70"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| torch, single-label, 50 steps", "| torch, single-label, 70 lines"]
    assert all(float(row[1]) > 100 for row in rows)


@pytest.mark.heavy
def test_the_measurement_of_what_a_process_holds_runs(capsys):
    assert any("benchmarks.rank_memory" in command for command in COMMANDS)
    rank_memory.main(["--kinds", "single-label", "--rows", "64", "96", "--steps", "1"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "bytes a row" in line)
    assert line.startswith("torch, single-label: 64 rows ") and "; 96 rows " in line


@pytest.mark.heavy
def test_the_measurement_of_gradient_checkpointing_runs(monkeypatch, capsys):
    assert ".venv/bin/python -m tests.benchmarks.gradient_checkpointing torch" in COMMANDS
    monkeypatch.setattr(sys, "argv", ["", "torch", "--models", "bert", "--layers", "1", "--steps", "2"])
    # In the process of the tests it would leave TensorFlow out for all that come after.
    monkeypatch.setattr(gradient_checkpointing, "configure_process", lambda framework: None)
    gradient_checkpointing.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["| bert", "no"], ["| bert", "yes"]]


@pytest.mark.heavy
def test_the_measurement_of_translation_runs(tmp_path, capsys, monkeypatch):
    assert ".venv/bin/python -m tests.benchmarks.translation" in COMMANDS
    monkeypatch.setattr(real_text, "run_child", lambda command, log: run_program_here(command).returncode or None)
    few = "--frameworks torch --models transformer t5 --seeds 0 1 --small"
    assert translation.main([*few.split(), "--out", str(tmp_path)]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[-2:]]
    sizes = [int(row[2].replace(",", "")) for row in rows]
    assert [row[0] for row in rows] == ["| transformer", "| t5"] and 0.95 < sizes[1] / sizes[0] < 1.05


@pytest.mark.heavy
def test_the_measurement_beside_busy_processes_runs(capsys, monkeypatch):
    assert ".venv/bin/python -m tests.benchmarks.busy --busy 0 2" in COMMANDS
    few = "--frameworks torch --workloads classification --busy 1 --ways one --repeats 1 --steps 2"
    run = subprocess.run

    def measurement_alone(command, **options):
        return run(command, **options) if "--measure" in command else run_program_here(command)

    monkeypatch.setattr(subprocess, "run", measurement_alone)
    busy.main(few.split())
    assert [line.split()[2:5] for line in capsys.readouterr().out.splitlines()[2:]] == [["1", "one", "1"]]


@pytest.fixture
def deterministic_settings():
    """Puts back what a pretraining sets in its process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sentiment", "dates", "stories"])
def test_a_bundled_checkpoint_can_be_made_again(name, tmp_path, monkeypatch, deterministic_settings):
    assert f".venv/bin/python -m recipes.bundled.{name}.pretrain" in COMMANDS
    pretrain = importlib.import_module(f"recipes.bundled.{name}.pretrain")
    texts = {"sentiment": "NUM_SENTENCES", "dates": "NUM_TEXTS", "stories": "NUM_STORIES"}[name]
    monkeypatch.setattr(pretrain, texts, 3000)
    monkeypatch.setattr(pretrain, "NUM_STEPS", 3)
    pretrain.main(tmp_path)
    made = {file.name for file in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= made


def test_every_command_is_run_here_or_elsewhere():
    verbs = ("finetune", "check", "compare", "predict", "attention-maps", "report", "index")
    here = {command for command, _ in documented(*verbs)}
    ends = (".pretrain", "attention_step_time torch", "100000", "--busy 0 2", "tensorflow", "6000")
    ends += ("token-classification", "gradient_checkpointing torch")
    ends += ("--resume", "processes --repeats 3", "benchmarks.translation")
    modules = {command for command in COMMANDS if command.endswith(ends)}
    assert here | modules | {"make bench QUICK=1", "make gpu-check QUICK=1"} | set(RUN_ELSEWHERE) == set(COMMANDS)
