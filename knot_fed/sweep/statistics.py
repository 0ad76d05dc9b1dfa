"""Paired comparisons with the entropy baseline, with intervals over seeds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from knot_fed.runs.results import AFTER, MEASURES
from knot_fed.runs.statistics import half_interval

BASELINE = "entropy"
MORE_IS_BETTER = ("accuracy", "macro_f1")


def compare_with_baseline(results: pd.DataFrame, extra: Sequence[str] = ()) -> pd.DataFrame:
    """Subtract the entropy baseline of the same seed, weighting, objective and other settings from every cell.

    Parameters
    ----------
    results
        Tidy results; only the rows of distilled students are read.
    extra
        Columns of further grid keys, which must be equal in both; ground costs need not be.

    Returns
    -------
    comparison
        For each setting, domain and metric: `seeds`, mean `difference`, its 95 % interval `low` to `high` (Student's t
        over seeds, paired), and a `verdict`: better, worse, or undecided if the interval contains zero or is infinite.
    """
    students = results[results["line"] == AFTER].fillna({"cost": ""})
    baseline = students[students["loss"] == BASELINE]
    others = students[students["loss"] != BASELINE]
    keys = ["seed", "objective", "weights", *(key for key in extra if not key.startswith("transport.")), "domain"]
    pairs = others.merge(baseline, on=keys, suffixes=("", " baseline"))
    settings = list(dict.fromkeys(["loss", "objective", "weights", "cost", *extra, "domain"]))
    rows = []
    for setting, group in pairs.groupby(settings, sort=False, dropna=False):
        for metric in MEASURES:
            differences = (group[metric] - group[f"{metric} baseline"]).to_numpy()
            low, high = paired_interval(differences)
            verdict = _verdict(low, high) if metric in MORE_IS_BETTER else _verdict(-high, -low)
            rows.append(
                dict(zip(settings, setting, strict=True))
                | {"metric": metric, "seeds": len(differences), "difference": differences.mean()}
                | {"low": low, "high": high, "verdict": verdict}
            )
    return pd.DataFrame(rows, columns=[*settings, "metric", "seeds", "difference", "low", "high", "verdict"])


def paired_interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean by Student's t; infinite for a single difference."""
    half = half_interval(differences) if len(differences) > 1 else np.inf
    return float(differences.mean()) - half, float(differences.mean()) + half


def _verdict(low: float, high: float) -> str:
    """Judge an interval for which more is better."""
    if low > 0:
        return "better"
    return "worse" if high < 0 else "undecided"
