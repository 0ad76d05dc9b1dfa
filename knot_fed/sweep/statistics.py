"""Paired comparisons with the entropy baseline, with intervals over seeds."""

from collections.abc import Sequence

import pandas as pd

from knot_fed.runs.results import MEASURES
from knot_fed.runs.statistics import pair_with_baseline, paired_interval, verdict_of


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
    pairs = pair_with_baseline(results, extra)
    settings = list(dict.fromkeys(["loss", "objective", "weights", "cost", *extra, "domain"]))
    rows = []
    for setting, group in pairs.groupby(settings, sort=False, dropna=False):
        for metric in MEASURES:
            differences = (group[metric] - group[f"{metric} baseline"]).to_numpy()
            low, high = paired_interval(differences)
            rows.append(
                dict(zip(settings, setting, strict=True))
                | {"metric": metric, "seeds": len(differences), "difference": differences.mean()}
                | {"low": low, "high": high, "verdict": verdict_of(metric, low, high)}
            )
    return pd.DataFrame(rows, columns=[*settings, "metric", "seeds", "difference", "low", "high", "verdict"])
