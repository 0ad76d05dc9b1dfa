import re
import socket

import pytest
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.deployment.client_check import check_client
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.privacy.ledger.ledger import Ledger
from tests.conftest import ROOT
from tests.models.tiny_models import tokenizer_of_words, write_bert

CANARY = "zugzwang"


@pytest.fixture
def settings(tmp_path):
    """A client with nothing wrong."""
    labels = ["very negative", "negative", "neutral", "positive", "very positive"]
    rows = [f"{CANARY} {index},{labels[index % 5]}" for index in range(100)]
    (tmp_path / "private.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "transfer.csv").write_text("text\n" + "\n".join(f"public {index}" for index in range(30)) + "\n")
    (tmp_path / "policy.toml").write_text("max-texts-in-life = 100\n")
    (tmp_path / "state").mkdir()
    paths = {"data": "private.csv", "transfer": "transfer.csv", "policy": "policy.toml", "state-dir": "state"}
    return {"name": "hospital-a", **{key: str(tmp_path / file) for key, file in paths.items()}}


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def outcomes(findings):
    return {finding.check: finding.outcome for finding in findings}


def details(findings):
    return " | ".join(finding.detail for finding in findings)


def command(settings, *options):
    pairs = " ".join(f'{key}="{value}"' for key, value in settings.items())
    return CliRunner().invoke(app, ["client", "check", "--app", str(ROOT), "--node-config", pairs, *options])


def test_a_client_with_nothing_wrong_passes_every_check_and_changes_nothing(run_config, settings, tmp_path, no_network):
    before = sorted(tmp_path.rglob("*"))
    findings = check_client(run_config(), settings)
    assert set(outcomes(findings).values()) == {"ok"}
    assert "very negative 20" in details(findings)
    counts = re.search(r"about train (\d+), val (\d+), test (\d+); 5 classes", details(findings))
    assert sum(map(int, counts.groups())) == 100
    assert "30 texts, fingerprint" in details(findings)
    assert CANARY not in details(findings)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_owner_of_one_label_is_told_what_its_teacher_is(run_config, settings, tmp_path, no_network):
    (tmp_path / "private.csv").write_text("text,label\n" + "".join(f"{row},neutral\n" for row in range(60)))
    findings = check_client(run_config(), settings)
    assert set(outcomes(findings).values()) == {"ok"}
    assert "a teacher of one label is a constant" in details(findings)


def test_every_problem_is_found_not_only_the_first(run_config, settings, tmp_path, no_network):
    (tmp_path / "private.csv").write_text(f"text,label,split\n{CANARY},sunny,train\n,neutral,{CANARY}\n")
    (tmp_path / "policy.toml").write_text("max-texts = 5\n")
    (tmp_path / "transfer.csv").write_text("column\nx\n")
    settings |= {"name": "two words", "state-dir": "relative", "dta": "x", "model": "hf:" + str(tmp_path / "absent")}
    findings = check_client(run_config(), settings)
    found = [finding.check for finding in findings if finding.outcome == "problem"]
    assert found.count("settings") == 2
    assert {"name", "policy", "texts", "labels", "splits in the file", "transfer set", "state folder"} <= set(found)
    assert CANARY not in details(findings)


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        ({"data": "/absent.csv"}, "private file", "no such file"),
        ({"model": "ngram"}, "model", "no model"),
        ({"model": "hf:/absent"}, "model", "hf:/absent"),
        ({"policy": "/absent.toml"}, "policy", "cannot be read"),
        ({"label": "grade"}, "labels", "no column 'grade'"),
        ({"state-dir": "/etc/hostname/state"}, "state folder", "cannot be written"),
    ],
)
def test_a_problem_names_what_to_mend(run_config, settings, no_network, change, check, message):
    findings = check_client(run_config(), settings | change)
    assert outcomes(findings)[check] == "problem"
    assert message in details(findings)


def test_a_spent_ledger_is_a_problem(run_config, settings, tmp_path):
    Ledger(tmp_path / "state").record(LedgerEntry(run="1", round=1, texts=90, fresh=90))
    findings = check_client(run_config(), settings)
    assert outcomes(findings)["releases so far"] == "problem"
    assert "90 of max-texts-in-life = 100 used" in details(findings)


def test_texts_that_are_asked_in_every_round_count_in_every_round(run_config, settings):
    (told,) = [each.detail for each in check_client(run_config(), settings) if each.check == "releases so far"]
    texts = int(told.rpartition(", ")[2].split()[0])
    rounds = 100 // texts + 1
    sliced = check_client(run_config(keys={"rounds": rounds}), settings)
    assert outcomes(sliced)["releases so far"] == "ok"
    again = check_client(run_config(keys={"rounds": rounds, "round-texts": "all"}), settings)
    assert outcomes(again)["releases so far"] == "problem"
    assert f"{rounds * texts} texts asked with 0 of max-texts-in-life = 100 used" in details(again)


