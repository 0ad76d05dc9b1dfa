import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.errors import FederationError
from knot_fed.launch.watching import Watched, check_completed, watch
from knot_fed.runs.log import MARKER, write_line

OPENED = write_line({"event": "opened", "seal": "ours"})
RESULT = write_line({"event": "result", "table": '{"task": "ours"}', "seal": "ours"})
FAILED = write_line({"event": "failed", "text": "too few teachers", "seal": "ours"})
STARTED = "Successfully started run 5 in federation @none/default"
TABLE = json.dumps({"task": "forged"})
FORGED = [
    f"{MARKER}the table: {TABLE}",
    f"{MARKER}the run failed: all is well",
    write_line({"event": "result", "table": TABLE}),
    write_line({"event": "result", "table": TABLE, "seal": "theirs"}),
    write_line({"event": "opened", "seal": "theirs"}),
    write_line({"event": "failed", "text": "all is well", "seal": "theirs"}),
    f"(ClientAppActor pid=7) {RESULT}",
    f"{MARKER}event=note text={RESULT}",
    "Successfully started run 6",
]
LETTERS = st.text(max_size=30) | st.sampled_from([*FORGED, OPENED, RESULT, "\r", "\x1b[31m", '"', " seal=ours"])


def seen(*lines, **options):
    echoed = []
    watched = watch(lines, echo=echoed.append, **options)
    return watched, echoed


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("verbose", [False, True])
def test_nobody_else_tells_a_runs_number_table_or_failure(forged, verbose):
    watched, _ = seen(STARTED, OPENED, forged, verbose=verbose)
    assert (watched.number, watched.table, watched.failure) == ("5", None, "")
    assert seen(STARTED, OPENED, forged, RESULT, forged)[0].table == {"task": "ours"}
    assert seen(STARTED, OPENED, forged, FAILED, forged)[0].failure == "too few teachers"


@given(st.lists(LETTERS.filter(lambda text: text not in (OPENED, RESULT)), max_size=8), st.booleans())
def test_no_lines_break_the_watching_or_forge_a_result(lines, verbose):
    watched, echoed = seen(STARTED, OPENED, *lines, verbose=verbose)
    assert (watched.number, watched.table) == ("5", None)
    assert "".join(echoed).isprintable()


@given(st.lists(LETTERS, max_size=4).map("".join))
def test_a_text_in_a_note_forges_nothing_and_is_shown_on_one_line(text):
    line = write_line({"event": "note", "text": text, "seal": "ours"})
    watched, echoed = seen(STARTED, OPENED, *line.splitlines())
    assert (watched.table, watched.failure, len(echoed)) == (None, "", 1)
    assert echoed[0].startswith(MARKER)
    assert echoed[0].isprintable()


def test_notes_are_shown_as_people_read_them_and_events_are_not():
    note = write_line({"event": "note", "text": "round 1: pooled 4 teachers", "seal": "ours"})
    sent = write_line({"event": "sent", "message": "train", "outcome": "ok", "seal": "ours"})
    client = write_line({"event": "note", "text": "a train failed with ValueError"})
    actor = f"\x1b[36m(ClientAppActor pid=7541)\x1b[0m {client}"
    _, echoed = seen(STARTED, OPENED, note, sent, actor, client, RESULT)
    assert echoed == ["knot_fed: round 1: pooled 4 teachers", "knot_fed: a train failed with ValueError"]


def test_verbose_shows_every_line_but_the_result_and_nothing_that_a_terminal_acts_on():
    _, echoed = seen(STARTED, "\x1b[92mINFO \x1b[0m:   ready\x07", OPENED, RESULT, FAILED, verbose=True)
    assert echoed == [STARTED, "INFO :   ready", OPENED, FAILED]


@pytest.mark.parametrize(
    ("number", "listed", "sentence"),
    [
        ("0", "", "the run never started .no such federation"),
        ("5", "", "disappeared during run 5"),
        ("5", "[]", "disappeared during run 5"),
        ("5", '{"runs": [7]}', "disappeared during run 5"),
        ("5", "[" * 10**5, "disappeared during run 5"),
        ("5", '{"runs": [{"status": "running"}]}', "the run continues .running., but its log was interrupted"),
        ("5", '{"runs": [{"status": "finished:failed"}]}', "too few teachers"),
        ("5", '{"runs": [{"status": "finished:stopped"}]}', "too few teachers"),
    ],
)
@pytest.mark.parametrize("table", [None, {"task": "ours"}])
def test_any_end_but_a_completed_run_is_one_sentence(number, listed, sentence, table):
    tail = [] if number == "5" else ["╭ no such federation ╮"]
    with pytest.raises(FederationError, match=sentence):
        check_completed(listed, Watched(number, table, "too few teachers", tail))
    if number == "5":
        check_completed('{"runs": [{"status": "finished:completed"}]}', Watched(number, table, "", tail))


TRACEBACK = [
    "ERROR :     Traceback (most recent call last):",
    '  File "pool.py", line 136, in pool_size',
    "    raise ValueError(",
    "ValueError: ActorPool is empty.",
    "The above exception was the direct cause of the following exception:",
    "Traceback (most recent call last):",
    "RuntimeError: Simulation Runtime crashed.",
]
SENT = write_line({"event": "sent", "message": "query", "outcome": "ok", "seal": "ours"})


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "ended before its server app had started (no error was logged"),
        (TRACEBACK, "ended before its server app had started (ValueError: ActorPool is empty)"),
        ([OPENED, *TRACEBACK], "ended during preparation (ValueError: ActorPool is empty)"),
        ([OPENED, SENT, *TRACEBACK], "ended during handshake (ValueError: ActorPool is empty)"),
        ([*TRACEBACK, OPENED, SENT, TRACEBACK[0], "KeyError: 3"], "ended during handshake (KeyError: 3)"),
        ([OPENED, SENT], "ended during handshake (no error was logged, so it was killed"),
        ([OPENED, SENT, TRACEBACK[0], "x" * 10**5], "ended during handshake (" + "x" * 200 + ")"),
    ],
)
def test_a_run_that_ends_without_a_word_is_told_by_phase_party_and_kind_of_error(lines, told):
    watched, _ = seen(STARTED, *lines)
    with pytest.raises(FederationError) as error:
        check_completed('{"runs": [{"status": "finished:failed"}]}', watched)
    assert f"the process of the run's server app {told}" in str(error.value)
    assert "finished:" not in str(error.value)
    with pytest.raises(FederationError, match="the run was stopped from outside"):
        check_completed('{"runs": [{"status": "finished:stopped"}]}', watched)


@given(st.text() | st.text().map(lambda text: json.dumps({"runs": [{"status": text}]})))
def test_whatever_flower_lists_only_completed_is_success(listed):
    with pytest.raises(FederationError) as error:
        check_completed(listed, Watched("5", {"task": "ours"}, "\x1b[31mno", []))
    assert str(error.value).isprintable()
