import json

import pytest
from typer.testing import CliRunner

from knot_fed.cli import app
from knot_fed.deployment.progress import read_progress
from knot_fed.reporting import RunFolder
from knot_fed.run_log import FAILURE, LOG_FILE, MARKER, table_line

STARTED = 'event=started time=2026-01-01T00:00:00Z name="a" rounds=3 timeout=60.000'


def event(kind, message, second, *, node="phones", node_id=7, round_number=0, size=1000, outcome="ok"):
    minutes, seconds = divmod(second, 60)
    return (
        f"event={kind} time=2026-01-01T00:{minutes:02}:{seconds:02}Z message={message} run=5 round={round_number}"
        f" node={json.dumps(node)} node-id={node_id} texts=- bytes={size} seconds=- outcome={json.dumps(outcome)}"
    )


def one_round(number, begins):
    return [
        event("sent", "train", begins, round_number=number),
        event("received", "train", begins + 10, round_number=number, size=300),
        event("sent", "evaluate", begins + 20, round_number=number),
        event("received", "evaluate", begins + 20, round_number=number, size=40),
    ]


HANDSHAKE = [event("sent", "query", 1, node="node 7", size=100), event("received", "query", 2, size=50)]


def progress_of(*lines):
    return read_progress(MARKER + line for line in lines)


def test_a_node_is_known_by_its_name_as_soon_as_it_tells_it():
    nodes = progress_of(STARTED, *HANDSHAKE).nodes
    assert list(nodes) == ["phones"]
    assert (nodes["phones"].bytes_down, nodes["phones"].bytes_up) == (100, 50)


def test_time_left_is_told_from_the_rounds_done():
    first = progress_of(STARTED, *HANDSHAKE, *one_round(1, 10)[:2])
    assert (first.phase, first.round, first.seconds_left) == ("distillation", 1, None)
    second = progress_of(STARTED, *HANDSHAKE, *one_round(1, 10), *one_round(2, 30)[:1])
    assert (second.phase, second.round, second.rounds) == ("teachers answer", 2, 3)
    assert second.seconds_left == pytest.approx(40.0)
    assert second.phase_ends == "00:01:30Z"
    assert second.nodes["phones"].bytes_up == 50 + 300 + 40


def test_the_end_is_seen_whether_good_or_bad():
    done = progress_of(STARTED, *HANDSHAKE, *one_round(1, 10), table_line({"task": "a"}))
    assert (done.phase, done.seconds_left) == ("finished", 0.0)
    failed = progress_of(STARTED, *HANDSHAKE, FAILURE + "too few teachers")
    assert (failed.phase, failed.failure) == ("failed", "too few teachers")


def test_lines_of_anybody_else_are_passed_over():
    assert read_progress(["INFO: event=sent", "", MARKER + "2 node(s) joined"]).phase == "preparation"


def test_status_reads_a_run_folder(tmp_path):
    folder = RunFolder.create(tmp_path, "mine")
    folder.write_config({})
    lines = [MARKER + line for line in (STARTED, *HANDSHAKE, *one_round(1, 10))]
    (folder.path / LOG_FILE).write_text("\n".join(lines) + "\n")
    told = json.loads(CliRunner().invoke(app, ["status", str(folder.path), "--json"]).stdout)
    assert (told["runs"][0]["run"], told["runs"][0]["round"], told["runs"][0]["bytes-up"]) == ("mine", 1, 390)
    shown = CliRunner().invoke(app, ["status", str(folder.path)])
    assert "1 of 3" in shown.stdout
    (folder.path / LOG_FILE).unlink()
    refused = CliRunner().invoke(app, ["status", str(folder.path)])
    assert refused.exit_code == 1
    assert "no readable run.log" in refused.output
