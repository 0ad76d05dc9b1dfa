"""The tables of a frontier for a terminal: the price, the remaining gain, and the leakage of each row."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from knot_fed.audit.frontier.report import guarantee, shown_leak
from knot_fed.config import MECHANISMS
from knot_fed.runs.narrow import narrow_table

PRICE = (("sd", "SD ↓", 3), ("macro_f1", "macro-F1 ↑", 3))
KEPT = (("gain_kept", "gain kept", 2), ("lead", "lead in SD", 3), ("bytes_up", "bytes up", 0), ("seeds", "seeds", 0))
LEAKED = (
    ("audited_epsilon", "audited\nε ≥", 2),
    ("tpr_own_row", "TPR own\nrow", 3),
    ("tpr_nearest_rows", "nearest\nrows", 3),
    ("tpr_student", "student", 3),
    ("mix_kl", "KL of\nthe mix", 3),
    ("mix_kl_pooled", "pooled", 3),
)


def frontier_tables(table: pd.DataFrame) -> list[Table]:
    """Return the tables; the last one only if an audit was given."""
    tables = [
        _table(table, PRICE, caption="means over seeds and domains ± half the 95 % interval", claimed=True),
        _table(table, KEPT, caption="gain kept: of the fall in SD without a mechanism; lead: on the entropy loss"),
    ]
    if table[[key for key, _, _ in LEAKED]].notna().any(axis=None):
        caption = "ε: the largest over seeds; TPR at 1 % false positives, and KL in nats: means over seeds and clients"
        tables.append(_table(table, LEAKED, caption=caption))
    return tables


def _table(
    table: pd.DataFrame, columns: Sequence[tuple[str, str, int]], *, caption: str, claimed: bool = False
) -> Table:
    rows = [
        [
            _named(line),
            *([guarantee(line)] if claimed else []),
            *(shown_leak(line, key, digits) for key, _, digits in columns),
        ]
        for line in table.to_dict("records")
    ]
    words = ["line", "guarantee"] if claimed else ["line"]
    return narrow_table(words, [heading for _, heading, _ in columns], rows=rows, caption=caption)


def _named(line: Mapping[Hashable, Any]) -> str:
    """Identify a row."""
    study = f"{line['study']}: " if line["study"] else ""
    epsilon = f" ε {line['epsilon']:g} δ {line['delta']:g}" if MECHANISMS[line["mechanism"]].has_guarantee else ""
    return study + ", ".join(filter(None, [f"{line['mechanism']}{epsilon}", line["loss"], line["settings"]]))
