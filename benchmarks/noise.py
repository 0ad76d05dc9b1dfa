"""The cost of secure noise: the draws of one DP-SGD run of a head on MiniLM features, with each generator.

python -m benchmarks.noise            # one thread, CPU seconds, medians of five
pip install opendp                    # to add its row
"""

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch

from knot_fed.privacy.noise import GRID_BITS, NoiseSource

PARAMETERS = 1024 * 5 + 5
"""Parameters of the layer that DP-SGD trains: 1,024 hidden units, 5 labels."""
STEPS = 400
REPEATS = 5
SAMPLED = 20_000
"""Number of draws for which a slow library is timed; its seconds are scaled up."""


def by_torch() -> float:
    """The former way: torch's generator on the CPU, whose seed has 32 bits."""
    generator = torch.Generator(device="cpu").manual_seed(1)
    return seconds_of(lambda: [torch.normal(0.0, 1.0, (PARAMETERS,), generator=generator) for _ in range(STEPS)])


def by_four_sums() -> float:
    """Opacus's secure mode: sums of four normal deviates, without the cryptographic generator it also needs."""
    generator = torch.Generator(device="cpu").manual_seed(1)

    def draw() -> None:
        for _ in range(STEPS):
            total = torch.zeros(PARAMETERS)
            for _ in range(4):
                total += torch.normal(0.0, 1.0, (PARAMETERS,), generator=generator)

    return seconds_of(draw)


def by_source() -> float:
    """The present way: exact discrete Gaussian steps from a ChaCha20 keystream."""
    source = NoiseSource()
    return seconds_of(lambda: [source.steps(PARAMETERS) for _ in range(STEPS)])


def by_opendp() -> float:
    """OpenDP's discrete Gaussian over the integers, with the same standard deviation in steps."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T=int), size=SAMPLED), dp.l2_distance(T=float)
    release = dp.m.make_gaussian(*domain, scale=2.0**GRID_BITS)
    zeros = np.zeros(SAMPLED, dtype=np.int64).tolist()
    return seconds_of(lambda: release(zeros)) * PARAMETERS * STEPS / SAMPLED


def seconds_of(draw: Callable[[], object]) -> float:
    """Return the median CPU seconds of several calls, after a warm-up call."""
    draw()
    seen = []
    for _ in range(REPEATS):
        started = time.process_time()
        draw()
        seen.append(time.process_time() - started)
    return statistics.median(seen)


def main() -> None:
    """Print one row for each generator."""
    torch.set_num_threads(1)
    ways = {"torch.normal, seeded (before)": by_torch, "Opacus's secure mode": by_four_sums, "knot_fed": by_source}
    if find_spec("opendp") is not None:
        ways["OpenDP"] = by_opendp
    print(f"{PARAMETERS} parameters, {STEPS} steps, {PARAMETERS * STEPS / 1e6:.2f} million draws")
    print("| generator | CPU seconds | ns per draw |\n| --- | --- | --- |")
    for name, way in ways.items():
        seconds = way()
        print(f"| {name} | {seconds:.3f} | {seconds / PARAMETERS / STEPS * 1e9:.0f} |")


if __name__ == "__main__":
    main()
