"""What a GPU does with the loss and with a distillation step: one JSON and one Markdown table, within minutes.

`benchmarks/gpu.sh` prepares the imports and calls this. Each part's error is written down and costs no other part; each
group of parts has a process of its own, since an error inside a GPU spoils a process. With `--cpu` the sizes are small
and the device is a CPU, which shows only that the script runs.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu_loss import Times, bandwidth, block_sizes, competitor, compiled_kl, loss_times
from benchmarks.gpu_report import markdown
from benchmarks.gpu_runs import RUNS, SMALL_RUNS, whole_run
from benchmarks.gpu_step import distillation_step

ROOT = Path(__file__).parents[1]
BUDGET_SECONDS = 285.0
LIMITS = {"tests": 150.0, "runs": 90.0}
"""Seconds of the groups that may take long on a slow machine."""
GPU_TESTS = ("tests/transport", "tests/models/test_device.py", "tests/training/test_fitting.py")
CPU_TESTS = ("-k", "fused_kernels or compiles", "tests/transport/test_losses.py")
LOSSES = ((65536, 5, 4), (65536, 7, 4), (4096, 5, 4), (4096, 7, 4), (4096, 28, 4), (4096, 64, 4))
SMALL_LOSSES = ((1024, 5, 4), (512, 7, 4), (64, 28, 4), (64, 64, 4))
STUDENTS = {"MiniLM-sized (6 x 384)": (6, 384), "BERT-base-sized (12 x 768)": (12, 768)}
SMALL_STUDENTS = {"small (2 x 64)": (2, 64)}


def run_part(name, function):
    """Print a part's result or its error as a line of JSON, with its seconds."""
    started, row = time.monotonic(), {"part": name}
    try:
        row |= function()
    except Exception as error:  # one failure must not cost the rest of a lent card
        where = traceback.extract_tb(error.__traceback__)[-1]
        row["error"] = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"[:1000]
    print(json.dumps(row | {"seconds": round(time.monotonic() - started, 1)}), flush=True)
    return row


def environment(device):
    """Return versions and the card's name."""
    import triton

    facts = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    if device.type == "cpu":
        return facts | {"card": "none", "cuda": "none", "cpus": len(os.sched_getaffinity(0))}
    properties = torch.cuda.get_device_properties(device)
    return facts | {
        "card": properties.name,
        "cuda": torch.version.cuda,
        "memory_GB": round(properties.total_memory / 1e9, 1),
        "multiprocessors": properties.multi_processor_count,
        "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
    }


def run_tests(device):
    """Run the tests that need a GPU; on a CPU those of the Triton kernel, in its interpreter."""
    chosen = CPU_TESTS if device.type == "cpu" else ("-m", "gpu", *GPU_TESTS)
    quiet = ("-q", "-W", "ignore", "-p", "no:cacheprovider", "-rfEs", "--tb=short", "-o", "addopts=")
    quiet += ("--continue-on-collection-errors",)
    command = [sys.executable, "-m", "pytest", *quiet, *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    row = {"command": " ".join(chosen), "summary": lines[-1] if lines else "", "exit": done.returncode}
    row["skipped"] = [line for line in lines if line.startswith("SKIPPED")]
    row["failed"] = [line[:500] for line in lines if re.match("FAILED|ERROR", line)]
    if done.returncode:
        row["error"] = f"pytest ended with {done.returncode}: {row['summary']}"
        row["output"] = (done.stdout + done.stderr)[-12_000:]
    return row


def time_losses(device):
    run_part("environment", partial(environment, device))
    copied = run_part("copy bandwidth", partial(bandwidth, device))
    times = Times(device, copied.get("bytes_per_second", 1e9))
    for shape in SMALL_LOSSES if device.type == "cpu" else LOSSES:
        run_part(f"loss {shape}", partial(loss_times, times, *shape))
    for shape in LOSSES[:2] if device.type == "cuda" else ():
        run_part(f"blocks {shape}", partial(block_sizes, times, *shape))


def time_runs(device):
    small = device.type == "cpu"
    for name in SMALL_RUNS if small else RUNS:
        run_part(f"run of {name}", partial(whole_run, name, small=small))


def time_students(device):
    small, times = device.type == "cpu", Times(device)
    for name, sizes in (SMALL_STUDENTS if small else STUDENTS).items():
        for precision in ("float32", "bfloat16"):
            run_part(f"step of {name}, {precision}", partial(distillation_step, times, *sizes, precision=precision))


def time_others(device):
    small, times = device.type == "cpu", Times(device)
    for method in ("geomloss", "POT solve_batch"):
        for shape in SMALL_LOSSES[:1] if small else LOSSES[2:4]:
            run_part(f"{method} {shape}", partial(competitor, times, method, *shape))
    for shape in SMALL_LOSSES[:1] if small else LOSSES[:2]:
        run_part(f"compiled KL {shape}", partial(compiled_kl, times, *shape))
    if not small:
        name, sizes = next(iter(STUDENTS.items()))
        step = partial(distillation_step, times, *sizes, precision="bfloat16", compiled=True)
        run_part(f"step of {name}, bfloat16, compiled", step)


GROUPS = {
    "losses": time_losses,
    "tests": lambda device: run_part("tests", partial(run_tests, device)),
    "runs": time_runs,
    "students": time_students,
    "others": time_others,
}


def run_group(group, options, seconds):
    """Run a group in a process of its own; return its parts, and an error if it did not end well."""
    if seconds <= 0:
        return [{"part": group, "error": "left out, since the time was used up", "seconds": 0.0}]
    started, command = time.monotonic(), [sys.executable, "-m", "benchmarks.gpu", "--group", group, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            printed, _ = process.communicate(timeout=seconds)
            ended = "" if process.returncode == 0 else f"its process ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            printed, _ = process.communicate()
            ended = f"it was stopped after {seconds:.0f} s"
    parts = [json.loads(line) for line in printed.splitlines() if line.startswith('{"part"')]
    for part in parts:
        print(json.dumps(part), flush=True)
    taken = round(time.monotonic() - started, 1)
    return [*parts, *([{"part": group, "error": ended, "seconds": taken}] if ended else [])]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "gpu-results"))
    parser.add_argument("--cpu", action="store_true", help="small sizes on a CPU, where there is no GPU")
    parser.add_argument("--group", choices=GROUPS, help="print the parts of one group")
    arguments = parser.parse_args()
    if not arguments.cpu and not torch.cuda.is_available():
        parser.exit(1, "torch sees no GPU here; check nvidia-smi, or pass --cpu to try the script on a CPU\n")
    if arguments.group:
        GROUPS[arguments.group](torch.device("cpu" if arguments.cpu else "cuda:0"))
        return 0
    started, results = time.monotonic(), {"on_a_gpu": not arguments.cpu, "parts": []}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for group in GROUPS:
        left = BUDGET_SECONDS - (time.monotonic() - started)
        left = min(left, LIMITS.get(group, left))
        results["parts"] += run_group(group, ["--cpu"] if arguments.cpu else [], left)
        results["total_seconds"] = round(time.monotonic() - started, 1)
        (arguments.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (arguments.out / "gpu.md").write_text(markdown(results), encoding="utf-8")
    print(f"\n{markdown(results)}\n{arguments.out}/gpu.json, {arguments.out}/gpu.md")
    return int(any("error" in part for part in results["parts"]))


if __name__ == "__main__":
    sys.exit(main())
