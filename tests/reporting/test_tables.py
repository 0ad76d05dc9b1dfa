"""Every table fits 80 columns without a cut number, and where there is no terminal nothing is folded or left out."""

import io
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from knot_fed.audit.attacks.findings import COLUMNS
from knot_fed.audit.tables import audit_tables
from knot_fed.deployment.client_check import CheckResult
from knot_fed.deployment.credentials import Credential
from knot_fed.deployment.owner_tables import credentials_table, findings_table, ledger_tables
from knot_fed.deployment.status_tables import status_tables
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.reporting.comparison import write_comparison
from knot_fed.runs.narrow import narrow_table
from knot_fed.runs.results import GAINS, read_sweep
from knot_fed.runs.sweep_tables import sweep_tables
from knot_fed.runs.tables import summary_table
from knot_fed.system.terminal import make_console
from tests.reporting.made_up import change_summary, make_run, make_sweep

LONG = "university-hospital-of-a-town-with-a-very-long-name-department-12"
REASON = "the ledger of this node's state folder is damaged at line 17; call knot-fed privacy recover " + "x" * 90


def shown(table, *, width=80):
    """Render as a terminal of that width does, and check that no line is wider and nothing was cut."""
    console = Console(file=io.StringIO(), width=width)
    console.print(*(table if isinstance(table, list) else [table]))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    return text


def unfolded(text):
    """Join what was folded inside the cells of the first columns, so that a long word can be looked for."""
    return re.sub(r"[\s│┃]+", "", text)


@pytest.fixture
def long_run(tmp_path):
    folder = make_run(tmp_path, "long", clients=("phones", LONG, "radio"))
    clients = folder.read_summary()["clients"]
    clients[1] |= {"status": f"refused: {REASON}", "examples": 10**9, "bytes_up": 10**12, "seconds": 1e5}
    change_summary(folder, clients=clients)
    return folder.read_summary()


def test_every_number_of_a_run_is_whole_on_80_columns(long_run):
    text = shown(summary_table(long_run))
    for measured in (*long_run["domains"].values(), long_run["student"]):
        for measure in ("sd", "w1", "accuracy", "macro_f1", "ece"):
            before, after = (measured[when][measure] for when in ("before", "after"))
            assert f"{before:.3f} → {after:.3f}" in text
    for number in ("1000000000", "1000000000.0", "100000.0"):
        assert number in text
    assert unfolded(REASON) in unfolded(text)
    assert "2 of 3 clients answered" in text


def test_measures_of_a_label_space_a_million_wide_are_whole(long_run):
    for measured in (*long_run["domains"].values(), long_run["student"]):
        for when in ("before", "after"):
            measured[when] |= {"sd": 2_345_678.9, "w1": 2_345_678.9}
    assert shown(summary_table(long_run)).count("2.346e+06 → 2.346e+06") == 2 * (len(long_run["domains"]) + 1)


def test_where_there_is_no_terminal_nothing_is_folded(long_run, capsys):
    make_console().print(summary_table(long_run))
    text = capsys.readouterr().out
    assert f"{LONG}: refused: {REASON}\n" in text
    assert text.count(f" {LONG} ") == 3


def test_every_number_of_a_sweep_is_whole_on_80_columns(tmp_path):
    results = read_sweep(make_sweep(tmp_path / "sweep"))
    results.frame["teacher.temperature"] = results.comparison["teacher.temperature"] = "1.0"
    text = shown(sweep_tables(results, ["teacher.temperature"]))
    assert len(re.findall(r"\d\.\d{3} ± 0\.\d{3}", text)) == 5 * 13
    for row in results.comparison[results.comparison["domain"] == "mean"].to_dict("records"):
        if row["metric"] in ("sd", "accuracy", "macro_f1"):
            assert f"{row['difference']:+.3f}" in text
            assert f"[{row['low']:+.3f}, {row['high']:+.3f}]" in text
    assert "ot, uniform weights" in text
    assert "All runs: pooled objective" in text


def test_a_sweep_of_long_values_and_one_seed_fits_80_columns(tmp_path):
    results = read_sweep(make_sweep(tmp_path / "sweep", seeds=(1,)))
    after = results.frame["line"] == "student after"
    results.frame.loc[after, "cost"] = "/home/somebody/with/deep/folders/" + "c" * 90 + ".csv"
    results.frame["model"] = ""
    results.frame.loc[after, "model"] = results.frame.loc[after, "loss"] + "hf:" + "m" * 100
    results.comparison["model"] = results.comparison["loss"] + "hf:" + "m" * 100
    assert "[-inf, +inf]" in shown(sweep_tables(results, ["model"]))


