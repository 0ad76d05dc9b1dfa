"""The loss on a device: its times, the floor by bytes, and other losses and solvers on the same problem."""

import statistics
import time
from functools import partial

import torch

from benchmarks.problems import make_problem
from knot_fed.transport import OTLoss
from knot_fed.transport.checks import Batch

WARM_UP, REPEATS, LEAST_REPEATS, SECONDS = 5, 50, 5, 1.5
FLUSH_BYTES = 1 << 30
"""Written before each timed call: it empties the caches, and keeps a GPU busy until the call is queued."""
BLOCKS = (32, 64, 128, 256)
WARPS = (1, 2, 4, 8)


class Times:
    """Medians of a device's time; `bytes_per_second` is the measured bandwidth of a copy."""

    def __init__(self, device: torch.device, bytes_per_second: float = 1.0) -> None:
        self.device = device
        self.bytes_per_second = bytes_per_second
        self._flushed = torch.empty(FLUSH_BYTES // 4, device=device) if device.type == "cuda" else None

    def median(self, function, *, repeats: int = REPEATS, warm_up: int = WARM_UP) -> float:
        """Return the median seconds of a call, by CUDA events after a flush of the caches; on a CPU by the clock."""
        for _ in range(warm_up if self._flushed is not None else 1):
            function()
        times, began = [], time.monotonic()
        while len(times) < repeats and (time.monotonic() - began < SECONDS or len(times) < LEAST_REPEATS):
            times.append(self._once(function))
        return statistics.median(times)

    def looped(self, function, *, steps: int = 50) -> float:
        """Return the mean seconds of a call in a loop, launches included, as in training."""
        self._wait()
        started = time.perf_counter()
        for _ in range(steps):
            function()
        self._wait()
        return (time.perf_counter() - started) / steps

    def _once(self, function) -> float:
        if self._flushed is None:
            started = time.perf_counter()
            function()
            return time.perf_counter() - started
        self._wait()
        self._flushed.zero_()
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record()
        function()
        ended.record()
        torch.cuda.synchronize()
        return begun.elapsed_time(ended) / 1e3

    def _wait(self) -> None:
        if self._flushed is not None:
            torch.cuda.synchronize()


def bandwidth(device):
    """Return bytes read and written per second by a copy."""
    count = (1 << 30 if device.type == "cuda" else 1 << 26) // 4
    source, target = torch.zeros(count, device=device), torch.empty(count, device=device)
    seconds = Times(device).median(lambda: target.copy_(source), repeats=20)
    return {"bytes_per_second": 8 * count / seconds, "TB_per_second": round(8 * count / seconds / 1e12, 3)}


def floor_bytes(batch, labels, teachers):
    """Return the bytes of logits, soft labels and weights, read once, and of the gradient, written once."""
    return 4 * (batch * labels + batch * teachers * labels + batch * teachers + batch * labels)


def kl(logits, soft_labels, weights):
    log_student = torch.log_softmax(logits, dim=1)[:, None]
    rows = (torch.xlogy(soft_labels, soft_labels) - soft_labels * log_student).sum(dim=2)
    return (weights * rows).sum(dim=1).mean()


def forward_and_backward(loss, problem):
    logits = problem.logits.detach().requires_grad_()

    def step():
        logits.grad = None
        loss(logits, problem.soft_labels, problem.weights).backward()

    return step


def microseconds(seconds):
    return round(1e6 * seconds, 2)


def loss_times(times, batch, labels, teachers):
    """Time our loss and a KL in eager torch, forward and backward, against the floor by bytes."""
    problem = make_problem(batch, labels, teachers).to(times.device)
    floor = floor_bytes(batch, labels, teachers) / times.bytes_per_second
    loss = OTLoss(problem.ground_cost)
    ours, eager = forward_and_backward(loss, problem), forward_and_backward(kl, problem)
    row = {"floor_us": microseconds(floor), "fused": loss.fused}
    both = row["ours_us"], row["kl_eager_us"] = microseconds(times.median(ours)), microseconds(times.median(eager))
    row["ours_in_a_loop_us"] = microseconds(times.looped(ours, steps=50 if both[0] < 2e4 else 3))
    row["kl_eager_in_a_loop_us"] = microseconds(times.looped(eager))
    if loss.fused:
        kernel = microseconds(times.median(kernel_call(problem)))
        row |= {"kernel_us": kernel, "kernel_over_floor": round(kernel / row["floor_us"], 2)}
    row["ours_over_floor"] = round(both[0] / row["floor_us"], 2)
    return row


def kernel_call(problem):
    """Return a call of the fused kernel alone, which computes value and gradient."""
    if problem.logits.is_cuda:
        from knot_fed.transport.solvers import gpu_kernel as kernels
    else:
        from knot_fed.transport.solvers import cpu_kernel as kernels
    batch = Batch(problem.logits.detach(), problem.soft_labels, problem.weights)
    return partial(kernels.fused_table_loss, batch, problem.ground_cost.to(problem.logits.device, torch.float32))


def compiled_kl(times, batch, labels, teachers):
    """Time the same KL by torch.compile; the first call compiles."""
    problem = make_problem(batch, labels, teachers).to(times.device)
    step = forward_and_backward(torch.compile(kl, dynamic=False), problem)
    started = time.monotonic()
    step()
    compiling = time.monotonic() - started
    row = {"kl_compiled_us": microseconds(times.median(step)), "compiling_seconds": round(compiling, 1)}
    return row | {"kl_compiled_in_a_loop_us": microseconds(times.looped(step))}


def competitor(times, method, batch, labels, teachers):
    """Time geomloss as the paper's code calls it, or POT's batched Sinkhorn, forward and backward."""
    from benchmarks.methods import geomloss_loop, pot_solve_batch

    rows = geomloss_loop() if method == "geomloss" else pot_solve_batch(share=0.05, iterations=50)
    problem = make_problem(batch, labels, teachers).to(times.device)

    def step():
        problem.logits.grad = None
        rows(problem).mean().backward()

    return {"us": microseconds(times.median(step, repeats=10, warm_up=1))}


def block_sizes(times, batch, labels, teachers):
    """Time the kernel with other blocks and warps than `gpu_kernel.BLOCK`, to choose them by."""
    import triton

    from knot_fed.transport.solvers import gpu_kernel

    problem = make_problem(batch, labels, teachers).to(times.device)
    read = Batch(problem.logits.detach(), problem.soft_labels, problem.weights)
    on_device = problem.ground_cost.to(times.device, torch.float32)
    candidates, classes = read.table_shape(on_device)
    rows, gradients = read.logits.new_empty(batch), read.logits.new_empty(batch, classes)
    found = {}
    for block in BLOCKS:
        for warps in WARPS:
            call = partial(
                gpu_kernel._table_loss[(triton.cdiv(batch, block),)],
                read.logits.contiguous(), read.soft_labels.contiguous(), read.weights.contiguous(),
                on_device.padded, rows, gradients, batch, teachers, classes=classes, candidates=candidates,
                width=on_device.padded.shape[2], block=block, num_warps=warps,
            )  # fmt: skip
            found[f"{block} x {warps}"] = microseconds(times.median(call, repeats=15))
    return {"block_and_warps_us": found, "best": min(found, key=found.get)}
