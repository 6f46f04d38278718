"""`make gpu-check`: is a training on this machine's GPU the same experiment as on its processor, and how fast is it?

    python -m tests.benchmarks.gpu_check [--parts "masks recording lockstep processes resume speed"] [--steps 50]
        [--kills 2] [--rows 4096] [--batch-size 32] [--repeats 1] [--only classification] [--data FOLDER] [--quick]
        [--out reports/gpu]

Six parts. *masks* compares shared dropout masks of the kernels with those of plain operations, to the bit, and times
both beside the library's dropout. *recording* takes the same steps by recorded passes and operation by operation, with
deterministic kernels, compares them to the bit and times both. *lockstep* takes the same steps on the processor and on
the GPU, for the bundled recipes and both attentions, in each framework that sees the GPU. *processes* takes them in
one process and, where there are several GPUs, in one for each. *resume* kills runs on the GPU, with deterministic
kernels, and compares what they leave with runs that were never stopped, to the bit. *speed* is `bench` with models of
the sizes of BERT-base, GPT-2 small and T5-small in bf16; rows tell what recorded passes save and what deterministic
kernels cost. Prints the tables and writes them to report.md. Without a GPU all runs on the processor, and says so.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

from pipeline.backend import FRAMEWORKS, load_backend
from pipeline.comparison import lockstep
from pipeline.recipe.loading import load_recipe
from pipeline.training.kill_test import kill_test
from pipeline.utils import processes
from pipeline.utils.cores import usable_cores
from pipeline.utils.environment import THREAD_VARIABLES
from tests.benchmarks import bench
from tests.benchmarks.contestants import wait_for_gpu
from tests.benchmarks.workloads import SETTINGS

RECIPES = ("sentiment_bert", "stories_gpt2", "dates_t5")
ATTENTIONS = ("stock", "handwritten")
PRECISIONS = ("fp32", "bf16")
PARTS = ("masks", "recording", "lockstep", "processes", "resume", "speed")
# Hidden states [rows, tokens, width] and attention weights [rows, heads, tokens, tokens] whose masks are compared.
MASKED = ((32, 128, 768), (5, 37, 333), (32, 12, 128, 128), (3, 5, 17, 70))
# What is enough of a training to be killed in and resumed.
RESUMED = {"data.limit.train": 512, "data.limit.validation": 64, "train.epochs": 2}
CONTESTANTS = (
    "trainer-bf16", "trainer-grouped-bf16", "ours-torch-bf16", "ours-torch-unrecorded-bf16",
    "ours-torch-deterministic-bf16", "ours-torch-handwritten-bf16",
)  # fmt: skip
# Processes at a time where speed is not measured; most of their time is start-up.
AT_ONCE = 6
# A program that names each GPU that a framework sees on a line.
QUESTIONS = {
    "torch": "from torch import cuda\nfor i in range(cuda.device_count()): print(cuda.get_device_name(i))",
    "tensorflow": "from tensorflow import config\nfor gpu in config.list_physical_devices('GPU'): print(gpu.name)",
}


def gpus():
    """The names of the GPUs that each installed framework sees."""
    names = {}
    for framework in FRAMEWORKS:
        asked = subprocess.run([sys.executable, "-c", QUESTIONS[framework]], capture_output=True, text=True)
        if asked.returncode == 0:
            names[framework] = asked.stdout.splitlines()
    return names


def masks_table():
    """Whether masks have the bits that plain operations give on the processor, and the time forward and backward."""
    import torch

    from pipeline.models.dropout import TOKEN_KEYS, Place
    from pipeline.pytorch.dropout import DropoutMasks

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place, draw = Place("gpu_check", TOKEN_KEYS, "attended", is_read=False), torch.Generator().manual_seed(0)
    by_kernels, without_kernels = vars(DropoutMasks)["has_kernels"], staticmethod(lambda: False)
    lines = [
        "| over | type | bits | ms by kernels | ms by operations | ms of the library |",
        "|---|---|---|---|---|---|",
    ]
    for shape in MASKED:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(shape, generator=draw).to(dtype)
            attended = torch.randint(-(2**31), 2**31, (shape[0], shape[-1]), generator=draw, dtype=torch.int32)
            keys = attended[:, : shape[-2]] if len(shape) == 4 else attended[:, : shape[1]]
            masks = DropoutMasks()

            def drop(x, masks=masks, keys=keys, attended=attended):
                masks.keys = {TOKEN_KEYS: keys.to(x.device), "attended": attended.to(x.device)}
                masks.site = 0
                return masks.drop(x, 0.1, place)

            on_gpu, wanted = x.to(device), dropped_and_gradient(drop, x)
            same = torch.equal(wanted, dropped_and_gradient(drop, on_gpu))
            times = [milliseconds(drop, on_gpu)]
            DropoutMasks.has_kernels = without_kernels
            same = same and torch.equal(wanted, dropped_and_gradient(drop, on_gpu))
            times.append(milliseconds(drop, on_gpu))
            DropoutMasks.has_kernels = by_kernels
            times.append(milliseconds(lambda x: torch.nn.functional.dropout(x, 0.1), on_gpu))
            cells = " | ".join(f"{each:.3f}" for each in times)
            lines.append(f"| {list(shape)} | {dtype} | {'the same' if same else 'DIFFERENT'} | {cells} |")
    return lines


def dropped_and_gradient(drop, x):
    """`x` after a dropout, and the gradient of half its squares; on the processor."""
    import torch

    x = x.clone().requires_grad_()
    y = drop(x)
    y.backward(y.detach())
    return torch.stack((y.detach().cpu(), x.grad.cpu()))


def milliseconds(function, x, repeats=20):
    """The median time of a function and its gradient."""
    import torch

    x, times = x.clone().requires_grad_(), []
    for _ in range(repeats + 3):
        if x.is_cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        y = function(x)
        y.backward(y.detach())
        if x.is_cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[3:])


def share_cores():
    """Give each of the processes that run at the same time its share of the cores; with all, each would wait."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(max(1, usable_cores() // AT_ONCE))