def test_personal_gains_stand_in_the_tables_of_methods_that_make_personal_models(tmp_path):
    results = read_sweep(make_sweep(tmp_path / "sweep"))
    after = results.frame["line"] == "student after"
    results.frame["method"] = results.comparison["method"] = "knot"
    assert "own SD gain" not in shown(sweep_tables(results, ["method"]))
    results.frame.loc[after & (results.frame["loss"] == "kl"), [*GAINS]] = 0.0625, 0.125, -0.03125
    gained = r"knot, kl, uniform weights +│ +\+0\.062 │ +\+0\.125 │ +-0\.031 │"
    assert re.search(gained, shown(sweep_tables(results, ["method"]), width=110))
    write_comparison(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "own SD gain" in page
    assert "+0.062" in page


def test_a_sweep_of_an_earlier_version_shows_the_gains_that_it_has(tmp_path):
    results = read_sweep(make_sweep(tmp_path / "sweep"))
    results.frame["method"] = results.comparison["method"] = "knot"
    results.frame.loc[results.frame["line"] == "student after", ["gain_sd", "gain_macro_f1"]] = 0.0625, -0.03125
    gained = r"knot, kl, uniform weights +│ +\+0\.062 │ +│ +-0\.031 │"
    assert re.search(gained, shown(sweep_tables(results, ["method"]), width=110))


def test_a_sweep_of_methods_names_the_weighting_of_each_ensemble_if_there_are_several(tmp_path):
    results = read_sweep(make_sweep(tmp_path / "sweep"))
    frame, after = results.frame, results.frame["line"] == "student after"
    frame["method"], results.comparison["method"] = "", "mine"
    frame.loc[after, "method"] = frame.loc[after, "loss"] + "-" + frame.loc[after, "weights"]
    other = frame[frame["line"] == "ensemble"].assign(weights="uniform")
    both = replace(results, frame=pd.concat([frame, other], ignore_index=True))
    text = shown(sweep_tables(both, ["method"]), width=110)
    assert text.count("ensemble, confidence weights") == text.count("ensemble, uniform weights") == 3
    assert "ot-uniform," not in text
    assert "ensemble," not in shown(sweep_tables(results, ["method"]), width=110)
    frame.loc[after, "method"] = frame.loc[after, "loss"]
    assert shown(sweep_tables(results, ["method"]), width=110).count("ot, uniform weights") == 3
    write_comparison(both, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "ensemble confidence" in page
    assert "ensemble uniform" in page


def test_a_table_of_an_earlier_version_has_no_gains(tmp_path):
    folder = make_sweep(tmp_path / "sweep")
    table = pd.read_csv(folder / "results.csv").drop(columns=[*GAINS])
    table.to_csv(folder / "results.csv", index=False)
    assert read_sweep(folder).frame[[*GAINS]].isna().all(axis=None)


def test_a_sweep_without_the_entropy_loss_shows_no_differences(tmp_path):
    results = read_sweep(make_sweep(tmp_path / "sweep"))
    alone = replace(results, comparison=results.comparison.head(0))
    assert "Differences" not in shown(sweep_tables(alone, []))


def test_every_number_of_an_audit_is_whole_on_80_columns():
    rows = [
        {"seed": seed, "client": LONG, "attack": attack, "case": "soft labels and confidences, most distant, online"}
        | {"measure": measure, "value": 0.12345 * seed, "low": 0.0, "high": 1.0, "count": 7}
        for seed in (1, 2)
        for attack in ("membership", "canaries")
        for measure in ("tpr_at_0.1%", "tpr_at_1%", "epsilon_lower_bound")
    ]
    text = shown(audit_tables(pd.DataFrame(rows, columns=list(COLUMNS))))
    for number in ("0.185", "0.123", "0.247"):
        assert text.count(number) == 6


def test_status_fits_80_columns():
    run = {
        "run": "18446744073709551615", "status": "finished:completed", "phase": "teachers answer", "round": 10_000,
        "rounds": 10_000, "failure": REASON, "bytes-up": 10**12, "bytes-down": 10**12, "seconds-left": 86_400.0,
        "phase-ends": "12:00:00Z",
        "traffic": [
            {"name": LONG, "outcome": f"rejected: {REASON}", "bytes-up": 10**12, "bytes-down": 1,
             "last": "2026-01-01T00:00:00Z"},
        ],
    }  # fmt: skip
    node = {
        "name": LONG,
        "owner": LONG,
        "status": "offline",
        "since": "2026-11-25T03:40:09.123456+00:00",
        "node": "9" * 20,
    }
    text = shown(status_tables({"nodes": [node], "runs": [run]}, with_nodes=True))
    assert text.count("1000000000.0") == 3
    assert "10000 of 10000" in text
    assert "2026-01-01T00:00:00Z" in text
    assert unfolded(text).count(unfolded(REASON)) == 2
    assert "9" * 20 in text


def test_a_ledger_fits_80_columns():
    entries = [
        LedgerEntry(
            run="18446744073709551615", round=10_000, texts=10**9, fresh=10**9 - 1, mechanism="gaussian", unit="client",
            epsilon=epsilon, delta=1e-12, answer="a" * 64,
        )
        for epsilon in (0.0123, math.inf)
    ]  # fmt: skip
    text = shown(ledger_tables(entries))
    for whole in ("1000000000", "0.0123", "no guarantee", "1e-12", "a" * 12):
        assert whole in text
    assert "999999999 new" in text


def test_credentials_and_the_check_of_a_client_fit_80_columns():
    place = Path("/srv/federations/of/hospitals") / LONG / "clients" / LONG / "node.key"
    until = datetime.now(UTC) + timedelta(days=12)
    text = shown(credentials_table([Credential(LONG, place, until), Credential("b", place, None)]))
    assert f"{until:%Y-%m-%d %H:%M} UTC" in text
    told = shown(findings_table([CheckResult("splits in the file", "not checked", f"{place} {REASON}")]))
    assert "not checked" in told
    assert unfolded(REASON) in unfolded(told)


def test_what_anybody_named_is_neither_markup_nor_acted_on_by_the_terminal():
    text = shown(narrow_table(["[bold]"], ["n"], rows=[["[red]a[/red]\x1b[31m", "[/]"]]))
    assert "[red]a[/red][31m" in text
    assert "[/]" in text


def test_the_facts_of_a_runs_table_are_those_of_its_summary(long_run):
    from knot_fed.runs.tables import table_facts

    assert shown(summary_table(json.loads(json.dumps(table_facts(long_run))))) == shown(summary_table(long_run))
