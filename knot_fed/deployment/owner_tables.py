"""The tables of what an owner keeps or checks on its own machine: ledger, credentials, and the check of a client."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from knot_fed.deployment.credentials import WARN_DAYS, Credential
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.runs.narrow import narrow_table

if TYPE_CHECKING:
    from knot_fed.deployment.client_check import CheckResult

STYLES = {"ok": "green", "problem": "bold red", "not checked": "yellow"}


def findings_table(findings: Sequence["CheckResult"]) -> Table:
    """Return what the check of a client found."""
    rows = [[finding.check, finding.outcome, finding.detail] for finding in findings]
    table = narrow_table(["check", "outcome", "detail"], rows=rows, title="this client")
    table.columns[1].no_wrap = True
    for row, finding in zip(table.rows, findings, strict=True):
        row.style = STYLES[finding.outcome]
    return table


def ledger_tables(entries: Sequence[LedgerEntry]) -> list[Table]:
    """Return what was released, and under which claims, line by line."""
    released = [
        [entry.run, _cost(entry), entry.answer[:12], str(entry.round), str(entry.texts)] for entry in entries
    ]  # fmt: skip
    claimed = [[entry.run, entry.mechanism, entry.unit, str(entry.round), *_claim(entry)] for entry in entries]
    return [
        narrow_table(["run", "cost", "answer"], ["round", "texts"], rows=released, title="releases"),
        narrow_table(["run", "mechanism", "unit"], ["round", "epsilon", "delta"], rows=claimed, title="claims"),
    ]


def credentials_table(listed: Sequence[Credential]) -> Table:
    """Return the credentials, until when each is valid, and whether that is soon."""
    rows = [
        [
            credential.name,
            str(credential.path),
            _verdict(credential.days_left),
            "no date" if credential.until is None else f"{credential.until:%Y-%m-%d %H:%M} UTC",
        ]
        for credential in listed
    ]
    return narrow_table(["name", "file", ""], ["valid until"], rows=rows)


def _claim(entry: LedgerEntry) -> tuple[str, str]:
    return (f"{entry.epsilon:.3g}", f"{entry.delta:g}") if math.isfinite(entry.epsilon) else ("no guarantee", "")


def _cost(entry: LedgerEntry) -> str:
    """Say what a line of the ledger cost."""
    if entry.unknown:
        return "lost lines: the whole budget"
    if entry.parameters:
        return "parameters: no guarantee"
    if entry.fresh < entry.texts:
        return f"{entry.fresh} new texts" if entry.fresh else "none: given before"
    return "new" if entry.texts else "no soft labels"


def _verdict(days_left: float | None) -> str:
    if days_left is None or days_left >= WARN_DAYS:
        return "ok"
    if days_left < 0:
        return "EXPIRED: run knot-fed credentials renew"
    return f"expires in {days_left:.0f} days: run knot-fed credentials renew"
