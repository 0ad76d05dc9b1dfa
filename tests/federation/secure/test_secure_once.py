"""A text enters one secure sum per run, across rounds, restarts and other spellings of the same words."""

import numpy as np
import pytest

from knot_fed import client_app
from knot_fed.data.private import Columns
from knot_fed.data.transfer_set import TransferSet, distinct_texts, read_transfer_set, text_key
from knot_fed.errors import FederationError, WireError
from knot_fed.federation.secure.round import SecureRound
from knot_fed.federation.server.roster import ClientRecord, Roster
from knot_fed.federation.wire import exchange
from knot_fed.privacy.secure_sum import dequantise
from tests.fakes import context
from tests.federation.client.owners import PUBLIC
from tests.federation.secure.secure_parties import CLASSES, LossyGrid, scale_of

pytestmark = pytest.mark.slow

SECURE = {"privacy.secure-sum": True, "distill.objective": "pooled", "weights.scheme": "uniform", "teacher.epochs": 1}
NODES = range(100, 104)


@pytest.fixture
def parties(small, tmp_path):
    """Four clients of a federation after a restart of all nodes; optionally with a run number and a policy."""

    def build(run=7, policy="", keys=None, **grid_options):
        (tmp_path / "policy.toml").write_text(policy)
        config = small(SECURE | (keys or {}))
        node = {"num-partitions": 4} | ({"policy": str(tmp_path / "policy.toml")} if policy else {})
        contexts = {n: context(config, node=node | {"partition-id": n - 100}, node_id=n) for n in NODES}
        for made in contexts.values():
            made.run_id = run
        roster = Roster(config, rounds=2)
        roster.outcome.clients = {f"client-{n}": ClientRecord(f"client-{n}", n) for n in NODES}
        return roster, LossyGrid(contexts, app=client_app.app, **grid_options)

    return build


def secure_sum(parties, *, round_number=1, start=0, stop=None, transfer=PUBLIC, without=()):
    roster, grid = parties
    stop = len(transfer) if stop is None else stop
    secure = SecureRound(roster, grid, round_number)
    secure.open([record for record in roster.joined() if record.node_id not in without])
    request = exchange.TrainRequest(round_number, transfer.fingerprint, start, stop, transfer)
    replies = grid.send_and_receive(secure.ask_masked(lambda record: request))
    scale = scale_of(roster.config, len(secure.clients))
    total = secure.close(replies, texts=stop - start, columns=CLASSES + 1, quantisation=scale)
    return dequantise(total, scale)


def test_other_texts_of_the_run_may_be_summed_and_the_same_may_not(parties):
    four = parties()
    secure_sum(four, stop=9)
    secure_sum(four, round_number=2, start=9)
    for start, stop in ((0, 9), (8, 10), (0, 18)):
        with pytest.raises(FederationError, match=r"0 client\(s\) sent masked values.*entered in a secure sum of this"):
            secure_sum(four, round_number=3, start=start, stop=stop)


def test_a_sum_without_one_client_over_the_same_texts_is_refused_by_all_also_after_restarts(parties):
    """The difference of the two sums would be that client's soft labels: `4 p1 - 3 p2` gave them to 3e-9."""
    secure_sum(parties())
    with pytest.raises(FederationError, match="entered in a secure sum of this run"):
        secure_sum(parties(), round_number=2, without=(103,))


def test_a_transfer_set_that_repeats_a_text_is_never_summed(parties):
    """With each text twice, and one client away in the second of two rounds, the sums revealed that client's rows."""
    twice = TransferSet(PUBLIC.texts * 2)
    with pytest.raises(FederationError, match="the transfer texts repeat a text"):
        secure_sum(parties(), transfer=twice)
    with pytest.raises(FederationError, match="the transfer texts repeat a text"):
        secure_sum(parties(), transfer=TransferSet((*PUBLIC.texts, PUBLIC.texts[0].upper() + "!")))


SAME_TO_A_READER = [
    "go\u200bod",
    "go\u00adod",
    "goo\u0301d",
    "go\u2060od",
    "go\x01od",
    "go\ufe0fod",
    "\ufeffGOOD",
    "go\ue000od",
]


@pytest.mark.parametrize("word", SAME_TO_A_READER)
def test_signs_that_are_not_seen_and_accents_make_no_other_text(word):
    """A tokenizer drops them, so the teacher would answer the same text twice, to the last bit."""
    assert text_key(f"a {word} book") == text_key("a good book")
    with pytest.raises(WireError, match="repeat a text"):
        exchange.unpack_transfer_set(exchange.pack_transfer_set(TransferSet(("a good book", f"a {word} book"))))


def test_texts_that_differ_only_beyond_what_the_teacher_reads_are_summed_once(parties):
    start = "good bad plain " * 60
    transfer = TransferSet((*PUBLIC.texts, f"{start} one", f"{start} two", "another text"))
    keys = {"model": "tiny-bert", "teacher.max-length": 32}
    first = len(PUBLIC) + 1
    secure_sum(parties(keys=keys), start=0, stop=first, transfer=transfer)
    with pytest.raises(FederationError, match="its teacher reads like"):
        secure_sum(parties(keys=keys), round_number=2, start=first, stop=first + 1, transfer=transfer)
    secure_sum(parties(keys=keys), round_number=3, start=first + 1, transfer=transfer)


def test_how_often_a_text_is_summed_in_life_is_the_owners_to_say(parties):
    for run in (1, 2):
        secure_sum(parties(run, policy="max-sums-in-life = 2"))
    other_words = TransferSet((f"{PUBLIC.texts[3].title()} ...", "something else"))
    with pytest.raises(FederationError, match=r"entered 2 secure sums, max-sums-in-life = 2"):
        secure_sum(parties(3, policy="max-sums-in-life = 2"), transfer=other_words)
    secure_sum(parties(4, policy="max-sums-in-life = 2"), transfer=TransferSet(("another text", "and one more")))


def test_a_file_with_repeated_texts_is_read_as_distinct_ones_in_order(tmp_path):
    texts = ["So good", "bad", "so  GOOD!", "bad", "plain", ":)", ":("]
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(texts))
    read = read_transfer_set(tmp_path / "t.csv", columns=Columns())
    assert read.texts == ("So good", "bad", "plain", ":)", ":(")
    assert read.repeated == 2
    assert distinct_texts(read.texts).repeated == 0
    assert len(np.unique(read.keys, axis=0)) == len(read)


def test_texts_that_repeat_are_refused_where_they_are_unpacked():
    with pytest.raises(WireError, match="repeat a text, which would count it twice"):
        exchange.unpack_transfer_set(exchange.pack_transfer_set(TransferSet(("one", "two", "ONE"))))
