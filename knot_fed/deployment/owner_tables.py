"""Tables for a data owner or operator: the check of a client, the ledger, and the credentials."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rich.table import Table

from knot_fed.deployment.credentials import WARN_DAYS, Credential
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.runs.narrow import narrow_table

if TYPE_CHECKING:
    from knot_fed.deployment.client_check import CheckResult

STYLES = {"ok": "green", "problem": "bold red", "not checked": "yellow"}


def findings_table(findings: Sequence["CheckResult"]) -> Table:
    """Return the results of a client's check."""
    rows = [[finding.check, finding.outcome, finding.detail] for finding in findings]
    table = narrow_table(["check", "outcome", "detail"], rows=rows, title="this client")
    table.columns[1].no_wrap = True
    for row, finding in zip(table.rows, findings, strict=True):
        row.style = STYLES[finding.outcome]
    return table


def ledger_tables(entries: Sequence[LedgerEntry]) -> list[Table]:
    """Return a table of the releases and one of the privacy guarantees claimed for them, one row per entry."""
    released = [[entry.run, _cost(entry), entry.answer[:12], str(entry.round), str(entry.texts)] for entry in entries]
    claimed = [[entry.run, entry.mechanism, entry.unit, str(entry.round), *_claim(entry)] for entry in entries]
    return [
        narrow_table(["run", "cost", "answer"], ["round", "texts"], rows=released, title="releases"),
        narrow_table(["run", "mechanism", "unit"], ["round", "epsilon", "delta"], rows=claimed, title="claims"),
    ]


def credentials_table(listed: Sequence[Credential]) -> Table:
    """Return the credentials with their expiry dates."""
    rows = [[credential.name, credential.path, *_expiry(credential)] for credential in listed]
    return narrow_table(["name", "file", ""], ["valid until"], rows=rows)


def _claim(entry: LedgerEntry) -> tuple[str, str]:
    return (f"{entry.epsilon:.3g}", f"{entry.delta:g}") if math.isfinite(entry.epsilon) else ("no guarantee", "")


def _cost(entry: LedgerEntry) -> str:
    if entry.unknown:
        return "lost lines: the whole budget"
    if entry.parameters:
        return "parameters: no guarantee"
    if entry.fresh < entry.texts:
        return f"{entry.fresh} new texts" if entry.fresh else "none: given before"
    return "new" if entry.texts else "no soft labels"


def _expiry(credential: Credential) -> tuple[str, str]:
    """Return a verdict and the expiry date."""
    if credential.until is None:
        return "ok", "no date"
    date, days = f"{credential.until:%Y-%m-%d %H:%M} UTC", (credential.until - datetime.now(UTC)) / timedelta(days=1)
    if days >= WARN_DAYS:
        return "ok", date
    verdict = "EXPIRED" if days < 0 else f"expires in {days:.0f} days"
    return f"{verdict}: run knot-fed credentials renew", date
