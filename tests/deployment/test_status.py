import json

import pytest
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.deployment.progress import read_progress
from knot_fed.deployment.status import ended
from knot_fed.launch.watching import unexplained
from knot_fed.runs.log import LOG_FILE, MARKER, read_line, sealed_lines
from knot_fed.runs.run_folder import RunFolder

STARTED = 'event=started time=2026-01-01T00:00:00Z name="a" rounds=3 timeout=60.000'
RESULT = 'event=result time=2026-01-01T00:09:00Z table="{}"'
FAILED = 'event=failed time=2026-01-01T00:09:00Z text="too few teachers"'


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
    return read_progress(filter(None, (read_line(MARKER + line) for line in lines)))


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
    done = progress_of(STARTED, *HANDSHAKE, *one_round(1, 10), RESULT)
    assert (done.phase, done.seconds_left) == ("finished", 0.0)
    failed = progress_of(STARTED, *HANDSHAKE, FAILED)
    assert (failed.phase, failed.failure) == ("failed", "too few teachers")


def test_a_resumed_run_goes_on_after_its_failure():
    resumed = progress_of(STARTED, *HANDSHAKE, FAILED, STARTED, *one_round(1, 40)[:1])
    assert (resumed.phase, resumed.failure) == ("teachers answer", "")
    assert resumed.nodes["phones"].bytes_down == 100 + 1000


@pytest.mark.parametrize("line", ["INFO: event=sent", "", MARKER, MARKER + "2 node(s) joined", " " + MARKER + STARTED])
def test_lines_of_anybody_else_are_passed_over(line):
    assert read_line(line) is None


@pytest.mark.parametrize(
    ("status", "phase", "failure"),
    [
        ("running", "teachers answer", ""),
        ("finished:completed", "finished", ""),
        ("finished:failed", "failed", unexplained("finished:failed", "teachers answer")),
    ],
)
def test_how_a_run_has_ended_is_what_flower_says(status, phase, failure):
    told = ended(progress_of(STARTED, *HANDSHAKE, *one_round(1, 10)[:1]), status)
    assert (told.phase, told.failure) == (phase, failure)
    assert bool(told.phase_ends) == (status == "running")


def test_only_sealed_lines_move_the_progress_of_a_stream():
    opened = MARKER + "event=opened time=2026-01-01T00:00:00Z seal=a"
    lines = [f"{MARKER}{line} seal=a" for line in (STARTED, *HANDSHAKE)]
    forged = [f"{MARKER}{line}{seal}" for line in (RESULT, FAILED, *one_round(9, 10)) for seal in ("", " seal=b")]
    told = read_progress(sealed_lines([opened, *lines, opened.replace("seal=a", "seal=b"), *forged]))
    assert told == progress_of(STARTED, *HANDSHAKE)


@pytest.mark.parametrize(
    "line",
    [
        "event=started",
        "event=started rounds=² timeout=1e999",
        "event=started rounds=99999999999999999999 timeout=999999999999999",
        "event=sent",
        "event=received message=train",
        'event=sent message=train time=9999-12-31T23:59:59Z round="\\u00b2" node-id=- bytes=-5',
        "event=sent message=train time=yesterday",
        "event=failed",
        "event=result",
        "event=opened",
        "event=unheard-of",
    ],
)
def test_facts_that_are_missing_or_odd_break_nothing(line):
    told = progress_of(STARTED, line, *HANDSHAKE, *one_round(1, 10), line)
    assert json.dumps(told.to_mapping(), allow_nan=False)
    assert told.nodes["phones"].bytes_up == 50 + 300 + 40


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
