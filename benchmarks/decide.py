"""Transport against entropy over several data sets: paired by seed on each, and a random-effects mean over all.

python -m benchmarks.decide SWEEP...   one finished sweep for each data set, over distill.loss = ot and entropy
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import t as student_t

from knot_fed.errors import KnotError, RunFolderError
from knot_fed.runs.results import BEFORE, MEASURES, read_sweep
from knot_fed.runs.statistics import CENTRALISED, matching_rows, pair_with_baseline, paired_interval, verdict_of
from knot_fed.types import MEAN

OVER_ALL = "over all"
LEAST_SHARE = 1e-9
"""Of the largest variance: below it, a data set's seeds agree but for rounding."""


def random_effects(
    means: Float[np.ndarray, "sets"], variances: Float[np.ndarray, "sets"]
) -> tuple[float, float, float]:
    """Return the mean effect over data sets and its 95 % interval.

    The variance between data sets is that of DerSimonian and Laird (1986), and the interval that of Hartung and Knapp
    (2001), by Student's t with one degree of freedom less than data sets. It is infinite for a single one. If a set's
    variance is nothing beside the others' (no student moved) or unknown (one seed), all sets count alike.

    Parameters
    ----------
    means, variances
        Of each data set's mean difference.

    Examples
    --------
    >>> [round(value, 3) for value in random_effects(np.array([1.0, 1.0, 1.0]), np.array([0.1, 0.1, 0.1]))]
    [1.0, 1.0, 1.0]
    """
    sets = len(means)
    if sets < 2:
        return float(means.mean()), -np.inf, np.inf
    weights = np.ones(sets)
    if (variances > LEAST_SHARE * variances.max()).all():
        weights = 1 / variances
        common = np.average(means, weights=weights)
        excess = float((weights * (means - common) ** 2).sum()) - (sets - 1)
        between = max(0.0, excess / float(weights.sum() - (weights**2).sum() / weights.sum()))
        weights = 1 / (variances + between)
    mean = float(np.average(means, weights=weights))
    spread = float((weights * (means - mean) ** 2).sum()) / (sets - 1) / float(weights.sum())
    half = float(student_t.ppf(0.975, sets - 1)) * np.sqrt(spread)
    return mean, mean - half, mean + half


def differences_table(sweeps: Sequence[Path]) -> pd.DataFrame:
    """Return transport minus entropy by data set and metric, and over all data sets; the mean of a sweep's settings.

    Raises
    ------
    RunFolderError
        If a sweep has no results, or no seed with both losses.
    """
    rows = []
    for sweep in sweeps:
        frame = read_sweep(sweep).frame
        pairs = pair_with_baseline(frame[frame["domain"] == MEAN], [])
        pairs = pairs[pairs["loss"] == "ot"]
        if pairs.empty:
            raise RunFolderError(f"{sweep}: no seed has both losses; sweep with --grid 'distill.loss=ot,entropy'")
        for metric in MEASURES:
            by_seed = (pairs[metric] - pairs[f"{metric} baseline"]).groupby(pairs["seed"]).mean()
            values = by_seed.to_numpy(dtype=float)
            low, high = paired_interval(values)
            rows.append(
                _row(sweep.name, metric, len(values), values.mean(), low, high, values.var(ddof=1) / len(values))
            )
    table = pd.DataFrame(rows)
    over_all = [
        _row(
            OVER_ALL, metric, len(group), *random_effects(group["difference"].to_numpy(), group["variance"].to_numpy())
        )
        for metric, group in table.groupby("metric", sort=False)
    ]
    return pd.concat([table, pd.DataFrame(over_all)], ignore_index=True).drop(columns="variance")


def shares_table(sweeps: Sequence[Path]) -> pd.DataFrame:
    """Return, by data set, line and further key, the share of the gap in SD that is closed, in percent.

    It is the mean of the seeds' shares; `closed` of other tables is the share of the means. A line is held against the
    start and the centralised model of the same setting.
    """
    rows = []
    for sweep in sweeps:
        results = read_sweep(sweep)
        further, keys = results.further_keys, ["line", "loss", *results.further_keys]
        frame = results.frame[results.frame["domain"] == MEAN].fillna(dict.fromkeys(keys, ""))
        for cell, group in frame.groupby(keys, sort=False):
            named = dict(zip(keys, cell, strict=True))
            start, goal = (
                matching_rows(frame, line, named, further).groupby("seed")["sd"].mean()
                for line in (BEFORE, CENTRALISED)
            )
            by_seed = group.groupby("seed")["sd"].mean()
            closed = 100 * (start - by_seed) / (start - goal)
            closed = closed.dropna().to_numpy()
            low, high = paired_interval(closed) if len(closed) else (np.nan, np.nan)
            means = {key: group[key].mean() for key in ("macro_f1", "accuracy", "bytes_up")}
            facts = {"seeds": len(closed), "closed": closed.mean() if len(closed) else np.nan, "low": low, "high": high}
            rows.append({"data": sweep.name, **named, **facts, **means})
    return pd.DataFrame(rows)


def _row(
    data: str, metric: str, count: int, mean: float, low: float, high: float, variance: float = 0.0
) -> dict[str, object]:
    return {
        "data": data, "metric": metric, "seeds": count, "difference": mean, "low": low, "high": high,
        "verdict": verdict_of(metric, low, high), "variance": variance,
    }  # fmt: skip


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:]]
    if not given:
        sys.exit(__doc__)
    try:
        tables = differences_table(given), shares_table(given)
    except KnotError as error:
        sys.exit(f"benchmarks.decide: {error}")
    with pd.option_context("display.width", 160, "display.max_rows", None, "display.float_format", "{:.4f}".format):
        for table in tables:
            print(table.to_string(index=False))