def trace(recipe, framework, on_gpu, steps, attention):
    """Take steps on the GPU, or without it on the processor; to be called in a process of its own."""
    if not on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return lockstep.record(recipe, framework, steps, attention)


def trace_and_time(recipe, steps, attention, is_recorded):
    """Take PyTorch's steps with deterministic kernels; to be called in a process of its own.

    Returns what they did, how many passes were recorded, and the median milliseconds of the later half of the steps.
    """
    from pipeline.pytorch import Learner

    learners, times, train_step = [], [], Learner.train_step

    def timed_step(learner, batch, step):
        learners.append(learner)
        wait_for_gpu()
        began = time.perf_counter()
        results = train_step(learner, batch, step)
        wait_for_gpu()
        times.append(1000 * (time.perf_counter() - began))
        return results

    can_record = Learner.can_record if is_recorded else lambda learner: False
    with (
        patch.object(Learner, "train_step", timed_step),
        patch.object(Learner, "can_record", can_record),
        load_backend("torch").deterministic(True),
    ):
        found = lockstep.record(recipe, "torch", steps, attention)
    recorded = learners[-1].recorded
    return found, 0 if recorded is None else recorded.num_recorded, statistics.median(times[steps // 2 :])


def recording_table(recipes, steps):
    """Whether recorded passes have the bits of operations one by one, and the times of both; a row for each case."""
    lines = [
        "| recipe | attention | recorded passes | losses, gradient norms and weights | ms a step | ms without |",
        "|---|---|---|---|---|---|",
    ]
    for name in recipes:
        for attention in ATTENTIONS:
            (ours, passes, time_of_ours), (plain, _, time_of_plain) = (
                processes.call(trace_and_time, load_recipe(name), steps, attention, is_recorded, framework="torch")
                for is_recorded in (True, False)
            )
            same = (ours.loss == plain.loss).all() and (ours.grad_norm == plain.grad_norm).all()
            same = same and all((value == plain.after[name]).all() for name, value in ours.after.items())
            bits = "the same bits" if same else "DIFFERENT"
            lines.append(f"| {name} | {attention} | {passes} | {bits} | {time_of_ours:.1f} | {time_of_plain:.1f} |")
    return lines


def lockstep_table(recipes, frameworks, steps):
    """Largest differences between the processor and the GPU over some steps in fp32; a row for each pair."""
    share_cores()
    cases = [
        (recipe, framework, attention) for recipe in recipes for framework in frameworks for attention in ATTENTIONS
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        traces = {
            (*case, on_gpu): pool.submit(
                processes.call, trace, load_recipe(case[0]), case[1], on_gpu, steps, case[2], framework=case[1]
            )
            for case in cases
            for on_gpu in (False, True)
        }
    lines = [
        f"| recipe | framework | attention | loss, {steps} steps | gradient norm | parameters |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        on_processor, on_gpu = (traces[*case, on_gpu].result() for on_gpu in (False, True))
        of = lockstep.compare_traces(case[0], on_processor, on_gpu).differences
        lines.append(f"| {' | '.join(case)} | {of['loss']:.1e} | {of['grad_norm']:.1e} | {of['parameters']:.1e} |")
    return lines


def processes_table(recipes, num_gpus, steps):
    """How far one process is from one for each GPU, or from two on the processor; a block for each recipe."""
    if num_gpus == 1:
        return ["There is one GPU, and so none for a second process."]
    lines = []
    for name in recipes:
        lines += ["```", lockstep.compare_processes(load_recipe(name), [num_gpus or 2], steps).as_text(), "```"]
    return lines


def resume_table(recipes, frameworks, kills, settings):
    """Whether killed runs ended as those that were never stopped; a row for each recipe, framework and precision."""
    cases = [(name, framework, precision) for name in recipes for framework in frameworks for precision in PRECISIONS]
    share_cores()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        reports = [
            pool.submit(
                kill_test, load_recipe(name).override(settings | {"train.precision": precision}), framework, kills
            )
            for name, framework, precision in cases
        ]
    lines = ["| recipe | framework | precision | kills | what they left |", "|---|---|---|---|---|"]
    for case, report in zip(cases, (each.result() for each in reports), strict=True):
        differing = [what for what, same in report.identical.items() if not same]
        verdict = f"DIFFERENT: {', '.join(differing)}" if differing else "identical to the bit"
        lines.append(f"| {' | '.join(case)} | {report.num_kills} | {verdict} |")
    return lines


def speed_table(settings):
    """`bench` with the published sizes in bf16; its tables."""
    arguments = ["--repeats", str(settings.repeats), "--rows", str(settings.rows), "--out", str(settings.out / "bench")]
    arguments += ["--batch-size", str(settings.batch_size)]
    arguments += ["--contestants", " ".join(CONTESTANTS), "--shape", "small" if settings.quick else "published"]
    arguments += ["--data", str(settings.data)] if settings.data else []
    arguments += ["--only", "classification", "--quick"] if settings.quick else ["--only", settings.only]
    bench.main(arguments)
    return (settings.out / "bench" / "report.md").read_text(encoding="utf-8").splitlines()[2:]


def main(arguments):
    """Run the parts that were asked for; prints and writes their tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", default=" ".join(PARTS))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", default=" ".join(SETTINGS), help="workloads of the speed part")
    parser.add_argument("--data", type=Path, help="folder with glue/SST-2, wikitext2 and tatoeba_eng_fra")
    parser.add_argument("--quick", action="store_true", help="a smoke test: one recipe, few steps, small models")
    parser.add_argument("--out", type=Path, default=bench.ROOT / "reports" / "gpu")
    settings = parser.parse_args(arguments)
    if unknown := set(settings.parts.split()) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    seen = gpus()
    frameworks = [framework for framework, names in seen.items() if names] or list(seen)
    recipes, resumed = RECIPES, RESUMED
    if settings.quick:
        recipes, resumed = RECIPES[:1], {"data.limit.train": 64, "data.limit.validation": 32, "train.epochs": 1}
        settings.steps, settings.kills, frameworks = 2, 1, frameworks[:1]
    lines = ["# Training on a GPU", ""]
    lines += [
        f"{framework}: {', '.join(names) or 'sees no GPU, so all of this ran on the processor'}"
        for framework, names in seen.items()
    ]
    parts = {
        "masks": lambda: processes.call(masks_table, framework="torch"),
        "recording": lambda: recording_table(recipes, settings.steps),
        "lockstep": lambda: lockstep_table(recipes, frameworks, settings.steps),
        "processes": lambda: processes_table(recipes, max(map(len, seen.values())), settings.steps),
        "resume": lambda: resume_table(recipes, frameworks, settings.kills, resumed | {"train.deterministic": True}),
        "speed": lambda: speed_table(settings),
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    for part in settings.parts.split():
        lines += ["", f"## {part}", "", *parts[part]()]
        (settings.out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    from tests.benchmarks import gpu_check  # other processes import `trace` from there

    gpu_check.main(sys.argv[1:])
