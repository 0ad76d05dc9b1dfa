"""Compare the transport loss, forward and backward to the logits, with geomloss and POT in one process.

Times are medians over turns, CPU time of one thread (CUDA events with `--device cuda`). Methods take turns; within its
turn a method repeats its step for 0.1 s, after a warm-up step, as a training loop would. Errors are those of the first
rows' losses (largest, relative) and gradients (L2, relative) against POT's linear program in float64. Memory is the
peak growth of a separate process in one step. `--checks` times only the checks of the arguments, and the whole step.
"""

import argparse
import ctypes
import multiprocessing
import re
import statistics
import time
from pathlib import Path

import torch

from benchmarks.methods import methods_for
from benchmarks.problems import CHECKED_ROWS, LINES, SHAPES, exact_answer, make_problem
from knot_fed.transport.checks import Batch

REPEATS = 9
TURN_SECONDS = 0.1
BUDGET_SECONDS = 20.0
CHECKS, CHECK_HEADER = 2000, ("problem", "targets", "checks, us", "step, us", "share")
HEADER = ("problem", "method", "ms", "times faster", "value error", "gradient error", "MiB", "runs")


def step(method, problem):
    problem.logits.grad = None
    rows = method(problem)
    rows.mean().backward()
    return rows


def seconds(method, problem, steps):
    """Return the mean seconds of one step over several."""
    if problem.logits.is_cuda:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(steps):
            step(method, problem)
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3 / steps
    started = time.process_time()
    for _ in range(steps):
        step(method, problem)
    return (time.process_time() - started) / steps


def timed_in_turns(methods, problem):
    """Return the times of each method; a method that has used its budget skips its turns."""
    first = {name: seconds(method, problem, 1) for name, method in methods.items()}
    first = {name: seconds(methods[name], problem, 1) if once < 1 else once for name, once in first.items()}
    steps = {name: max(1, round(TURN_SECONDS / once)) for name, once in first.items()}
    times = {name: [] for name in methods}
    for _ in range(REPEATS):
        for name, method in methods.items():
            if sum(times[name]) + first[name] < BUDGET_SECONDS:
                step(method, problem)
                times[name].append(seconds(method, problem, steps[name]))
    return {name: taken or [first[name]] for name, taken in times.items()}


def errors(method, problem, truth):
    rows = step(method, problem).detach()[:CHECKED_ROWS].double().cpu()
    gradient = problem.logits.grad[:CHECKED_ROWS].double().cpu() * len(problem.logits)
    losses, slopes = truth
    return float((rows / losses - 1).abs().max()), float((gradient - slopes).norm() / slopes.norm())


def resident(field):
    """Return a memory field of this process in KiB."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))


def memory(method, problem):
    """Return the growth in MiB of a forked process during one step; on a GPU the peak of allocated memory."""
    if problem.logits.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(method, problem)
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def child(send):
        torch.set_num_threads(1)
        step(method, problem)
        problem.logits.grad = None
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = resident("VmRSS")
        step(method, problem)
        send.send((resident("VmHWM") - before) / 2**10)

    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(send,))
    process.start()
    grown = receive.recv()
    process.join()
    return max(grown, 0.0)


def measure(problem, device):
    truth = exact_answer(problem)
    problem = problem.to(device)
    methods = methods_for(problem)
    times = timed_in_turns(methods, problem)
    reference = statistics.median(next(iter(times.values())))
    for name, taken in times.items():
        value, gradient = errors(methods[name], problem, truth)
        middle = statistics.median(taken)
        grown = memory(methods[name], problem)
        yield (
            problem.name, name, f"{1e3 * middle:.3g}", f"{reference / middle:.3g}", f"{value:.1e}", f"{gradient:.1e}",
            f"{grown:.1f}", str(len(taken)),
        )  # fmt: skip


def measure_checks(problem, device):
    """Yield the time to check the arguments, by the form of the targets, and the time of our step."""
    problem = problem.to(device)
    labels, classes = problem.soft_labels[:, 0].argmax(dim=1), len(problem.ground_cost)
    forms = {
        "soft labels, weights": (problem.soft_labels, problem.weights),
        "soft labels, one row of weights": (problem.soft_labels, problem.weights[0]),
        "soft labels": (problem.soft_labels,),
        "hard labels": (labels,),
    }
    steps = timed_in_turns({"ours": methods_for(problem)["ours"]}, problem)
    step_time = statistics.median(steps["ours"])
    for name, targets in forms.items():
        taken = []
        for _ in range(REPEATS):
            started = time.process_time()
            for _ in range(CHECKS):
                Batch(problem.logits, *targets, classes=classes, dtype=torch.float32)
            taken.append((time.process_time() - started) / CHECKS)
        once = statistics.median(taken)
        yield problem.name, name, f"{1e6 * once:.2f}", f"{1e6 * step_time:.1f}", f"{once / step_time:.1%}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shapes", default="", help="B,L,K;B,L,K;... instead of all problems")
    parser.add_argument("--checks", action="store_true", help="time only the checks of the arguments")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problems = [make_problem(*shape) for shape in SHAPES] + [make_problem(*shape, line=True) for shape in LINES]
    if arguments.shapes:
        problems = [make_problem(*map(int, shape.split(","))) for shape in arguments.shapes.split(";")]
    header, measured = (CHECK_HEADER, measure_checks) if arguments.checks else (HEADER, measure)
    print("| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    for problem in problems:
        for line in measured(problem, arguments.device):
            print("| " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    main()
