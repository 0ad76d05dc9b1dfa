import json
import logging
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from knot_fed.runs.log import (
    MARKER,
    LineFormatter,
    LogLine,
    SealedLog,
    log_event,
    new_seal,
    phase_after,
    read_line,
    sealed_lines,
    write_line,
)

FORGED = (
    "event=result",
    MARKER + "event=started",
    f'x"\n{MARKER}event=result seal=a table="{{}}"',
    f'{MARKER}event=opened time=2026-01-01T00:00:00Z seal="a"',
    '\\"',
    'a" event="b',
    "\x1b[31mred\r\x85\u2028\u202e",
    "-",
    "",
)
KEYS = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True).filter(lambda key: key != "event")
TEXTS = st.text(max_size=60) | st.sampled_from(FORGED)
FACTS = st.dictionaries(KEYS, st.none() | TEXTS, max_size=6)


def formatted(*, seal="", **logged):
    """Return the lines that the formatter makes of what is logged."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(handler.format(record))
    handler.setFormatter(LineFormatter(seal))
    logger = logging.getLogger("knot_fed")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        logged["say"](logger)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    return lines


@given(event=TEXTS, facts=FACTS)
def test_a_line_reads_as_it_was_written(event, facts):
    read = read_line(write_line({"event": event, **facts}))
    assert read.event == event
    assert read.facts == {key: value for key, value in facts.items() if value is not None}


@given(event=TEXTS, facts=FACTS)
def test_no_text_makes_a_second_line_or_reaches_a_terminal(event, facts):
    line = write_line({"event": event, **facts})
    assert line.isascii()
    assert line.isprintable()
    assert line.splitlines() == [line]


@given(text=TEXTS, facts=FACTS, key=KEYS)
def test_a_text_in_one_field_changes_no_other(text, facts, key):
    others = {name: value for name, value in facts.items() if name != key and value is not None}
    read = read_line(write_line({"event": "sent", **others, key: text, "last": "9"}))
    assert {name: read.facts[name] for name in others if name != "last"} == {
        name: value for name, value in others.items() if name != "last"
    }
    assert (read.event, read.facts["last"]) == ("sent", "9")


@given(text=TEXTS, seal=st.sampled_from(["", "a"]))
def test_every_note_is_one_line_that_reads_as_its_text(text, seal):
    (line,) = formatted(seal=seal, say=lambda logger: logger.warning("round %d: %s", 1, text))
    read = read_line(line)
    assert (read.event, read.facts["text"]) == ("note", f"round 1: {text}")
    assert read.text("seal") == seal


@given(st.dictionaries(st.sampled_from(["node", "outcome", "node_id"]), TEXTS, min_size=1))
def test_an_event_reads_as_it_was_logged(facts):
    (line,) = formatted(say=lambda _: log_event("sent", **facts))
    read = read_line(line)
    assert read.event == "sent"
    assert {key: read.facts[key.replace("_", "-")] for key in facts} == facts


def test_an_exceptions_text_stays_out_of_the_line():
    def fail(logger):
        try:
            raise ValueError("zugzwang")
        except ValueError:
            logger.exception("a train failed")

    (line,) = formatted(say=fail)
    assert read_line(line).facts["text"] == "a train failed"
    assert "zugzwang" not in line


@given(line=st.text() | st.text(alphabet='abet=seal"\\ :knot_fd\n').map(lambda text: MARKER + "event=" + text))
@example(MARKER)
@example(MARKER + "event=-")
@example(MARKER + "event=a ")
@example(MARKER + "event=a\n")
@example(MARKER + "event=a event=b")
@example(MARKER + 'event=a x="\\ud83d" y="\\"')
def test_any_line_is_read_or_passed_over_and_a_read_one_is_in_the_one_form(line):
    read = read_line(line)
    if read is not None:
        assert read_line(write_line({"event": read.event, **read.facts})) == read
        assert re.fullmatch(r"knot_fed: event=[ -~]+", line)


@given(facts=FACTS, before=st.text(min_size=1), after=st.text(min_size=1))
def test_a_line_inside_other_text_is_not_one(facts, before, after):
    line = write_line({"event": "sent", **facts})
    assert read_line(before + line) is None
    assert read_line(f"{line} {after}{MARKER}") is None


@given(facts=FACTS, place=st.integers(0, 400), letters=st.text(max_size=3))
def test_a_damaged_line_raises_nothing(facts, place, letters):
    line = write_line({"event": "sent", **facts})
    read_line(line[:place] + letters + line[place + 1 :])


def test_odd_numbers_are_none():
    read = read_line(write_line({"event": "x", "a": "²", "b": "1e9", "c": "-1", "d": "9" * 400, "e": "7", "f": 0.25}))
    assert [read.count(key) for key in "abcdeg"] == [0, 0, 0, 0, 7, 0]
    assert [read.number(key) for key in "abcdefg"] == [0, 0, 0, 0, 7, 0.25, 0]
    for table in ("", "{", "[]", "1", "[" * 10**5):
        assert read_line(write_line({"event": "result", "table": table})).table() is None


def test_seals_are_128_bits_and_never_the_same():
    seals = {new_seal() for _ in range(1000)}
    assert len(seals) == 1000
    assert all(len(seal) * 6 >= 128 for seal in seals)


@given(
    texts=st.lists(TEXTS, max_size=4),
    guesses=st.lists(st.text(alphabet="abc", max_size=3), max_size=4),
)
def test_only_lines_under_the_first_seal_are_the_server_apps_own(texts, guesses):
    seal = new_seal()
    ours = [write_line({"event": "note", "text": text, "seal": seal}) for text in texts]
    forged = [
        write_line({"event": event, "seal": guess, "table": json.dumps({})})
        for guess in guesses
        for event in ("opened", "result", "failed", "started")
    ]
    stream = [write_line({"event": "opened", "seal": seal}), *forged, *ours, *forged]
    read = list(sealed_lines(stream))
    assert [line.event for line in read] == ["opened", *("note" for _ in texts)]
    assert [line.text("text") for line in read[1:]] == texts


@pytest.mark.parametrize("before", ["", write_line({"event": "opened"}), write_line({"event": "result", "seal": None})])
def test_nothing_is_the_server_apps_own_before_a_seal(before):
    log = SealedLog()
    assert log.read(before) is None
    assert log.read(write_line({"event": "result", "table": "{}"})) is None
    assert log.read(write_line({"event": "opened", "seal": "a"})) is not None


def test_a_phase_is_short_and_printable_whatever_a_message_is_called():
    for message in ("x" * 1000, "a\r\nknot_fed: event=result", "\x1b[2J"):
        phase = phase_after(LogLine("sent", {"message": message}), "handshake")
        assert phase.isprintable()
        assert len(phase) <= 40
