"""The tables of a sweep, for the terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table

from knot_fed.runs.method import weighting_in_words
from knot_fed.runs.narrow import narrow_table, plain, rounded
from knot_fed.runs.results import AFTER, GAINED, GAINS, SETTINGS, Results
from knot_fed.runs.statistics import ENSEMBLE, summarise_lines
from knot_fed.types import MEAN

METHOD = "method"
COMPARED = (("sd", "SD ↓"), ("sd_calibrated", "SD cal. ↓"), ("accuracy", "accuracy ↑"), ("macro_f1", "macro-F1 ↑"))


def sweep_tables(found: Results, extra: list[str]) -> Group:
    """Return the mean of each line over seeds and domains, and the differences from the baseline.

    Parameters
    ----------
    found
        The sweep.
    extra
        Keys of the grid beyond the four settings.
    """
    lines = summarise_lines(found.frame, extra)
    cells = lines[lines["line"] == AFTER]
    # The name of a method says its settings, but not those that the grid varies within it.
    told = [key for key in SETTINGS if METHOD not in extra or cells.groupby(METHOD)[key].nunique().max() > 1]
    varied = [*extra, *told] if METHOD in extra else [*told, *extra]
    keys = [key for key in varied if cells[key].nunique() > 1 or key == METHOD] or ["loss"]
    lines["called"] = _called(lines, keys)
    shared = setting_in_words(
        cells.iloc[0].to_dict(),
        [key for key in (*SETTINGS, *extra) if key not in keys and cells[key].nunique() == 1],
    )
    parts: list[RenderableType] = [
        plain("Means over seeds and domains ± half the 95 % interval over the seeds."),
        *([plain(f"All runs: {shared}.")] if shared else []),
        *_lines(lines),
        *(_per_client(lines) if METHOD in keys else []),
    ]
    if len(found.comparison):
        parts += [
            plain("Differences from the entropy loss of the same weighting, objective and seed, on the mean."),
            _differences(found.comparison, [*SETTINGS, *extra], keys),
        ]
    return Group(*parts)


def setting_in_words(cell: Mapping[Any, Any], keys: Sequence[str]) -> str:
    """Describe the settings of a cell, without those that are empty.

    Examples
    --------
    >>> setting_in_words({"loss": "ot", "weights": "size", "cost": "", "rounds": "2"}, ["loss", "weights", "rounds"])
    'ot, size weights, rounds 2'
    """
    told = []
    for key in keys:
        value = str(cell[key])
        if value and key == "weights":
            told.append(weighting_in_words(value))
        elif value and key == METHOD:
            told.append(value)
        elif value:
            told.append(value if key == "loss" else f"{value} {key}" if key in SETTINGS else f"{key} {value}")
    return ", ".join(told)


def _lines(lines: pd.DataFrame) -> list[Table]:
    rows = lines.to_dict("records")
    measures = ("sd", "macro_f1", "sd_calibrated", "accuracy", "ece")
    shown = {measure: [_measured(line, measure) for line in rows] for measure in measures}
    closed = [_shown(line["closed_sd"], "{:.0%}".format) for line in rows]
    sent = [_shown(line["bytes_up"] / 1e3, "{:.0f}".format) for line in rows]
    seeds = [line["seeds"] for line in rows]
    return [
        narrow_table(
            ["line"], ["seeds", "SD ↓", "macro-F1 ↑", "closed"],
            rows=zip(lines["called"], seeds, shown["sd"], shown["macro_f1"], closed, strict=True),
            caption="closed: share of the gap in SD from the start to the centralised model, or else the ensemble",
        ),
        narrow_table(
            ["line"], ["SD cal. ↓", "accuracy ↑", "ECE ↓", "kB up"],
            rows=zip(lines["called"], shown["sd_calibrated"], shown["accuracy"], shown["ece"], sent, strict=True),
            caption="SD cal.: at the temperature of the public validation split; kB up: of one client in one run",
        ),
    ]  # fmt: skip


def _per_client(lines: pd.DataFrame) -> list[Table]:
    rows = [
        [
            line["called"],
            _measured(line, "w1"),
            _shown(line["bytes_up"] / 1e3, "{:.0f}".format),
            _shown(line["bytes_down"] / 1e3, "{:.0f}".format),
            _shown(line["seconds"], "{:.0f}".format),
        ]
        for line in lines.to_dict("records")
    ]
    tables = [narrow_table(["line"], ["W1 ↓", "kB up", "kB down", "seconds"], rows=rows)]
    gained = lines.dropna(subset=[*GAINS], how="all")
    if len(gained):
        tables.append(
            narrow_table(
                ["line"],
                [heading for *_, heading in GAINS.values()],
                rows=[
                    [line["called"], *(_shown(line[gain], "{:+.3f}".format) for gain in GAINS)]
                    for line in gained.to_dict("records")
                ],
                caption=GAINED,
            )
        )
    return tables


def _called(lines: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Name each line by these settings, and by its weighting too if otherwise several ensembles had the same name."""
    several = lines.loc[lines["line"] == ENSEMBLE, "weights"].nunique() > 1
    of_baseline = [*keys, *(["weights"] if several and "weights" not in keys else [])]
    return [
        setting_in_words(line, keys)
        if line["line"] == AFTER
        else ", ".join(filter(None, [line["line"], setting_in_words(line, of_baseline)]))
        for line in lines.to_dict("records")
    ]


def _differences(comparison: pd.DataFrame, settings: Sequence[str], keys: Sequence[str]) -> Table:
    rows = []
    for setting, group in comparison[comparison["domain"] == MEAN].groupby(list(settings), sort=False):
        cell = dict(zip(settings, setting, strict=True))
        for metric, named in COMPARED:
            for row in group[group["metric"] == metric].to_dict("records"):
                interval = f"[{row['low']:+.3f}, {row['high']:+.3f}]"
                rows.append(
                    [setting_in_words(cell, keys), named, row["verdict"], f"{row['difference']:+.3f}", interval]
                )
    return narrow_table(["line", "metric", "verdict"], ["difference", "95 % interval"], rows=rows)


def _measured(line: Mapping[Any, Any], measure: str) -> str:
    half = _shown(line[f"{measure}_half"])
    return _shown(line[measure]) + (f" ± {half}" if half else "")


def _shown(value: float, told: Callable[[float], str] = rounded) -> str:
    return "" if pd.isna(value) else told(value)
