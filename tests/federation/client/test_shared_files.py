"""What virtual clients of one process keep, and what a real node never does."""

import os

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from knot_fed.config import NodeConfig, RunConfig
from knot_fed.data import private
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import DataError, WireError
from knot_fed.federation.client import settings
from knot_fed.federation.client.held_texts import HELD_TEXTS, hold_texts, requested_texts
from knot_fed.federation.client.settings import Client
from knot_fed.federation.wire import envelope, exchange


def write(file, word, rows=120):
    lines = [f"{word} review {row},{row % 5},{('train', 'val', 'test')[row // 5 % 3]}" for row in range(rows)]
    file.write_text("\n".join(["text,label,split", *lines]))


@pytest.fixture
def reads(monkeypatch):
    """The paths that were read."""
    paths = []

    def counted(path, **options):
        paths.append(path)
        return private.read_labelled_texts(path, **options)

    monkeypatch.setattr(settings, "read_labelled_texts", counted)
    return paths


def virtual(folder, index, **data):
    keys = {"data.root": str(folder), "data.clients": "a", "data.min-examples": 1, "state-dir": str(folder / "state")}
    run = RunConfig.from_mapping(keys | data)
    return Client.from_configs(run, NodeConfig.from_mapping({"partition-id": index, "num-partitions": 3}))


def test_virtual_clients_read_a_shared_file_once_and_get_their_own_shares(tmp_path, reads):
    write(tmp_path / "a.csv", "first")
    shares = [virtual(tmp_path, index).examples()[0] for index in (0, 1, 2, 0)]
    assert len(reads) == 1
    assert shares[0].train.texts == shares[3].train.texts
    texts = [text for share in shares[:3] for part in (share.train, share.val, share.test) for text in part.texts]
    assert len(texts) == len(set(texts)) == 120


def test_a_changed_file_or_setting_is_noticed(tmp_path, reads):
    write(tmp_path / "a.csv", "first")
    before = virtual(tmp_path, 0).examples()[0]
    write(tmp_path / "a.csv", "other")
    os.utime(tmp_path / "a.csv", ns=(1, (tmp_path / "a.csv").stat().st_mtime_ns + 1))
    after = virtual(tmp_path, 0).examples()[0]
    assert before.train.texts[0].startswith("first")
    assert after.train.texts[0].startswith("other")
    assert len(virtual(tmp_path, 0, **{"data.limit": 9}).examples()[0].train) == 3
    assert len(reads) == 3
    (tmp_path / "a.csv").unlink()
    with pytest.raises(DataError, match="no file"):
        virtual(tmp_path, 0)


def test_a_real_nodes_file_is_read_for_each_message_and_kept_nowhere(tmp_path, reads):
    write(tmp_path / "a.csv", "private")
    node = NodeConfig.from_mapping({"data": str(tmp_path / "a.csv"), "state-dir": str(tmp_path / "state"), "name": "a"})
    first, second = (Client.from_configs(RunConfig(), node).examples()[0] for _ in range(2))
    assert len(reads) == 2
    assert first.train is not second.train


@pytest.mark.parametrize("texts", [("a", 'b "quoted"', "\u00fc\n"), (("a", "b"), ("c", "d"))])
def test_texts_are_held_compressed_and_come_back_as_they_were(tmp_path, texts):
    transfer, client = TransferSet(texts), client_of(tmp_path)
    state = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    request = exchange.TrainRequest(1, transfer.fingerprint, 0, 1)
    with pytest.raises(WireError, match="never received"):
        requested_texts(request, state, client)
    first = exchange.TrainRequest(1, transfer.fingerprint, 0, 1, transfer)
    assert requested_texts(first, state, client) is transfer
    assert requested_texts(request, state, client).texts == texts
    with pytest.raises(WireError, match="another transfer set"):
        requested_texts(exchange.TrainRequest(1, "0" * 64, 0, 1), state, client)


def test_the_held_texts_of_a_client_are_small(tmp_path):
    generator = np.random.default_rng(0)
    words = [f"word{number}" for number in range(500)]
    texts = tuple(" ".join(generator.choice(words, 20)) for _ in range(500))
    state = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    hold_texts(TransferSet(texts), state)
    assert set(state.state) == {HELD_TEXTS}
    assert envelope.count_bytes(state.state) < 0.5 * sum(map(len, texts))


def client_of(folder):
    write(folder / "a.csv", "first")
    return virtual(folder, 0)
