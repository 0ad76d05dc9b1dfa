"""The ledger never counts too little: truncated, modified, deleted, on a full disk, or used by two processes."""

import json
import math
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knot_fed.errors import PolicyError
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.privacy.ledger.ledger import Ledger, digest_of_keys, texts_released
from knot_fed.privacy.ledger.spending import most_sums, of_run, spent_in_life, spent_in_run
from knot_fed.privacy.policy_checks import total_epsilon

A, B = "a" * 64, "b" * 64


def private(run="7", texts=10, answer=A, noise=20.0, **fields):
    return LedgerEntry(
        run=run, round=1, texts=texts, fresh=texts, mechanism="gaussian", unit="client", epsilon=1.0, delta=1e-5,
        answer=answer, noise=NoiseEvent(noise, texts), **fields,
    )  # fmt: skip


def charge(state, *entries):
    return [Ledger(state).charge(lambda before, entry=entry: entry) for entry in entries]


def spent(entries):
    return total_epsilon(spent_in_life(entries, "client"), 1e-5)


@pytest.fixture
def charged(tmp_path):
    """A state folder with three releases, and the bytes of its ledger and head."""
    state = tmp_path / "state"
    charge(state, private(), private(texts=3, noise=7.0), private(texts=5, answer=B))
    return state


def ledger_of(state):
    return state / "ledger.jsonl"


def test_entries_come_back_as_they_were_written_over_restarts(tmp_path):
    entries = [private(), LedgerEntry(run="8", round=2, texts=4, fresh=4)]
    charge(tmp_path, *entries)
    assert Ledger(tmp_path).entries() == entries


def test_a_ledger_cut_at_any_byte_is_whole_or_stops_everything(charged):
    content = ledger_of(charged).read_bytes()
    for length in range(len(content)):
        ledger_of(charged).write_bytes(content[:length])
        with pytest.raises(PolicyError, match=r"the ledger is damaged .* nothing leaves; restore"):
            Ledger(charged).entries()
    ledger_of(charged).write_bytes(content)
    assert len(Ledger(charged).entries()) == 3


