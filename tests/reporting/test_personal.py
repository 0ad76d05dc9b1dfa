"""The report shows what taking part gave each client."""

import csv
import io

from knot_fed.reporting.report import write_report
from tests.reporting.made_up import change_summary, make_run
from tests.reporting.test_figure_files import files_of
from tests.reporting.test_report import Checker

REASON = "not connected when the consensus was sent"


def with_personal(folder, clients):
    settings = {"consensus": "pooled", "when": "end", "loss": "ot", "weight": 1.0, "epochs": 10, "learning_rate": 0.0}
    change_summary(folder, personal={**settings, "clients": clients})
    write_report(folder)
    return folder.path / "report.html"


def test_every_client_has_its_three_models_in_table_and_pictures(tmp_path):
    folder = make_run(tmp_path, "run")
    domains = folder.read_summary()["domains"]
    clients = {name: domains[name] for name in ("chats", "films")} | {"radio": {"reason": REASON}}
    page = with_personal(folder, clients)
    checker = Checker(page.read_text())
    text = " ".join(checker.text)
    assert "What taking part gave each client: Semantic Distance -" in text
    assert "better for 2 of 2" in text
    assert text.count("its personal model") >= 3
    assert REASON in text
    assert checker.counts["img"] == checker.counts["figure"] == 14
    for key in ("sd", "macro_f1"):
        (content,) = (
            text for name, text in files_of(page).items() if name.endswith(f"personal-{key}.csv".replace("_", "-"))
        )
        for row in csv.DictReader(io.StringIO(content)):
            told = domains[row["client"]]
            assert float(row["its teacher alone"]) == told["before"][key]
            assert float(row["its personal model"]) == told["after"][key]
            assert float(row["the student"]) == told["after"][key]


def test_a_run_whose_clients_all_keep_their_metrics_says_so(tmp_path):
    page = with_personal(make_run(tmp_path, "run"), {"chats": {"reason": REASON}})
    checker = Checker(page.read_text())
    text = " ".join(checker.text)
    assert "no client told its metrics" in text
    assert checker.counts["img"] == 12


def test_a_run_without_a_consensus_has_no_such_section(tmp_path):
    folder = make_run(tmp_path, "run")
    write_report(folder)
    assert "Personal models" not in " ".join(Checker((folder.path / "report.html").read_text()).text)
