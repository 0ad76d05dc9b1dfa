"""Sinkhorn's algorithm on a CPU, pair by pair, on the labels with mass only.

It runs the stages of `sinkhorn.ladder` in single precision: each stage absorbs the potentials that it starts from into
its kernel (Schmitzer 2019), so that scalings stay near 1.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from knot_fed.system.compiled import compiled
from knot_fed.transport.checks import check_marginals
from knot_fed.transport.solvers.sinkhorn import (
    EARLY_ERROR,
    MOST_ITERATIONS,
    SMALLEST_MASS,
    Rows,
    Sinkhorn,
    extrapolation_shares,
    ladder,
)

FIRST_ITERATIONS, CHECK_EVERY = 6, 3
FARTHEST = 80.0
"""Exponents of the kernel are clamped to plus and minus this, within the range of float32."""
LANES, BLOCK = 8, 8
"""Padding of rows and columns, and rows per block of a product, chosen to fit vector registers."""

single = np.float32


def sinkhorn(
    a: Rows, b: Rows, matrix: torch.Tensor, *, entropic_epsilon: float, marginal_error: float, metric: bool
) -> Sinkhorn:
    """Solve as `sinkhorn.sinkhorn`, extrapolated to eps = 0, on as many threads as torch uses."""
    check_marginals(a, b, matrix)
    diameter = float(matrix.max()) or 1.0
    stages = ladder(1.0 / entropic_epsilon, spread=1 if metric else 2)
    plan = (
        (matrix.double().numpy() / diameter).astype(single),
        np.array([sharpness for sharpness, _ in stages]),
        np.array([0.0] + [EARLY_ERROR] * (len(stages) - 2) + [marginal_error]),
        diameter * np.array(extrapolation_shares([1 / sharpness for sharpness, converge in stages if converge])),
        not metric,
    )
    f, g = (torch.empty(side.shape, dtype=side.dtype) for side in (a, b))
    errors, iterations = a.new_zeros(len(a)), np.zeros(len(a), dtype=np.int64)
    arrays = [tensor.contiguous().numpy() for tensor in (a, b)]
    arrays += [f.numpy(), g.numpy(), errors.numpy(), iterations]
    threads = min(torch.get_num_threads(), len(a)) or 1
    parts = [slice(len(a) * part // threads, len(a) * (part + 1) // threads) for part in range(threads)]

    def solve(part: slice) -> None:
        first, second, *results = (array[part] for array in arrays)
        _solve_pairs(first, second, *plan, *results)

    if threads == 1:
        solve(parts[0])
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(solve, parts))
    return Sinkhorn(f, g, errors, int(iterations.max(initial=0)))


@compiled
def _solve_pairs(
    first: Any, second: Any, costs: Any, sharpness: Any, tolerances: Any, shares: Any, complete: Any,
    end_f: Any, end_g: Any, errors: Any, iterations: Any,
) -> None:  # fmt: skip
    """Solve all pairs; rows of the kernel are the labels with mass in a, columns those in b."""
    classes, stages = len(costs), len(sharpness)
    width = _padded(classes)
    all_rows, all_columns = np.empty(classes, np.uint32), np.empty(classes, np.uint32)
    all_f, all_g = np.zeros((stages, classes)), np.zeros((stages, classes))
    a, b = np.zeros(width, single), np.zeros(width, single)
    local, kernel = np.zeros((width, width), single), np.zeros((width, width), single)
    work = np.zeros((6, width), single)
    for pair in range(len(first)):
        count_a, count_b = _support(first[pair], all_rows, a), _support(second[pair], all_columns, b)
        end_f[pair], end_g[pair] = 0, 0
        if count_a == 0 or count_b == 0:
            continue
        rows, columns = all_rows[:count_a], all_columns[:count_b]
        f, g = all_f[:, :count_a], all_g[:, :count_b]
        f[0], g[0] = 0, 0
        for row in range(count_a):
            for column in range(count_b):
                local[row, column] = costs[rows[row], columns[column]]
        for stage in range(stages):  # eps falls; f[stage] and g[stage] are this stage's potentials
            _predict(sharpness, stage, f, g)
            _absorb(kernel, local, sharpness[stage], f[stage], g[stage], work)
            errors[pair], done = _iterate(kernel, a, b, count_a, count_b, work, tolerances[stage])
            iterations[pair] += done
            _subtract_logarithms(f[stage], work[4], sharpness[stage])  # f -= log(K (b v)) / sharpness
            _subtract_logarithms(g[stage], work[5], sharpness[stage])  # g -= log(K^T (a u)) / sharpness
        for back in range(len(shares)):
            stage = stages - len(shares) + back
            for row in range(count_a):
                end_f[pair, rows[row]] += shares[back] * f[stage, row]
            for column in range(count_b):
                end_g[pair, columns[column]] += shares[back] * g[stage, column]
        if complete or count_a + count_b < classes:
            _complete(end_f[pair], end_g[pair], costs, shares.sum(), rows, columns, complete)


@compiled
def _padded(count: Any) -> Any:
    return (count + LANES - 1) // LANES * LANES


@compiled
def _support(row: Any, labels: Any, mass: Any) -> Any:
    """Collect the labels with mass and their normalised masses; return their number."""
    count, total = 0, 0.0
    for label in range(len(row)):
        labels[count], mass[count] = label, row[label]  # overwritten by the next label unless it has mass; branch-free
        count += row[label] > 0
        total += max(row[label], single(0))
    if not total > SMALLEST_MASS:
        count = 0
    for place in range(count):
        mass[place] /= total
    return count


@compiled
def _predict(sharpness: Any, stage: Any, f: Any, g: Any) -> None:
    """Extrapolate the last two stages' potentials linearly in 1 / sharpness."""
    if stage == 0:
        return
    ahead = 0.0
    if stage > 1:
        before, now = 1 / sharpness[stage - 2], 1 / sharpness[stage - 1]
        ahead = (1 / sharpness[stage] - now) / (now - before)
    for potential in (f, g):
        for label in range(potential.shape[1]):
            last = potential[stage - 1, label]
            potential[stage, label] = last + ahead * (last - potential[stage - 2, label])


