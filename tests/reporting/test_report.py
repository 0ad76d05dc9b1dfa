import base64
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.errors import RunFolderError
from knot_fed.reporting.comparison import write_comparison
from knot_fed.reporting.report import write_report
from knot_fed.runs.results import collect_runs, read_sweep
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.statistics import half_interval, summarise_lines
from tests.reporting.made_up import change_summary, make_run, make_sweep

VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Counts tags, refuses those that do not nest, and keeps every attribute value."""

    def __init__(self, page):
        super().__init__()
        self.open, self.counts, self.attributes, self.text = [], {}, [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def values(self, tag, name):
        return [value for *where, value in self.attributes if where == [tag, name]]


def page_of(folder):
    write_report(folder)
    return (folder.path / "report.html").read_text(encoding="utf-8")


def compared(tmp_path, results):
    write_comparison(results, tmp_path / "out.html")
    return (tmp_path / "out.html").read_text(encoding="utf-8")


def call(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.mark.parametrize(("task", "figures"), [("emotion", 12), ("sentiment", 12), ("nli", 12)])
def test_a_run_report_has_every_figure_described_and_every_head_scoped(tmp_path, task, figures):
    checker = Checker(page_of(make_run(tmp_path, task, task=task)))
    assert checker.counts["img"] == checker.counts["figure"] == figures
    assert checker.counts["caption"] == checker.counts["table"] == 2 + figures
    assert all(len(words) > 20 for words in checker.values("img", "alt"))
    assert len(checker.values("th", "scope")) == checker.counts["th"]


def test_no_report_asks_the_network_for_anything(emotion_run, sweep, tmp_path):
    for page in (page_of(emotion_run), compared(tmp_path, read_sweep(sweep))):
        checker = Checker(page)
        drawings = [base64.b64decode(source.partition(",")[2]).decode() for source in checker.values("img", "src")]
        assert all(source.startswith("data:image/svg+xml;base64,") for source in checker.values("img", "src"))
        assert "link" not in checker.counts
        assert not checker.values("script", "src")
        assert not re.search(r"(?:https?:)?//\w", page)
        assert not any(re.search(r"(?:href|src)=.https?:|url\(\W?http|@import", drawing) for drawing in drawings)


def test_the_same_input_gives_the_same_report(emotion_run, sweep, tmp_path):
    assert page_of(emotion_run) == page_of(emotion_run)
    assert compared(tmp_path, read_sweep(sweep)) == compared(tmp_path, read_sweep(sweep))


def test_names_are_escaped_and_drawn_as_they_are(tmp_path):
    name = "<script>$x_{</script>'\"&日本"
    folder = make_run(tmp_path, "hostile", clients=("a", name))
    change_summary(folder, error=f"client {name} fell over")
    checker = Checker(page_of(folder))
    assert checker.counts["script"] == 1
    assert name in checker.text
    assert f"The run failed: client {name} fell over" in checker.text


def test_a_failed_run_shows_why_and_its_clients(tmp_path):
    folder = make_run(tmp_path, "failed")
    change_summary(folder, error="too few", domains={}, student={"before": None, "after": None}, details={})
    (folder.path / "rounds.jsonl").unlink()
    checker = Checker(page_of(folder))
    assert "The run failed: too few" in checker.text
    assert checker.counts["table"] == 1
    assert "img" not in checker.counts


def test_labels_in_three_dimensions_have_no_drawing_of_their_space(tmp_path):
    folder = make_run(tmp_path, "solid", task="nli")
    change_summary(folder, coordinates=np.eye(3).tolist())
    assert Checker(page_of(folder)).counts["img"] == 10


def test_runs_that_differ_only_in_the_seed_are_one_cell(tmp_path):
    folders = [
        make_run(tmp_path, f"{loss}-{seed}", seed=seed, loss=loss) for loss in ("ot", "entropy") for seed in (1, 2, 3)
    ]
    results = collect_runs(folders)
    lines = summarise_lines(results.frame, results.further_keys)
    assert lines[["line", "loss", "seeds"]].to_numpy().tolist() == [
        ["student after", "entropy", 3],
        ["student after", "ot", 3],
        ["student before", "", 3],
    ]
    sds = [folder.read_summary()["student"]["after"]["sd"] for folder in folders[:3]]
    assert np.isclose(lines.loc[1, "sd"], np.mean(sds))
    cells = re.search(r"<table class='sortable'>.*?</table>", compared(tmp_path, results), re.DOTALL)
    assert Checker(cells.group()).counts["tr"] == 4


def fedavg(folder):
    summary = folder.read_summary()
    del summary["distillation"]
    facts = {"rounds": 5, "epochs": 1, "kept": "the last round", "seconds": 9.0, "bytes_up_in_training": 1}
    (folder.path / "summary.json").write_text(json.dumps(summary | {"fedavg": facts}))
    (folder.path / "rounds.jsonl").unlink()
    return folder


def test_a_report_tells_of_a_student_that_kept_its_start(tmp_path):
    moved, kept = (make_run(tmp_path, name, unmoved=count, saturated=0.62) for name, count in (("a", 0), ("b", 1)))
    told = "1 round(s) left the student unchanged: no epoch lowered its held-out loss; 62% of the transfer texts"
    assert told in page_of(kept)
    assert "left the student unchanged" not in page_of(moved)


def test_a_run_of_before_a_metric_is_shown_without_it(tmp_path):
    folder = make_run(tmp_path, "a")
    file = folder.path / "summary.json"
    file.write_text(json.dumps(without_key(json.loads(file.read_text()), "sd_calibrated")))
    assert "nan → nan" in page_of(folder)
    assert np.isnan(folder.read_summary()["student"]["after"]["sd_calibrated"])


def without_key(value, key):
    if isinstance(value, dict):
        return {name: without_key(part, key) for name, part in value.items() if name != key}
    return [without_key(part, key) for part in value] if isinstance(value, list) else value


def test_a_run_of_fedavg_has_a_report_and_is_a_reference_line_beside_others(tmp_path):
    reference, run = fedavg(make_run(tmp_path, "reference")), make_run(tmp_path, "run")
    assert "federated averaging, 5 round(s)" in page_of(reference)
    results = collect_runs([reference, run])
    assert set(summarise_lines(results.frame, [])["line"]) == {"student before", "student after", "fedavg"}
    assert "FedAvg: 1.4 MB" in compared(tmp_path, results)
    with pytest.raises(RunFolderError, match="none of these runs distilled"):
        collect_runs([reference])


def test_the_same_seed_run_twice_counts_once(tmp_path):
    folders = [make_run(tmp_path, name, seed=seed) for name, seed in (("a", 1), ("again", 1), ("b", 2))]
    lines = summarise_lines(collect_runs(folders).frame, [])
    values = [folders[place].read_summary()["student"]["after"]["sd"] for place in (0, 2)]
    assert lines["seeds"].tolist() == [2, 2]
    assert np.isclose(lines.loc[0, "sd_half"], half_interval(np.array(values)))


def test_folders_of_the_machine_stay_out_of_reports(tmp_path):
    folders = []
    for model in ("/secret/place/encoders/mini", "/secret/place/encoders/maxi"):
        folder = make_run(tmp_path, model[-4:])
        file = folder.path / "config.toml"
        file.write_text(file.read_text().replace("tiny-bert", f"hf:{model}"))
        folders.append(folder)
    pages = [*map(page_of, folders), compared(tmp_path, collect_runs(folders))]
    assert all("hf:…/encoders/m" in page for page in pages)
    assert not any("secret" in page for page in pages)


def test_tasks_stand_side_by_side_in_parts_of_their_own(tmp_path):
    results = collect_runs([make_run(tmp_path, task, task=task) for task in ("nli", "emotion")])
    page = compared(tmp_path, results)
    assert page.index("All cells, emotion") < page.index("All cells, nli")


def test_a_sweep_shows_its_cells_references_verdicts_and_fedavg(sweep, tmp_path):
    checker = Checker(compared(tmp_path, read_sweep(sweep)))
    assert {"centralised", "ensemble", "teacher chats", "▲ better", "= undecided"} <= set(checker.text)
    assert any("FedAvg: 1,170.0 MB" in text for text in checker.text)


def test_the_gap_closed_is_the_share_of_the_way_to_the_centralised_student(sweep):
    frame = read_sweep(sweep).frame
    lines = summarise_lines(frame, [])
    sd = frame[frame["domain"] == "mean"].groupby(["line", "loss", "weights"])["sd"].mean()
    start, best = sd["student before", "", ""], sd["centralised", "", ""]
    cells = lines[lines["line"] == "student after"]
    for cell in cells.to_dict("records"):
        after = sd["student after", cell["loss"], cell["weights"]]
        assert np.isclose(cell["closed_sd"], (start - after) / (start - best))
    assert lines[lines["line"] != "student after"]["closed_sd"].isna().all()


def test_a_seed_without_a_centralised_student_does_not_count_for_the_gap(sweep):
    frame = read_sweep(sweep).frame
    without = frame[~((frame["line"] == "centralised") & (frame["seed"] > 1))].copy()
    without.loc[(without["line"] == "student after") & (without["seed"] > 1), "sd"] += 5
    first = frame[frame["seed"] == 1]
    found, expected = (
        lines[lines["line"] == "student after"].set_index("name")["closed_sd"]
        for lines in (summarise_lines(table, []) for table in (without, first))
    )
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index())


def test_without_a_centralised_student_the_gap_ends_at_the_ensemble_of_the_same_weights(sweep):
    frame = read_sweep(sweep).frame
    lines = summarise_lines(frame[frame["line"] != "centralised"], [])
    cells = lines[lines["line"] == "student after"].set_index("weights")["closed_sd"]
    assert cells["confidence"].notna().all()
    assert cells["uniform"].isna().all()


def test_intervals_are_those_of_the_t_test():
    values = np.random.default_rng(3).normal(size=7)
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    assert np.isclose(half_interval(values), (interval.high - interval.low) / 2)
    assert np.isnan(half_interval(values[:1]))


def test_further_keys_of_the_grid_tell_cells_apart(sweep):
    for name in ("results", "comparison"):
        file = sweep / f"{name}.csv"
        head, *rows = file.read_text().splitlines()
        lines = [f"{head},distill.temperature", *(f"{row},{place % 2 + 1}.0" for place, row in enumerate(rows))]
        file.write_text("\n".join(lines))
    results = read_sweep(sweep)
    assert results.further_keys == ["distill.temperature"]
    assert set(results.frame["distill.temperature"]) == {"1.0", "2.0"}


def test_report_of_one_run_replaces_its_own(emotion_run):
    file = emotion_run.path / "report.html"
    file.write_text("an old one")
    result = call(emotion_run.path)
    assert result.exit_code == 0, result.output
    assert str(file) in result.output
    assert "<table" in file.read_text()


def test_report_of_a_sweep_is_in_its_folder(sweep):
    assert call(sweep).exit_code == 0
    assert (sweep / "report.html").is_file()


def test_report_of_several_runs_replaces_a_report_but_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [make_run(tmp_path / "runs", f"run-{seed}", seed=seed).path for seed in (1, 2)]
    assert call(*folders).exit_code == 0
    assert call(*folders).exit_code == 0
    assert (tmp_path / "comparison-report.html").is_file()
    thesis = tmp_path / "thesis.html"
    thesis.write_text("years of work")
    refused = call(*folders, "--out", thesis)
    assert refused.exit_code == 1
    assert "thesis.html: already exists and is not a knot_fed report; give another file by --out" in refused.stderr
    assert thesis.read_text() == "years of work"


def broken(file, change):
    def spoil(run, sweep):
        target = (sweep if file in ("results.csv", "comparison.csv", "sweep.toml") else run) / file
        text = target.read_text()
        target.unlink() if change is None else target.write_text(change(text))
        return sweep if target.parent == sweep else run

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda run, sweep: run.parent / "absent", "not a run folder"),
        (broken("summary.json", lambda text: text[:40]), "summary.json missing or unreadable"),
        (
            broken("summary.json", lambda text: text.replace("distillation", "distilling")),
            "lacks distillation or fedavg",
        ),
        (broken("results.csv", lambda text: text.replace("student after", "someone")), "finish the sweep first"),
        (broken("results.csv", lambda text: text.replace(",300,102000", ",300,many")), "cannot be read as a table"),
        (broken("config.toml", lambda text: text + "["), "config.toml: not valid TOML"),
        (broken("rounds.jsonl", lambda text: text + "{"), "not valid JSON lines"),
        (broken("results.csv", lambda text: text.replace("macro_f1", "f1", 1)), "column(s) macro_f1 missing"),
        (broken("results.csv", lambda text: ""), "cannot be read as a table"),
        (broken("comparison.csv", None), "cannot be read as a table"),
        (broken("sweep.toml", None), "sweep.toml missing or unreadable"),
    ],
)
def test_a_broken_input_is_one_sentence_and_exit_1(emotion_run, sweep, spoil, reason):
    result = call(spoil(emotion_run.path, sweep))
    assert result.exit_code == 1
    assert reason in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_sweep_beside_other_folders_and_a_failed_run_among_several_are_refused(emotion_run, sweep, tmp_path):
    assert "report each sweep alone" in call(emotion_run.path, sweep).stderr
    failed = RunFolder(tmp_path / "failed")
    shutil.copytree(emotion_run.path, failed.path)
    change_summary(failed, error="too few", domains={})
    with pytest.raises(RunFolderError, match="there is nothing to compare"):
        collect_runs([emotion_run, failed])


def test_one_seed_without_traffic_or_references_makes_a_report(tmp_path):
    sweep = make_sweep(tmp_path / "bare", seeds=(1,))
    frame = read_sweep(sweep).frame
    frame = frame[frame["line"].isin(["student after"])].assign(bytes_up=np.nan)
    frame.to_csv(sweep / "results.csv", index=False)
    assert "What it costs" not in compared(tmp_path, read_sweep(sweep))
