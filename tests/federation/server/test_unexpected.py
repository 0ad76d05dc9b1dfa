"""An unexpected error is reported by phase, party and kind of error, and identically in every table."""

import io
from pathlib import Path

import pytest
from flwr.app import Error
from flwr.app.message import make_message
from flwr.serverapp import Grid
from rich.console import Console

from knot_fed.config import RunConfig
from knot_fed.errors import phase
from knot_fed.federation.server.run import run_in_folder
from knot_fed.runs.log import FAILED, LOG_FILE, read_line
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.tables import summary_table
from knot_fed.server_app import federate
from tests.fakes import InProcessGrid, context, virtual_clients

pytestmark = pytest.mark.slow

DIED = "<class 'ray.exceptions.ActorDiedError'>:<'The actor died: a private text'>"


def killed(kind, code=0, reason=DIED):
    """Kill the second client's process when it answers messages of one kind."""

    def tamper(reply):
        if reply.metadata.src_node_id != 101 or reply.metadata.message_type != kind:
            return reply
        return make_message(metadata=reply.metadata, error=Error(code, reason))

    return tamper


def run_with(config, tamper):
    grid = InProcessGrid(virtual_clients(config, 3), tamper=tamper)
    folder = RunFolder.create(Path(config.runs_dir), "run")
    folder.write_config(config.to_mapping())
    federate(grid, config, folder)
    return folder


def shown(summary):
    console = Console(file=io.StringIO(), width=300)
    console.print(summary_table(summary))
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        (0, DIED, "its process ended before it answered, killed or out of memory (ActorDiedError)"),
        (0, "a private text", "its process ended before it answered, killed or out of memory (Flower's error 0)"),
        (2, "<class 'a.b.ClientAppException'>:<'x'>", "its app raised an error (ClientAppException)"),
        (8, "", "its app ended before it answered, killed or out of memory (Flower's error 8)"),
        (99, "", "failed (Flower's error 99)"),
    ],
)
def test_a_client_that_dies_is_told_by_kind_and_never_by_what_it_says(small, code, reason, told):
    summary = run_with(small({"min-teachers": 2}), killed("train", code, reason)).read_summary()
    (status,) = [client["status"] for client in summary["clients"] if client["name"] == "restaurants"]
    assert status == f"rejected: {told}; see the client's log"
    assert "private" not in shown(summary)


def test_a_client_that_dies_after_its_answer_is_in_the_same_state_in_every_table(small):
    folder = run_with(small({"min-teachers": 2}), killed("evaluate"))
    summary = folder.read_summary()
    assert {client["name"] for client in summary["clients"] if client["unmeasured"]} == {"restaurants"}
    assert "restaurants" not in summary["domains"]
    metrics, _, clients = shown(summary).partition(" clients ")
    assert "not measured" in next(line for line in metrics.splitlines() if "restaurants" in line)
    why = "ok; not measured: its process ended before it answered, killed or out of memory (ActorDiedError)"
    assert why in clients
    assert shown(summary).count("not measured") == 4
    page = (folder.path / "report.html").read_text()
    assert why in page
    assert "not measured" in page.replace(why, "", 1)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_client_whose_process_died_once_is_asked_once_more_and_is_whole(small, kind):
    deaths = iter([killed(kind)])
    config = small({"min-teachers": 2})

    def dies_once(reply):
        died = killed(kind)(reply)
        return died if died is not reply and next(deaths, None) else reply

    summary = run_with(config, dies_once).read_summary()
    assert next(deaths, None) is None
    assert {client["status"] for client in summary["clients"]} == {"ok"}
    assert {client["unmeasured"] for client in summary["clients"]} == {""}
    assert set(summary["domains"]) == {"books", "phones", "restaurants", "hotels"}


def test_a_client_that_comes_after_the_first_measurement_is_in_the_same_state_in_every_table(small):
    deaths = iter(range(1))

    def late(reply):
        died = killed("query")(reply)
        return died if died is not reply and next(deaths, None) is not None else reply

    summary = run_with(small({"min-teachers": 2}), late).read_summary()
    states = {client["name"]: (client["status"], client["unmeasured"]) for client in summary["clients"]}
    assert states["restaurants"] == ("ok", "it was not there for the first measurement")
    assert "restaurants" not in summary["domains"]


def test_a_client_that_is_gone_at_the_last_measurement_has_no_metrics_of_an_earlier_student(small):
    asked = iter(range(9))

    def last(reply):
        """Kill it at the third measurement, also where it is asked once more."""
        died = killed("evaluate")(reply)
        return died if died is not reply and next(asked) >= 2 else reply

    summary = run_with(small({"min-teachers": 2, "rounds": 2}), last).read_summary()
    assert "restaurants" not in summary["domains"]
    assert {client["name"] for client in summary["clients"] if client["unmeasured"]} == {"restaurants"}


def test_a_client_that_failed_at_an_earlier_measurement_is_measured_at_the_end(small):
    asked = iter(range(4))

    def middle(reply):
        died = killed("evaluate")(reply)
        return died if died is not reply and next(asked) in (1, 2) else reply

    summary = run_with(small({"min-teachers": 2, "rounds": 2}), middle).read_summary()
    assert "restaurants" in summary["domains"]
    assert {client["unmeasured"] for client in summary["clients"]} == {""}


def test_a_run_whose_clients_are_all_measured_tells_of_none_that_is_not(small):
    summary = run_with(small(), lambda reply: reply).read_summary()
    assert "not measured" not in shown(summary)


def test_an_unexpected_error_of_the_server_app_is_one_sentence_in_its_log(small):
    def breaks(grid: Grid, config: RunConfig, folder: RunFolder) -> None:
        with phase("the run"), phase("distillation of round 1"):
            raise ZeroDivisionError("a private text")

    config = small({"name": "broken"})
    with pytest.raises(ZeroDivisionError):
        run_in_folder(InProcessGrid({}), context(config, node={}, node_id=1), breaks)
    lines = (Path(config.runs_dir) / "broken" / LOG_FILE).read_text().splitlines()
    (failed,) = [line for line in map(read_line, lines) if line and line.event == FAILED]
    told = failed.text("text")
    assert told.startswith("the server app: distillation of round 1 failed with ZeroDivisionError at ")
    assert "test_unexpected.py:" in told
    assert "private" not in told