@compiled
def _absorb(kernel: Any, local: Any, sharpness: Any, f: Any, g: Any, work: Any) -> None:
    """Compute the kernel K_ij = exp(sharpness (f_i + g_j - C_ij)), zero in the padding, and reset scalings to 1.

    exp(x) is the 128th power of the Taylor polynomial of exp(x / 128), which compiles to vector instructions.
    """
    count_a, count_b = len(f), len(g)
    height, width = _padded(count_a), _padded(count_b)
    rate, near, second = single(sharpness), single(FARTHEST), work[5]
    for column in range(count_b):
        second[column] = sharpness * g[column]
    for row in range(count_a):
        first = single(sharpness * f[row])
        for column in range(width):
            exponent = first + second[column] - rate * local[row, column]
            exponent = near if exponent > near else (-near if exponent < -near else exponent)
            x = exponent / single(128)
            power = single(1) + x * (
                single(1) + x * (single(1 / 2) + x * (single(1 / 6) + x * (single(1 / 24) + x * single(1 / 120))))
            )
            for _ in range(7):  # squared 7 times: to the power of 128
                power *= power
            kernel[row, column] = power
        kernel[row, count_b:width] = 0
    kernel[count_a:height] = 0
    work[0, :height] = 1
    work[1, :width] = 1


