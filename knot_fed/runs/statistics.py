"""Statistics of a comparison: means and paired differences with intervals, and the share of the gap closed."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import t as student_t

from knot_fed.files import shorten_paths
from knot_fed.runs.results import AFTER, BEFORE, MEASURES, PER_CLIENT, SETTINGS
from knot_fed.types import MEAN

CENTRALISED, ENSEMBLE = "centralised", "ensemble"
BASELINE = "entropy"
MORE_IS_BETTER = ("accuracy", "macro_f1")


def half_interval(values: Float[np.ndarray, "seeds"]) -> float:
    """Return half the width of the 95 % interval of the mean (Student's t); NaN for fewer than two values.

    Examples
    --------
    >>> round(half_interval(np.array([0.0, 1.0, 2.0])), 3)
    2.484
    """
    count = len(values)
    if count < 2:
        return float("nan")
    return float(student_t.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count))


def paired_interval(differences: Float[np.ndarray, "seeds"]) -> tuple[float, float]:
    """Return the 95 % interval of the mean by Student's t; infinite for a single difference."""
    half = half_interval(differences) if len(differences) > 1 else np.inf
    return float(differences.mean()) - half, float(differences.mean()) + half


def verdict_of(metric: str, low: float, high: float) -> str:
    """Judge the interval of a difference: better, worse, or undecided if it contains zero or is infinite.

    Examples
    --------
    >>> verdict_of("sd", -0.2, -0.1), verdict_of("accuracy", -0.2, -0.1), verdict_of("sd", -0.1, 0.1)
    ('better', 'worse', 'undecided')
    """
    if metric not in MORE_IS_BETTER:
        low, high = -high, -low
    if low > 0:
        return "better"
    return "worse" if high < 0 else "undecided"


def pair_with_baseline(frame: pd.DataFrame, further: Sequence[str]) -> pd.DataFrame:
    """Join each distilled student to that of the entropy loss with the same seed, domain and settings.

    Ground costs need not be equal. The baseline's columns end in ` baseline`.
    """
    students = frame[frame["line"] == AFTER].fillna({"cost": ""})
    baseline = students[students["loss"] == BASELINE]
    keys = ["seed", "objective", "weights", *(key for key in further if not key.startswith("transport.")), "domain"]
    return students[students["loss"] != BASELINE].merge(baseline, on=keys, suffixes=("", " baseline"))


def loss_differences(frame: pd.DataFrame, further: Sequence[str]) -> pd.DataFrame:
    """Subtract the entropy loss from each other loss, on the mean of the domains, averaged over all paired settings.

    Parameters
    ----------
    frame
        Tidy results.
    further
        Keys that distinguish cells beyond the four settings.

    Returns
    -------
    differences
        One row for each loss and metric: `settings`, `seeds`, the mean `difference` with its interval `low` to `high`
        (Student's t over the seeds, which each have all settings), `verdict`, and `by_seed`, the differences of the
        seeds in order. Empty without the entropy loss.
    """
    pairs = pair_with_baseline(frame[frame["domain"] == MEAN], further)
    rows = []
    for loss, group in pairs.groupby("loss", sort=True):
        settings = len(group[[*SETTINGS, *further]].drop_duplicates())
        for metric in MEASURES:
            found = group.assign(found=group[metric] - group[f"{metric} baseline"])
            rows.append({"loss": loss, "metric": metric, "settings": settings, **_by_seed(found, settings, metric)})
    return pd.DataFrame(rows)


def start_differences(frame: pd.DataFrame, further: Sequence[str], line: str, metric: str) -> pd.DataFrame:
    """Subtract a baseline, such as the initial student, from each loss's students, as `loss_differences` does."""
    means = frame[frame["domain"] == MEAN]
    start = means[means["line"] == line].groupby("seed")[metric].mean()
    rows = []
    for loss, group in means[means["line"] == AFTER].groupby("loss", sort=True):
        settings = len(group[[*SETTINGS, *further]].drop_duplicates())
        found = group.assign(found=group[metric] - group["seed"].map(start)).dropna(subset=["found"])
        if len(found):
            rows.append({"loss": loss, "metric": metric, "settings": settings, **_by_seed(found, settings, metric)})
    return pd.DataFrame(rows)


def _by_seed(found: pd.DataFrame, settings: int, metric: str) -> dict[str, Any]:
    """Average the column `found` over the settings by seed, leaving out seeds that lack some, if others have all."""
    grouped = found.groupby("seed")["found"]
    whole = grouped.size() >= settings
    by_seed = grouped.mean()[whole if whole.any() else whole | True]
    low, high = paired_interval(by_seed.to_numpy(np.float64))
    return {
        "seeds": len(by_seed),
        "difference": float(by_seed.mean()),
        "low": low,
        "high": high,
        "verdict": verdict_of(metric, low, high) if math.isfinite(low) else "undecided",
        "by_seed": by_seed.tolist(),
    }


def summarise_lines(frame: pd.DataFrame, further: Sequence[str]) -> pd.DataFrame:
    """Average each line of each cell over the seeds, on the mean of the domains; runs of one seed count once.

    Parameters
    ----------
    frame
        Tidy results.
    further
        Keys that distinguish cells beyond the four settings.

    Returns
    -------
    lines
        Columns `line`, the settings and further keys, `seeds`, `name` (the settings that differ), the metrics, each
        with half its interval as `<metric>_half`, traffic, gains, and `closed_sd`, `closed_macro_f1`; lowest SD first.
    """
    means = frame[frame["domain"] == MEAN]
    keys = ["line", *SETTINGS, *further]
    rows = [
        {
            **dict(zip(keys, named, strict=True)),
            "seeds": len(group),
            **{measure: group[measure].mean() for measure in (*MEASURES, *PER_CLIENT)},
            **{f"{measure}_half": half_interval(group[measure].to_numpy(np.float64)) for measure in MEASURES},
        }
        for named, group in means.groupby([*keys, "seed"])[[*MEASURES, *PER_CLIENT]].mean().groupby(keys)
    ]
    lines = pd.DataFrame(rows)
    cells = lines[lines["line"] == AFTER]
    telling = [key for key in keys[1:] if cells[key].nunique() > 1] or ["loss"]
    lines["name"] = [shorten_paths(" ".join(filter(None, told))) for told in lines[telling].itertuples(index=False)]
    for measure in ("sd", "macro_f1"):
        lines[f"closed_{measure}"] = [
            gap_closed(means, line, [*SETTINGS, *further], measure) for line in lines.to_dict("records")
        ]
    return lines.sort_values(["sd", "name"], kind="stable").reset_index(drop=True)


def gap_closed(means: pd.DataFrame, line: Mapping[Hashable, Any], keys: Sequence[str], measure: str) -> float:
    """Return the share of the gap between the initial student and the baseline that a cell's student closed.

    The baseline is the centralised student if there is one, else the teachers' ensemble. Only seeds that have all three
    count. NaN if a line is missing, if the baseline is no better than the initial student, and for lines other than
    students.
    """
    if line["line"] != AFTER:
        return float("nan")
    start, after, centralised, ensemble = (
        matching_rows(means, name, line, keys).groupby("seed")[measure].mean()
        for name in (BEFORE, AFTER, CENTRALISED, ENSEMBLE)
    )
    by_seed = pd.concat([start, after, centralised if centralised.notna().any() else ensemble], axis=1).dropna()
    start, after, baseline = by_seed.mean()
    way = baseline - start
    forward = way < 0 if measure == "sd" else way > 0
    return float((after - start) / way) if forward else float("nan")


def matching_rows(means: pd.DataFrame, name: str, line: Mapping[Hashable, Any], keys: Sequence[str]) -> pd.DataFrame:
    """Return the rows of a line that agree with a cell in all settings that they have."""
    rows = means[means["line"] == name]
    for key in keys:
        rows = rows[(rows[key] == "") | (rows[key] == line[key])]
    return rows
