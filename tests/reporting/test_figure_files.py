"""The CSV file of every figure holds what was measured, and the claims are those of the results."""

import base64
import csv
import io
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from knot_fed.reporting.comparison import write_comparison
from knot_fed.reporting.page import MOST_ROWS
from knot_fed.reporting.report import write_report
from knot_fed.runs.results import collect_runs, read_sweep
from knot_fed.runs.statistics import loss_differences
from tests.reporting.made_up import change_summary, make_audit, make_frontier, make_run, make_sweep

LINK = re.compile(r"<a download='([^']*)' href='data:text/csv;charset=utf-8;base64,([^']*)'")


def files_of(page):
    return {name: base64.b64decode(content).decode() for name, content in LINK.findall(page.read_text())}


def table_of(files, name):
    (content,) = (content for file, content in files.items() if file.endswith(f"{name}.csv"))
    return list(csv.DictReader(io.StringIO(content)))


@pytest.fixture
def run_page(emotion_run):
    write_report(emotion_run)
    return emotion_run.path / "report.html"


@pytest.fixture
def sweep_page(sweep):
    write_comparison(read_sweep(sweep), sweep / "report.html")
    return sweep / "report.html"


def claims_of(page):
    return [
        re.sub(r"<[^>]*>|\s+", " ", claim).strip() for claim in re.findall(r"<p class='claim'>(.*?)</p>", page, re.S)
    ]


@pytest.fixture(params=["run", "sweep", "runs", "frontier", "audit"])
def page(request, tmp_path, run_page, sweep_page):
    if request.param in ("run", "sweep"):
        return {"run": run_page, "sweep": sweep_page}[request.param]
    file = tmp_path / f"{request.param}.html"
    if request.param == "runs":
        write_comparison(collect_runs([make_run(tmp_path, name, seed=ord(name)) for name in "ab"]), file)
    return {"frontier": make_frontier, "audit": make_audit}.get(request.param, lambda file: file)(file)


def test_every_figure_has_a_csv_file_of_its_own_name_and_its_values_as_a_table(page):
    html = page.read_text()
    files, figures = files_of(page), html.count("<figure ")
    assert len(files) == figures > 0
    for content in files.values():
        head, *rows = csv.reader(io.StringIO(content))
        assert rows
        assert all(len(row) == len(head) for row in rows)
    assert html.count(", as in its CSV file</caption>") + html.count(" rows, in the CSV file.</p>") == figures


def test_the_result_stands_first_and_what_was_run_second(page):
    heads = re.findall(r"<h2 [^>]*>([^<]*)</h2>", page.read_text())
    assert heads[0] == "Result"
    assert heads[1].startswith("What was")


def test_the_values_of_a_run_are_those_of_its_summary(emotion_run, run_page):
    files, summary = files_of(run_page), emotion_run.read_summary()
    for key in ("sd", "macro_f1"):
        for row in table_of(files, f"{key}-by-domain".replace("_", "-")):
            measured = summary["domains"][row["domain"]]
            assert [float(row[when]) for when in ("before", "after")] == [measured[w][key] for w in ("before", "after")]
        claimed = {row["when"]: row for row in table_of(files, f"claim-{key}".replace("_", "-"))}
        for when, row in claimed.items():
            assert [float(row["low"]), float(row["high"])] == summary["details"]["intervals"][key][when]
    for row in table_of(files, "gain-by-client"):
        measured = summary["domains"][row["client"]]
        assert float(row["gain in SD"]) == measured["before"]["sd"] - measured["after"]["sd"]
    for row, client in zip(table_of(files, "bytes-by-client"), summary["clients"], strict=True):
        assert [row["client"], int(row["bytes_up"])] == [client["name"], client["bytes_up"]]
    counts = np.array([int(row["texts"]) for row in table_of(files, "confusion-after")])
    assert counts.tolist() == np.array(summary["details"]["after"]["confusion"]).ravel().tolist()
    bins = [row for row in table_of(files, "calibration") if row["when"] == "after"]
    assert [float(row["accuracy"]) for row in bins] == [
        b["accuracy"] for b in summary["details"]["after"]["reliability"]
    ]
    held = [float(row["held-out loss"]) for row in table_of(files, "distillation-loss")]
    assert held == [loss for record in emotion_run.read_rounds() for loss in record["validation_losses"]]
    for row in table_of(files, "label-space-after"):
        label = summary["labels"].index(row["true label"])
        probabilities = [float(row[f"probability of {name}"]) for name in summary["labels"]]
        assert probabilities == summary["details"]["after"]["mean_predictions"][label]


def test_the_dots_of_a_sweep_are_the_rows_of_its_results(sweep, sweep_page):
    frame = read_sweep(sweep).frame
    means = frame[frame["domain"] == "mean"]
    dots = table_of(files_of(sweep_page), "sd-by-seed")
    assert sorted(float(row["sd"]) for row in dots) == sorted(means["sd"])
    bars = {(row["domain"], row["line"]): row for row in table_of(files_of(sweep_page), "sd-by-domain")}
    start = frame[(frame["line"] == "student before") & (frame["domain"] == "chats")]
    assert [float(value) for value in bars["chats", "student before"]["by seed"].split()] == start["sd"].tolist()
    costs = table_of(files_of(sweep_page), "bytes-and-sd")
    assert {float(row["bytes"]) for row in costs} == {1_170_000_000.0, 13 * 102_000.0}