@compiled
def _iterate(kernel: Any, a: Any, b: Any, count_a: Any, count_b: Any, work: Any, tolerance: Any) -> tuple[Any, Any]:
    """Scale rows and columns in turn until the marginals fit; return their L1 error and the iterations.

    The plan is P_ij = a_i u_i K_ij v_j b_j. `work` holds u, v, a u, b v, K (b v) and K^T (a u). With tolerance 0, a few
    plain iterations are done. Over-relaxation is dropped if it diverges or takes too long.
    """
    u, v, scaled_a, scaled_b, products, sums = work[0], work[1], work[2], work[3], work[4], work[5]
    height, width = _padded(count_a), _padded(count_b)
    a[count_a:height], b[count_b:width] = 0, 0
    scaled_b[:width] = b[:width]
    relaxed, limit, error = tolerance > 0, MOST_ITERATIONS if tolerance > 0 else FIRST_ITERATIONS, single(0)
    for done in range(1, limit + 1):
        over = relaxed and done > CHECK_EVERY
        _times(kernel, scaled_b, products, height, width)
        products[count_a:height] = 1  # the padding, whose mass is 0: no division by zero
        for row in range(height):  # u = 1 / p with p = K (b v); over-relaxed, u = (1 / p) (1 / (p u_before))^(1/2)
            product = products[row]
            u[row] = single(1) / (product * np.sqrt(product * u[row]) if over else product)
            scaled_a[row] = a[row] * u[row]
        _times_transposed(kernel, scaled_a, sums, height, width)
        sums[count_b:width] = 1
        if done % CHECK_EVERY == 0:
            error = single(0)  # column sums of P are b v K^T(a u), row sums a u K(b v)
            for column in range(width):
                error += abs(scaled_b[column] * sums[column] - b[column])
            for row in range(height):
                error += abs(scaled_a[row] * products[row] - a[row])
            if error < tolerance:
                break
            if relaxed and (done == limit // 2 or not error < np.inf):  # too slow, or diverged
                relaxed = False  # start again from v = 1, without over-relaxation
                v[:width], scaled_b[:width] = 1, b[:width]
                continue
        for column in range(width):  # v likewise
            total = sums[column]
            v[column] = single(1) / (total * np.sqrt(total * v[column]) if over else total)
            scaled_b[column] = b[column] * v[column]
    return error, done


@compiled
def _subtract_logarithms(potential: Any, scalings: Any, sharpness: Any) -> None:
    """Subtract log(s) / sharpness, with log(s) = 128 log(r) for r = s^(1/128), which vectorises.

    log(r) = 2 artanh(x) = 2 (x + x^3 / 3 + x^5 / 5 + ...) for x = (r - 1) / (r + 1), which is small.
    """
    rate = single(256 / sharpness)
    for label in range(_padded(len(potential))):
        root = scalings[label]
        for _ in range(7):
            root = np.sqrt(root)
        x = (root - single(1)) / (root + single(1))
        square = x * x
        series = single(1) + square * (
            single(1 / 3) + square * (single(1 / 5) + square * (single(1 / 7) + square * single(1 / 9)))
        )
        scalings[label] = x * series * rate
    for label in range(len(potential)):
        potential[label] -= scalings[label]


@compiled
def _times(kernel: Any, vector: Any, result: Any, height: Any, width: Any) -> None:
    """Compute K x, four rows at a time."""
    for row in range(0, height, BLOCK // 2):
        one, two, three, four = single(0), single(0), single(0), single(0)
        for column in range(width):
            factor = vector[column]
            one += kernel[row, column] * factor
            two += kernel[row + 1, column] * factor
            three += kernel[row + 2, column] * factor
            four += kernel[row + 3, column] * factor
        result[row], result[row + 1], result[row + 2], result[row + 3] = one, two, three, four


@compiled
def _times_transposed(kernel: Any, vector: Any, result: Any, height: Any, width: Any) -> None:
    """Compute K^T x, eight rows at a time."""
    result[:width] = 0
    for row in range(0, height, BLOCK):
        one, two, three, four = vector[row], vector[row + 1], vector[row + 2], vector[row + 3]
        five, six, seven, eight = vector[row + 4], vector[row + 5], vector[row + 6], vector[row + 7]
        for column in range(width):
            result[column] += (
                (kernel[row, column] * one + kernel[row + 1, column] * two)
                + (kernel[row + 2, column] * three + kernel[row + 3, column] * four)
                + (kernel[row + 4, column] * five + kernel[row + 5, column] * six)
                + (kernel[row + 6, column] * seven + kernel[row + 7, column] * eight)
            )


@compiled
def _complete(f: Any, g: Any, costs: Any, diameter: Any, rows: Any, columns: Any, complete: Any) -> None:
    """Set f_i = min_j C_ij - g_j for labels without mass in a (unless complete: on both sides), and g likewise."""
    has_a, has_b = np.zeros(len(costs), np.bool_), np.zeros(len(costs), np.bool_)
    has_a[rows] = True
    has_b[columns] = True
    for label in range(len(costs)):
        if not has_a[label] and (complete or not has_b[label]):
            best = np.inf
            for column in columns:
                best = min(best, diameter * costs[label, column] - g[column])
            f[label] = best
        if not has_b[label] and (complete or not has_a[label]):
            best = np.inf
            for row in rows:
                best = min(best, diameter * costs[row, label] - f[row])
            g[label] = best