def test_evaluations_of_earlier_runs_count_for_metrics(run_config, settings, tmp_path):
    (tmp_path / "policy.toml").write_text("max-evaluations-in-life = 3\n")
    Ledger(tmp_path / "state").record(LedgerEntry(run="1", evaluations=2))
    (told,) = [each.detail for each in check_client(run_config(), settings) if each.check == "run under the policy"]
    assert told == "not given: metrics of more than 1 of the 2 students"


def test_a_state_folder_that_others_may_enter_is_told(run_config, settings, tmp_path):
    (tmp_path / "state").chmod(0o700)
    assert "open to other users" not in details(check_client(run_config(), settings))
    (tmp_path / "state").chmod(0o775)
    assert "exists, but open to other users: chmod 700, writable" in details(check_client(run_config(), settings))


def test_a_hub_id_is_left_to_the_network(run_config, settings, no_network):
    assert outcomes(check_client(run_config(), settings | {"model": "hf:some/model"}))["model"] == "not checked"


def test_the_owners_model_is_tried(run_config, settings, tmp_path, no_network):
    settings["model"] = write_bert(tmp_path / "m")
    (found,) = [finding for finding in check_client(run_config(), settings) if finding.check == "model"]
    assert (found.outcome, found.detail) == (
        "ok",
        f"{settings['model']}: tried, 0.0 million parameters to train; reads 64 tokens of an example, fewer than"
        " max-length",
    )


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (tokenizer_of_words("дом"), "its tokenizer knows no part of the first 20 transfer texts; use a model of"),
        (tokenizer_of_words(), "or its files are missing; add the files"),
    ],
)
def test_an_owners_model_that_reads_nothing_of_the_texts_is_a_problem(
    run_config, settings, tmp_path, no_network, tokenizer, message
):
    settings["model"] = write_bert(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    findings = check_client(run_config(), settings)
    assert outcomes(findings)["model"] == "problem"
    assert message in details(findings)


def test_the_command_prints_the_table_and_ends_with_one_sentence(settings):
    passed = command(settings)
    assert passed.exit_code == 0, passed.output
    assert "hospital-a" in passed.output
    failed = command(settings | {"data": "/absent.csv", "policy": "/absent.toml"})
    assert failed.exit_code == 1
    assert "checks found a problem: policy, private file" in failed.output
    assert CANARY not in passed.output + failed.output


@pytest.mark.parametrize(
    ("policy", "keys", "outcome", "said"),
    [
        ("", {}, "ok", "nothing that the run asks for is refused"),
        ("", {"teacher.start": "both"}, "problem", "set accept-student = true"),
        ("accept-student = true", {"teacher.start": "student"}, "ok", "nothing"),
        ("require-secure-sum = true", {}, "problem", "only in a secure sum"),
        ('require = ["dp-sgd"]', {}, "problem", "is less than the policy asks; use dp-sgd"),
        ("max-epsilon = 4", {}, "problem", "beyond max-epsilon = 4"),
        ("max-epsilon = 4", {"privacy.mechanism": "dp-sgd", "privacy.epsilon": 2.0}, "ok", "given: metrics of any "),
        ("take-part-in-evaluation = false", {"rounds": 3}, "ok", "not given: metrics of any student"),
        ("max-evaluations-per-run = 4", {"rounds": 3}, "ok", "nothing that the run asks for is refused"),
        ("max-evaluations-per-run = 4", {"rounds": 4}, "ok", "not given: metrics of more than 4 of the 5 students"),
        ("max-evaluations-per-run = 3", {"personal.consensus": "pooled"}, "ok", "not given: metrics of the personal"),
        (
            'require = ["dp-sgd"]\nevaluate-without-guarantee = true',
            {"privacy.mechanism": "dp-sgd", "personal.consensus": "student"},
            "ok",
            "nothing that the run asks for is refused",
        ),
        (
            "accept-student = true",
            {"privacy.mechanism": "dp-sgd", "personal.consensus": "student"},
            "ok",
            "not given: metrics of the personal model",
        ),
        ("share-confidences = false", {"weights.scheme": "selective"}, "ok", "not given: scores for each text"),
        ("share-example-counts = false", {"weights.scheme": "size"}, "ok", "not given: the number of examples"),
        ("accept-consensus = false", {"personal.consensus": "pooled"}, "ok", "not given: a personal model"),
        (
            "share-confidences = false",
            {"weights.scheme": "confidence", "privacy.secure-sum": True, "distill.objective": "pooled"},
            "problem",
            "adds up scores that the policy withholds",
        ),
    ],
)
def test_a_run_is_held_against_the_policy(run_config, settings, tmp_path, policy, keys, outcome, said):
    (tmp_path / "policy.toml").write_text(policy + "\n")
    found = [
        finding for finding in check_client(run_config(keys=keys), settings) if finding.check == "run under the policy"
    ]
    assert [finding.outcome for finding in found] == [outcome]
    assert said in found[0].detail