def test_the_claim_of_a_sweep_is_the_paired_t_test_over_the_seeds(sweep, sweep_page):
    means = read_sweep(sweep).frame.query("domain == 'mean' and line == 'student after'")
    by_seed = means.groupby(["loss", "seed"])["sd"].mean()
    found = by_seed["ot"] - by_seed["entropy"]
    interval = ttest_1samp(found, 0).confidence_interval(0.95)
    (row,) = (row for row in table_of(files_of(sweep_page), "difference-ot") if row["metric"] == "sd")
    assert [float(row[key]) for key in ("difference", "low", "high")] == pytest.approx(
        [found.mean(), interval.low, interval.high]
    )
    (claim,) = (claim for claim in claims_of(sweep_page.read_text()) if "ot minus entropy in SD" in claim)
    told = (
        f"{found.mean():+.3f} [{interval.low:+.3f}, {interval.high:+.3f}], paired t over 3 seeds, mean of 2 settings."
    )
    assert told in claim
    assert claim.startswith("▲ better" if interval.high < 0 else "= undecided")


def test_an_interval_with_zero_is_called_undecided_and_one_seed_has_none(tmp_path):
    frame = read_sweep(make_sweep(tmp_path / "sweep")).frame
    same = frame.assign(sd=frame["sd"].where(frame["loss"] != "ot", 1.0).where(frame["loss"] != "entropy", 1.0))
    differences = loss_differences(same, []).set_index(["loss", "metric"])
    assert differences.loc[("ot", "sd"), "verdict"] == "undecided"
    alone = make_sweep(tmp_path / "alone", seeds=(1,))
    write_comparison(read_sweep(alone), alone / "report.html")
    claims = claims_of((alone / "report.html").read_text())
    assert all("one seed, so no interval" in claim for claim in claims)
    assert not any("better" in claim or "worse" in claim for claim in claims)


def test_a_seed_that_lacks_a_setting_is_left_out_of_the_claim(sweep):
    frame = read_sweep(sweep).frame
    lacking = frame[~((frame["seed"] == 3) & (frame["loss"] == "ot") & (frame["weights"] == "uniform"))]
    found, whole = (loss_differences(table, []).set_index(["loss", "metric"]) for table in (lacking, frame))
    assert found.loc[("ot", "sd"), "by_seed"] == whole.loc[("ot", "sd"), "by_seed"][:2]


def test_a_run_without_the_entropy_loss_says_that_no_losses_are_compared(tmp_path):
    file = tmp_path / "out.html"
    write_comparison(collect_runs([make_run(tmp_path, name, seed=ord(name)) for name in "ab"]), file)
    assert "no losses are compared" in file.read_text()


def test_a_run_tells_its_digests_versions_time_and_what_its_intervals_do_not_cover(emotion_run, run_page):
    page = run_page.read_text()
    for told in ("a1" * 32, "b2" * 32, "c3" * 32, emotion_run.config_digest(), "2026-05-04T03:02:01Z", "torch 2.13.0",
                 "CPU (x86_64)", "This is one run of one seed"):  # fmt: skip
        assert told in page
    details = emotion_run.read_summary()["details"]
    change_summary(emotion_run, details={key: value for key, value in details.items() if key != "intervals"}, data={})
    write_report(emotion_run)
    assert "kept no interval" in run_page.read_text()


def test_the_digest_of_a_private_file_is_in_no_report(sweep, sweep_page):
    described = sweep / "sweep.toml"
    described.write_text(
        described.read_text().replace('task = "emotion"', 'task = "emotion"\n"data.clients" = "chats, films"')
        + f'\n[content]\nchats = "{"d4" * 32}"\nfilms = "{"e5" * 32}"\nforum = "{"f6" * 32}"\n'
    )
    write_comparison(read_sweep(sweep), sweep_page)
    page = sweep_page.read_text()
    assert f"<dt>SHA-256 of forum</dt><dd>{'f6' * 32}</dd>" in page
    assert "d4d4" not in page
    assert "e5e5" not in page


def test_a_hostile_name_is_no_formula_in_a_csv_file(tmp_path):
    folder = make_run(tmp_path, "hostile", clients=("a", '=HYPERLINK("x"),1'))
    write_report(folder)
    rows = table_of(files_of(folder.path / "report.html"), "bytes-by-client")
    assert rows[1]["client"] == "'" + '=HYPERLINK("x"),1'


def test_a_sweep_of_sixty_cells_is_reported_whole(tmp_path):
    sweep = make_sweep(tmp_path / "sweep", seeds=(1, 2))
    frame = pd.read_csv(sweep / "results.csv", dtype=str, keep_default_na=False)
    cells = frame[frame["line"] == "student after"]
    more = [cells.assign(weights=cells["weights"] + str(number)) for number in range(9)]
    pd.concat([frame, *more]).to_csv(sweep / "results.csv", index=False)
    write_comparison(read_sweep(sweep), sweep / "report.html")
    files = files_of(sweep / "report.html")
    assert len({row["line"] for row in table_of(files, "sd-by-seed")}) == 60 + 7
    assert "its CSV file has all" in (sweep / "report.html").read_text()
    assert max(len(content.splitlines()) for content in files.values()) < MOST_ROWS
