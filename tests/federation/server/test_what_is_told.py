"""The log, the summary and the tables report the same facts about a run."""

import json
import logging

import pytest

from knot_fed.errors import ConfigError
from knot_fed.fedavg_app import client_app as averaging
from knot_fed.fedavg_app import federate as average
from knot_fed.preflight import check_run
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from tests.fakes import InProcessGrid, virtual_clients
from tests.federation.server.test_federated_run import folder_of

pytestmark = pytest.mark.slow

QUICK = {"teacher.epochs": 1, "distill.epochs": 1, "fedavg.rounds": 1, "fedavg.epochs": 1}


def run(config, *, clients=3, federate=federate, **options):
    folder = RunFolder.create(folder_of(config), "run")
    federate(InProcessGrid(virtual_clients(config, clients), **options), config, folder)
    return folder.read_summary()


@pytest.mark.parametrize(("federate", "app"), [(federate, None), (average, averaging)])
def test_six_of_ten_is_said_in_the_log_and_in_the_summary(small, caplog, federate, app):
    caplog.set_level(logging.INFO, logger="knot_fed")
    options = {"app": app} if app else {}
    summary = run(small(QUICK), federate=federate, silent=(102,), **options)
    assert (summary["clients_answered"], summary["clients_total"]) == (2, 3)
    assert sorted(client["rounds"] for client in summary["clients"]) == [0, 1, 1]
    assert "round 1: 2 of 3 clients answered, 2 were asked" in caplog.messages
    assert "2 of 3 clients answered" in caplog.messages
    assert not any("pooled" in message and "teachers" in message for message in caplog.messages)


def test_a_run_that_fails_says_how_many_answered_too(small, caplog):
    caplog.set_level(logging.INFO, logger="knot_fed")
    with pytest.raises(Exception, match="min-teachers"):
        run(small(QUICK | {"min-teachers": 3}), silent=(102,))
    assert "0 of 3 clients answered" in caplog.messages


def test_a_client_called_like_the_public_file_has_a_domain_of_its_own(small, tmp_path):
    config = small(QUICK | {"data.clients": "phones,books"})
    summary = run(config, clients=2)
    assert set(summary["domains"]) == {"phones", "books", "books (public)"}
    assert summary["details"]["domain"] == "books (public)"
    sds = [domain["after"]["sd"] for domain in summary["domains"].values()]
    assert summary["student"]["after"]["sd"] == pytest.approx(sum(sds) / 3)
    assert "books (public)" in (folder_of(config) / "run/report.html").read_text()


def test_no_client_is_called_like_the_mean(small, tmp_path):
    (tmp_path / "data/mean.csv").write_text((tmp_path / "data/phones.csv").read_text())
    config = small(QUICK | {"data.clients": "phones,hotels,mean"})
    with pytest.raises(ConfigError, match=r"data\.clients has 'mean'"):
        check_run(config, clients=3)
    statuses = {client["name"]: client["status"] for client in run(config)["clients"]}
    assert [name for name in statuses if statuses[name] != "ok"] == ["node 102"]
    assert "is called mean" in statuses["node 102"]


def test_a_median_is_not_said_to_be_weighted_anywhere(small, caplog):
    caplog.set_level(logging.INFO, logger="knot_fed")
    keys = {"weights.scheme": "size", "weights.pooling": "median", "distill.objective": "pooled"}
    config = small(QUICK | keys)
    summary = run(config)
    assert summary["distillation"]["weights"] == "unweighted median"
    page = (folder_of(config) / "run/report.html").read_text()
    assert "unweighted median" in page
    assert not any("size weights" in text for text in (*caplog.messages, page, json.dumps(summary)))