@settings(max_examples=150)
@given(st.data())
def test_no_changed_byte_is_ever_counted(tmp_path_factory, data):
    state = tmp_path_factory.mktemp("state")
    charge(state, private(), private(texts=3, noise=7.0), private(texts=5, answer=B))
    file = data.draw(st.sampled_from(["ledger.jsonl", "ledger.head"]))
    content = bytearray((state / file).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (state / file).write_bytes(content)
    try:
        counted = Ledger(state).entries()
    except PolicyError:
        return
    assert (texts_released(counted), spent(counted)) == (
        18,
        spent([private(), private(texts=3, noise=7.0), private(texts=5)]),
    )


@pytest.mark.parametrize("lost", [("ledger.jsonl",), ("ledger.head",)])
def test_a_lost_file_stops_everything(charged, lost):
    for name in lost:
        (charged / name).unlink()
    with pytest.raises(PolicyError, match="nothing leaves"):
        charge(charged, private())


def test_a_lost_last_line_stops_everything_and_is_recovered_from_the_head(tmp_path):
    Ledger(tmp_path).secret()
    charge(tmp_path, private(), private(texts=3))
    whole = Ledger(tmp_path).entries()
    lines = ledger_of(tmp_path).read_bytes().splitlines(keepends=True)
    ledger_of(tmp_path).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(PolicyError, match="has 2 whole lines and had 3"):
        Ledger(tmp_path).entries()
    assert "nothing was lost" in Ledger(tmp_path).recover()
    assert Ledger(tmp_path).entries() == whole


def test_a_ledger_that_loses_everything_but_keeps_its_secret_stops_everything(tmp_path):
    Ledger(tmp_path).secret()
    charge(tmp_path, private())
    for name in ("ledger.jsonl", "ledger.head"):
        (tmp_path / name).unlink()
    with pytest.raises(PolicyError, match=r"secret\.key and ledger\.jsonl do not belong together"):
        Ledger(tmp_path).secret()


def test_a_ledger_that_is_lost_with_its_secret_is_missed_where_keys_of_texts_are_left(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.secret()
    ledger.keep_keys(np.zeros((1, 16), dtype=np.uint8))
    charge(tmp_path, private())
    for name in ("ledger.jsonl", "ledger.head", "secret.key"):
        (tmp_path / name).unlink()
    with pytest.raises(PolicyError, match="nothing leaves"):
        ledger.secret()
    assert "counts as the whole budget" in ledger.recover()
    assert ledger.released_in_life() == math.inf


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_lost_or_changed_secret_is_told_once_anything_was_released(tmp_path, damage):
    first = Ledger(tmp_path).secret()
    assert Ledger(tmp_path).secret() == first
    charge(tmp_path, private())
    if damage == "removed":
        (tmp_path / "secret.key").unlink()
    else:
        (tmp_path / "secret.key").write_bytes(bytes(32))
    with pytest.raises(PolicyError, match="do not belong together"):
        Ledger(tmp_path).secret()


def test_a_secret_that_was_never_written_is_drawn_again_before_anything_is_released(tmp_path):
    Ledger(tmp_path).secret()
    (tmp_path / "secret.key").unlink()
    drawn = Ledger(tmp_path).secret()
    charge(tmp_path, private())
    assert Ledger(tmp_path).secret() == drawn


def change_a_digit(state):
    """Change one digit in the middle of the file."""
    ledger_of(state).write_bytes(ledger_of(state).read_bytes().replace(b'"texts":3', b'"texts":0'))


@pytest.mark.parametrize(
    "damage",
    [
        change_a_digit,
        lambda state: ledger_of(state).unlink(),
        lambda state: (state / "ledger.head").unlink(),
        lambda state: ledger_of(state).write_bytes(b"\x00" * 100),
        lambda state: (state / "secret.key").write_bytes(b"other"),
    ],
)
def test_recovery_never_forgets_what_was_spent(tmp_path, damage):
    Ledger(tmp_path).secret()
    charge(tmp_path, private(), private(texts=3, noise=7.0), private(texts=5, answer=B))
    damage(tmp_path)
    said = Ledger(tmp_path).recover()
    assert "what was lost counts as the whole budget" in said
    entries = Ledger(tmp_path).entries()
    assert math.isinf(texts_released(entries))
    assert math.isinf(spent(entries))
    assert math.isinf(Ledger(tmp_path).evaluated("7")[1])
    assert len(Ledger(tmp_path).secret()) == 32
    charge(tmp_path, private())


def test_recovery_keeps_the_damaged_file(charged):
    change_a_digit(charged)
    damaged = ledger_of(charged).read_bytes()
    assert "ledger.damaged-1" in Ledger(charged).recover()
    assert (charged / "ledger.damaged-1").read_bytes() == damaged


def test_a_last_line_that_was_never_promised_is_cut_off_at_the_next_release(charged):
    """The state after a crash while the line was written: the head does not record it."""
    with ledger_of(charged).open("ab") as file:
        file.write(b'{"chain": "00')
    assert len(Ledger(charged).entries()) == 3
    charge(charged, private())
    assert len(Ledger(charged).entries()) == 4


def test_a_whole_line_beyond_the_head_counts(charged):
    """The state after a crash between line and head: the line may have been committed."""
    before = (charged / "ledger.head").read_bytes()
    charge(charged, private())
    (charged / "ledger.head").write_bytes(before)
    assert len(Ledger(charged).entries()) == 4
    charge(charged, private())
    assert len(Ledger(charged).entries()) == 5


def test_a_head_of_another_ledger_is_noticed(charged, tmp_path):
    charge(tmp_path / "other", private(), private(), private())
    shutil.copyfile(tmp_path / "other" / "ledger.head", charged / "ledger.head")
    with pytest.raises(PolicyError, match=r"is not the file that ledger\.head was written for"):
        Ledger(charged).entries()


def test_a_ledger_of_before_lines_were_chained_stops_everything_and_is_recovered_as_lost(tmp_path):
    (tmp_path / "ledger.jsonl").write_text(json.dumps({"run": "1", "round": 1, "texts": 5}) + "\n")
    with pytest.raises(PolicyError, match=r"ledger\.head is gone"):
        Ledger(tmp_path).entries()
    Ledger(tmp_path).recover()
    assert math.isinf(Ledger(tmp_path).released_in_life())


def test_a_refused_release_is_not_written(tmp_path):
    def refuse(before):
        raise PolicyError("no")

    charge(tmp_path, private())
    with pytest.raises(PolicyError, match="no"):
        Ledger(tmp_path).charge(refuse)
    assert len(Ledger(tmp_path).entries()) == 1


def test_a_release_that_was_taken_back_counts_no_more(tmp_path):
    first, second = charge(tmp_path, private(), private(texts=3))
    Ledger(tmp_path).take_back(second)
    assert Ledger(tmp_path).entries() == [private()]
    Ledger(tmp_path).take_back(first)
    assert Ledger(tmp_path).released_in_life() == 0


def test_counts_are_kept_by_run_and_in_life(tmp_path):
    for run in ("1", "2", "1"):
        Ledger(tmp_path).record(LedgerEntry(run=run, evaluations=1))
    charge(tmp_path, private(run="1"), private(run="2", texts=4))
    Ledger(tmp_path).record(LedgerEntry(run="1", fingerprint=A))
    assert Ledger(tmp_path).evaluated("1") == (2, 3)
    assert Ledger(tmp_path).released_in_life() == 14
    assert (Ledger(tmp_path).transfer_set_of_run("1"), Ledger(tmp_path).transfer_set_of_run("2")) == (A, "")


def test_a_record_level_mechanism_promises_the_whole_client_nothing():
    teacher = LedgerEntry(
        run="7", texts=10, fresh=10, mechanism="dp-sgd", unit="record", noise=NoiseEvent(1.0, 400, 0.05)
    )
    assert teacher.spent("record") == teacher.noise
    assert teacher.spent("client") is None
    assert private().spent("record") == private().spent("client") == NoiseEvent(20.0, 10)


def test_only_texts_without_a_kept_row_cost_a_life_and_each_counts_once_in_a_run():
    keys = np.arange(160, dtype=np.uint8).reshape(10, 16)
    first = private(texts=6, start=0, stop=6)
    again = private(texts=10, start=0, stop=10).model_copy(update={"fresh": 4})
    assert spent_in_life([first, again], "client") == [NoiseEvent(20.0, 6), NoiseEvent(20.0, 4)]
    in_run = spent_in_run([first, again], "client", keys_of=lambda entry: keys[entry.start : entry.stop])
    assert in_run == [NoiseEvent(20.0, 10)]


@given(st.lists(st.tuples(st.sampled_from("12"), st.integers(0, 9), st.integers(1, 10)), max_size=6))
def test_sums_of_the_most_summed_text_are_counted_by_run_and_life(slices):
    keys = np.arange(160, dtype=np.uint8).reshape(10, 16)
    entries = [private(run=run, start=start, stop=min(start + size, 10), summed=True) for run, start, size in slices]
    in_run, in_life = most_sums(keys[2:5], entries, run="1", keys_of=lambda entry: keys[entry.start : entry.stop])
    of_row = {row: [e.run for e in entries if e.start <= row < e.stop] for row in range(2, 5)}
    assert in_life == max(map(len, of_row.values()))
    assert in_run == max(runs.count("1") for runs in of_row.values())


def test_keys_of_texts_are_kept_once_and_a_lost_file_of_them_stops_everything(tmp_path):
    keys = np.arange(160, dtype=np.uint8).reshape(10, 16)
    Ledger(tmp_path).keep_keys(keys)
    digest = digest_of_keys(keys)
    np.testing.assert_array_equal(Ledger(tmp_path).kept_keys(digest), keys)
    (tmp_path / "ledger-texts" / digest).write_bytes(bytes(160))
    with pytest.raises(PolicyError, match="keys of its texts"):
        Ledger(tmp_path).kept_keys(digest)
    Ledger(tmp_path).keep_keys(keys)
    np.testing.assert_array_equal(Ledger(tmp_path).kept_keys(digest), keys)


def test_recovery_forgets_no_sum_and_no_limit_of_a_run(tmp_path):
    """Recovery once counted lost sums as none: `max-sums-in-life` and the limits of a run started again."""
    keys, ledger = np.arange(160, dtype=np.uint8).reshape(10, 16), Ledger(tmp_path)
    ledger.secret()
    ledger.record(LedgerEntry(run="1", fingerprint=A))
    ledger.keep_keys(keys)
    ledger.charge(lambda before: private(run="1", keys=digest_of_keys(keys), stop=10, summed=True))
    ledger.record(LedgerEntry(run="1", evaluations=1))
    ledger_of(tmp_path).write_bytes(b"".join(ledger_of(tmp_path).read_bytes().splitlines(keepends=True)[:2]))
    assert "counts as the whole budget" in ledger.recover()
    ledger.record(LedgerEntry(run="2", fingerprint=A))
    entries = ledger.entries()
    for run, in_run in (("1", math.inf), ("2", 0), ("never heard of", math.inf)):
        assert most_sums(keys, entries, run=run, keys_of=lambda entry: keys) == (in_run, math.inf)
        assert texts_released(of_run(entries, run)) == in_run
        assert ledger.evaluated(run) == (in_run, math.inf)
        assert total_epsilon(spent_in_run(of_run(entries, run), "client", keys_of=lambda entry: keys), 1e-5) == in_run


def test_lost_keys_of_texts_are_found_and_recovered_as_the_whole_budget(tmp_path):
    keys, ledger = np.arange(160, dtype=np.uint8).reshape(10, 16), Ledger(tmp_path)
    ledger.secret()
    for field in ("keys", "readings"):
        ledger.keep_keys(keys)
        digest = digest_of_keys(keys)
        ledger.charge(lambda before, kept=digest, name=field: private(stop=10, summed=True, **{name: kept}))
        ledger.check()
        (tmp_path / "ledger-texts" / digest).unlink()
        with pytest.raises(PolicyError, match="the keys of its texts are lost"):
            ledger.check()
        assert "counts as the whole budget" in ledger.recover()
        ledger.check()
    assert most_sums(keys, ledger.entries(), run="7", keys_of=lambda entry: keys[:0]) == (math.inf, math.inf)


def test_a_teacher_or_a_row_that_is_drawn_again_in_a_run_counts_again():
    keys = np.arange(160, dtype=np.uint8).reshape(10, 16)

    def cost(*entries):
        return spent_in_run(entries, "record", keys_of=lambda entry: keys[entry.start : entry.stop])

    rows, again = private(start=0, stop=10), private(start=0, stop=10).model_copy(update={"fresh": 0})
    assert cost(rows, again, again) == [NoiseEvent(20.0, 10)]
    assert cost(rows, again, rows) == [NoiseEvent(20.0, 20)]
    teacher = LedgerEntry(run="7", texts=5, fresh=5, mechanism="dp-sgd", unit="record", noise=NoiseEvent(1.0, 9, 0.1))
    loaded = teacher.model_copy(update={"fresh": 0})
    assert cost(teacher, loaded) == cost(loaded, loaded) == [teacher.noise]
    assert cost(teacher, loaded, teacher) == [teacher.noise] * 2


@pytest.mark.parametrize(
    "body",
    [
        '{"run":1}',
        '{"texts":-5}',
        '{"texts":5,"x":1}',
        '{"epsilon":"1"}',
        '{"noise":{"noise_multiplier":-1}}',
        '{"texts":true}',
    ],
)
def test_a_line_that_is_no_entry_stops_everything(tmp_path, body):
    Ledger(tmp_path)._file.append(body)
    with pytest.raises(PolicyError, match="one of its lines is not an entry"):
        Ledger(tmp_path).entries()


def take_one_of_three(state):
    def decide(before):
        if len(before) >= 3:
            raise PolicyError("spent")
        return private()

    try:
        Ledger(state).charge(decide)
    except PolicyError:
        return 0
    return 1


def test_two_processes_never_spend_the_same_budget_twice(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        taken = pool.map(take_one_of_three, [tmp_path / "state"] * 8)
    assert sum(taken) == 3


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from knot_fed.errors import PolicyError
from knot_fed.privacy.ledger.ledger import Ledger
from tests.privacy.test_ledger import private
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    Ledger(Path(sys.argv[1])).charge(lambda before: private())
except PolicyError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_ledger_as_it_was_and_charges_nothing(charged):
    """File sizes are limited to every size at which only part of the line or the head fits."""
    content, head = ledger_of(charged).read_bytes(), (charged / "ledger.head").read_bytes()
    for room in range(len(content) + 1, len(content) + 300, 23):
        ran = subprocess.run(
            [sys.executable, "-c", FULL_DISK, str(charged), str(room)], capture_output=True, text=True, check=True
        )
        assert "so nothing leaves and nothing is charged; make room" in ran.stdout
        assert ledger_of(charged).read_bytes() == content
        assert (charged / "ledger.head").read_bytes() == head
        assert not [path for path in Path(charged).iterdir() if path.name.startswith(".partial")]
    charge(charged, private())
    assert len(Ledger(charged).entries()) == 4
