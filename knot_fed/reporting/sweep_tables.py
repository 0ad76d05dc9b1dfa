"""The tables of a sweep, for the terminal."""

import pandas as pd
from rich.console import Group
from rich.table import Table

from knot_fed.reporting.results import MEAN, SETTINGS, Results
from knot_fed.reporting.statistics import summarise_lines


def sweep_tables(found: Results, extra: list[str]) -> Group:
    """Return every line's mean over seeds and domains, and the differences from the baseline.

    Parameters
    ----------
    found
        The sweep.
    extra
        Keys of the grid beside those that every line has.
    """
    lines = Table(title="mean over seeds and domains ± half the 95 % interval; closed: share of the gap to centralised")
    settings = ["line", *SETTINGS, *extra]
    for heading in (*settings, "seeds", "SD ↓", "accuracy ↑", "macro-F1 ↑", "ECE ↓", "SD closed", "kB up"):
        lines.add_column(heading)
    for line in summarise_lines(found.frame, extra).to_dict("records"):
        measured = [
            _shown(line[measure], "{:.3f}") + _shown(line[f"{measure}_half"], " ± {:.3f}")
            for measure in ("sd", "accuracy", "macro_f1", "ece")
        ]
        closed, sent = _shown(line["closed_sd"], "{:.0%}"), _shown(line["bytes_up"] / 1e3, "{:.0f}")
        lines.add_row(*(str(line[key]) for key in settings), str(line["seeds"]), *measured, closed, sent)
    return Group(lines, _differences(found.comparison, [*SETTINGS, *extra]))


def _differences(comparison: pd.DataFrame, settings: list[str]) -> Table:
    table = Table(title="difference from the entropy baseline of the same weighting, objective, seed [95 % interval]")
    for heading in (*settings, "SD ↓", "accuracy ↑", "macro-F1 ↑"):
        table.add_column(heading)
    for setting, group in comparison[comparison["domain"] == MEAN].groupby(settings, sort=False):
        rows = group.set_index("metric").loc[["sd", "accuracy", "macro_f1"]].to_dict("records")
        cells = [f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] {row['verdict']}" for row in rows]
        table.add_row(*map(str, setting), *cells)
    return table


def _shown(value: float, template: str) -> str:
    return "" if pd.isna(value) else template.format(value)
