import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knot_fed.data.partition import CLIENT_NAME, client_shard, split_examples
from knot_fed.data.reviews import DOMAINS, builtin_examples, builtin_texts
from knot_fed.errors import ConfigError, DataError
from knot_fed.labels import LabelSpace

SENTIMENT = LabelSpace.preset("sentiment")


@given(st.integers(1, 6), st.integers(0, 20))
def test_every_file_is_dealt_out_whole(files, extra):
    names = [f"file{i}" for i in range(files)]
    total = files + extra
    shards = [client_shard(index, total, names) for index in range(total)]
    assert len({shard.name for shard in shards}) == total
    for name in names:
        own = [shard for shard in shards if shard.files == (name,)]
        assert [shard.index for shard in own] == list(range(own[0].count))


@given(st.integers(1, 6), st.integers(1, 6))
def test_where_there_are_fewer_clients_every_file_is_held_once(clients, missing):
    names = [f"file{i}" for i in range(clients + missing)]
    shards = [client_shard(index, clients, names) for index in range(clients)]
    assert sorted(name for shard in shards for name in shard.files) == sorted(names)
    assert len({shard.name for shard in shards}) == clients
    assert max(len(shard.files) for shard in shards) - min(len(shard.files) for shard in shards) <= 1
    assert all((shard.index, shard.count) == (0, 1) for shard in shards)


@given(st.integers(1, 3), st.integers(1, 30), st.integers(1, 50))
def test_a_client_of_several_files_has_a_name_of_its_own_that_the_server_takes(clients, missing, length):
    names = [f"{'f' * length}{i}" for i in range(clients + missing)]
    given = [client_shard(index, clients, names).name for index in range(clients)]
    assert all(map(CLIENT_NAME.fullmatch, given))
    assert len(set(given)) == clients


def test_no_file_at_all_is_refused():
    with pytest.raises(ConfigError, match=r"data\.clients names no file"):
        client_shard(0, 2, [])


@settings(max_examples=6)
@given(st.integers(2, 5), st.sampled_from(["iid", "dirichlet"]), st.integers(0, 99))
def test_shares_are_disjoint_and_cover_the_file(count, scheme, seed):
    examples = builtin_examples("phones", SENTIMENT)
    taken = []
    for index in range(count):
        share, rows = split_examples(examples, index=index, count=count, scheme=scheme, alpha=5.0, seed=seed)
        taken += rows["train"]
        assert share.train.texts == tuple(examples.train.texts[row] for row in rows["train"])
    assert sorted(taken) == list(range(len(examples.train)))


def test_a_small_alpha_makes_labels_uneven():
    examples = builtin_examples("phones", SENTIMENT)

    def unevenness(scheme):
        shares = [split_examples(examples, index=i, count=3, scheme=scheme, alpha=0.3, seed=1)[0] for i in range(3)]
        mixes = np.array([np.bincount(share.train.labels, minlength=5) / len(share.train) for share in shares])
        return mixes.std(axis=0).sum()

    assert unevenness("dirichlet") > 2 * unevenness("iid")


def test_the_built_in_corpus_is_the_same_on_every_call_and_has_all_ratings():
    for domain in DOMAINS:
        examples = builtin_examples(domain, SENTIMENT)
        assert examples.train.texts == builtin_examples(domain, SENTIMENT).train.texts
        assert set(examples.test.labels.tolist()) == {0, 1, 2, 3, 4}
    assert builtin_texts("forum") == builtin_texts("forum")


def test_the_built_in_corpus_refuses_other_tasks_and_domains():
    with pytest.raises(DataError, match="has 5 ratings"):
        builtin_examples("phones", LabelSpace.preset("nli"))
    with pytest.raises(DataError, match="no such domain"):
        builtin_examples("opera", SENTIMENT)
