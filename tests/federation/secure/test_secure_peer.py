from dataclasses import replace

import numpy as np
import pytest
from Crypto.Protocol.SecretSharing import _Element
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, ks_2samp

from knot_fed.errors import ConfigError, FederationError, PolicyError, WireError
from knot_fed.federation.secure import key_agreement
from knot_fed.federation.secure.peer import KeyList, Peer, deal_shares, mask_values, receive_shares, reveal_shares
from knot_fed.federation.secure.round import unmask_sum
from knot_fed.federation.secure.sum_wire import MaskedAnswer
from tests.federation.secure.secure_parties import CLAIM

ROUND = 4
WORD = np.dtype("<u8")


def key_list(peers, threshold):
    seal_keys, mask_keys = zip(*(peer.public_keys for peer in peers), strict=True)
    return KeyList(ROUND, threshold, seal_keys, mask_keys)


def dealt_peers(clients, threshold):
    """Run the protocol until every client has the sealed shares of all clients."""
    peers = [Peer.fresh(ROUND) for _ in range(clients)]
    keys = key_list(peers, threshold)
    dealt = [deal_shares(peer, keys, place=place, least_clients=2) for place, peer in enumerate(peers)]
    return keys, [peer for peer, _ in dealt], [sealed for _, sealed in dealt]


def received_peers(clients, threshold, members=None):
    keys, peers, sealed = dealt_peers(clients, threshold)
    members = list(range(clients)) if members is None else members
    relayed = {
        place: [sealed[other][place] if other in members else b"" for other in range(clients)] for place in members
    }
    return keys, {place: receive_shares(peers[place], relayed[place], least_clients=2) for place in members}


def random_values(seed, clients, texts=3, columns=4):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 2**50, size=(texts, columns)).astype(WORD) for _ in range(clients)]


def summed(keys, peers, values, survivors, helpers=None):
    """Mask at all members, drop the values of the vanished ones, and unmask with the helpers' shares."""
    masked = {place: mask_values(peer, values[place]) for place, peer in peers.items()}
    helpers = survivors if helpers is None else helpers
    shares = {place: reveal_shares(masked[place].peer, survivors, least_clients=2) for place in helpers}
    answers = {
        place: MaskedAnswer(masked[place].values, masked[place].commitment, reused=False, seconds=0.0, claim=CLAIM)
        for place in survivors
    }
    return unmask_sum(answers, shares, keys=keys, members=list(peers)), masked, shares


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.data())
def test_all_masks_cancel_whoever_vanishes_as_long_as_a_threshold_survives(seed, data):
    clients = data.draw(st.integers(2, 6))
    threshold = data.draw(st.integers(max(2, clients // 2 + 1), clients))
    members = sorted(data.draw(st.sets(st.integers(0, clients - 1), min_size=threshold)))
    survivors = sorted(data.draw(st.sets(st.sampled_from(members), min_size=threshold)))
    helpers = sorted(data.draw(st.sets(st.sampled_from(survivors), min_size=threshold)))
    keys, peers = received_peers(clients, threshold, members)
    values = random_values(seed, clients)
    total, _, _ = summed(keys, peers, values, survivors, helpers)
    assert (total == sum(values[place] for place in survivors)).all()


@pytest.mark.parametrize("vanished", [(4,), (0, 3)])
def test_one_and_two_of_five_vanish_after_masking_and_the_sum_is_that_of_the_others(vanished):
    keys, peers = received_peers(5, threshold=3)
    values = random_values(1, 5)
    survivors = [place for place in range(5) if place not in vanished]
    total, _, _ = summed(keys, peers, values, survivors)
    assert (total == sum(values[place] for place in survivors)).all()


def test_fewer_shares_than_the_threshold_unmask_nothing():
    keys, peers = received_peers(5, threshold=4)
    masked = {place: mask_values(peer, random_values(2, 5)[place]) for place, peer in peers.items()}
    shares = {place: reveal_shares(masked[place].peer, range(5), least_clients=2) for place in range(3)}
    answers = {
        place: MaskedAnswer(m.values, m.commitment, reused=False, seconds=0.0, claim=CLAIM)
        for place, m in masked.items()
    }
    with pytest.raises(FederationError, match="3 shares of a secret, the threshold is 4"):
        unmask_sum(answers, shares, keys=keys, members=list(peers))


@settings(max_examples=25)
@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_one_share_less_than_the_threshold_is_consistent_with_every_secret(secret, candidate):
    """For any other secret there is a last share that yields it: the given shares exclude no secret."""
    held = key_agreement.split_secret(secret, threshold=3, clients=5)[:2]

    def joined(last):
        chunks = [b"".join([share[:4], share[4:20]]) for share in held]
        return lagrange([(int.from_bytes(c[:4], "little"), c[4:]) for c in chunks] + [(3, last)])

    base = joined(bytes(16))
    slope = lagrange([(1, bytes(16)), (2, bytes(16)), (3, (1).to_bytes(16, "big"))])
    needed = _Element(bytes(a ^ b for a, b in zip(base, candidate, strict=True))) * _Element(slope).inverse()
    assert joined(needed.encode()) == candidate


def lagrange(points):
    """Interpolate at zero over GF(2^128), implemented independently of the library."""
    result = _Element(0)
    for index, value in points:
        term = _Element(value)
        for other, _ in points:
            if other != index:
                term *= _Element(other) * (_Element(other) + _Element(index)).inverse()
        result += term
    return result.encode()


def masked_words(value, draws=200):
    """Collect the server's view of one client with fixed values, over many draws of all keys."""
    words = []
    for _ in range(draws):
        peers = [Peer.fresh(ROUND) for _ in range(2)]
        keys = key_list(peers, threshold=2)
        peer = replace(
            peers[0], place=0, threshold=2, seal_keys=keys.seal_keys, mask_keys=keys.mask_keys,
            seed=key_agreement.new_seed(), seed_shares=(b"own", b"peer"),
        )  # fmt: skip
        words.append(mask_values(peer, np.full((8, 8), value, dtype=WORD)).values.ravel())
    return np.concatenate(words)


def test_what_the_server_holds_of_a_client_is_uniform_and_the_same_for_any_values():
    low, high = masked_words(0), masked_words(2**40)
    for words in (low, high):
        for shift in range(0, 64, 8):
            counts = np.bincount(((words >> WORD.type(shift)) & WORD.type(255)).astype(int), minlength=256)
            assert chisquare(counts).pvalue > 1e-6
    assert ks_2samp(low.astype(np.float64), high.astype(np.float64)).pvalue > 1e-6


def test_the_uniformity_test_fails_on_values_without_a_mask():
    counts = np.bincount((random_values(3, 1, texts=64)[0] >> WORD.type(56)).ravel().astype(int), minlength=256)
    assert chisquare(counts).pvalue < 1e-6


def test_a_vanished_client_stays_hidden_by_its_own_mask_when_its_values_arrive_late():
    """The server has requested the shares of its secret key and removes all masks that these reveal."""
    keys, peers = received_peers(5, threshold=3)
    values = [np.zeros((64, 64), dtype=WORD)] * 5
    _, masked, shares = summed(keys, peers, values, survivors=[0, 1, 2, 3])
    secret = key_agreement.join_shares([held[4] for held in shares.values()], threshold=3)
    assert secret == peers[4].mask_secret
    pairs_only = mask_values(replace(peers[4], seed=bytes(32)), values[4])
    without = mask_values(replace(peers[4], seed=bytes(32), seed_shares=(b"", b"", b"", b"", b"x")), values[4])
    left = masked[4].values - (pairs_only.values - without.values)
    counts = np.bincount((left & WORD.type(255)).ravel().astype(int), minlength=256)
    assert chisquare(counts).pvalue > 1e-6


def test_no_client_reveals_both_shares_of_a_peer():
    _, peers = received_peers(5, threshold=3)
    peer = mask_values(peers[0], random_values(4, 1)[0]).peer
    for survivors in ([0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]):
        shares = reveal_shares(peer, survivors, least_clients=2)
        for place, share in enumerate(shares):
            assert share == (peer.seed_shares if place in survivors else peer.key_shares)[place]


def test_two_halves_of_the_clients_told_different_stories_do_not_hold_enough_of_both_secrets():
    _, peers = received_peers(5, threshold=3)
    masked = {place: mask_values(peer, random_values(5, 5)[place]).peer for place, peer in peers.items()}
    seeds = [reveal_shares(masked[place], [0, 1, 2, 3, 4], least_clients=2)[4] for place in (0, 1, 4)]
    secrets = [reveal_shares(masked[place], [0, 1, 2, 3], least_clients=2)[4] for place in (2, 3)]
    assert key_agreement.join_shares(seeds, threshold=3) == peers[4].seed
    with pytest.raises(WireError, match="2 shares of a secret"):
        key_agreement.join_shares(secrets, threshold=3)


def changed(keys, **changes):
    return replace(keys, **changes)


def swapped(keys):
    first, second, *rest = keys.mask_keys
    return changed(keys, mask_keys=(second, first, *rest))


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (lambda k: swapped(k), WireError, "other keys for this client"),
        (lambda k: changed(k, round_number=9), WireError, "asks for round 9"),
        (lambda k: changed(k, mask_keys=k.mask_keys[:-1]), WireError, "send all keys"),
        (lambda k: changed(k, mask_keys=(*k.mask_keys[:-1], k.mask_keys[0])), WireError, "a key twice"),
        (lambda k: changed(k, threshold=2), ConfigError, r"privacy\.threshold = 2 with 4"),
        (lambda k: changed(k, threshold=5), ConfigError, r"privacy\.threshold = 5 with 4"),
        (lambda k: changed(k, seal_keys=k.seal_keys[:2], mask_keys=k.mask_keys[:2]), PolicyError, "asks for 3"),
    ],
)
def test_a_list_of_clients_that_could_expose_one_is_refused(change, error, reason):
    peers = [Peer.fresh(ROUND) for _ in range(4)]
    with pytest.raises(error, match=reason):
        deal_shares(peers[0], change(key_list(peers, threshold=3)), place=0, least_clients=3)


def test_a_key_that_is_no_point_of_the_curve_is_refused():
    peers = [Peer.fresh(ROUND) for _ in range(3)]
    keys = key_list(peers, threshold=2)
    keys = changed(keys, seal_keys=(*keys.seal_keys[:-1], b"\x02" + b"\xff" * 48))
    with pytest.raises(WireError, match="no point of the curve"):
        deal_shares(peers[0], keys, place=0, least_clients=3)


def test_shares_are_dealt_once():
    keys, peers, _ = dealt_peers(3, threshold=2)
    with pytest.raises(WireError, match="a second time"):
        deal_shares(peers[0], keys, place=0, least_clients=2)


def test_clients_that_were_shown_different_lists_cannot_open_each_others_shares():
    peers = [Peer.fresh(ROUND) for _ in range(4)]
    keys = key_list(peers, threshold=3)
    other = changed(keys, mask_keys=(*keys.mask_keys[:-1], Peer.fresh(ROUND).public_keys[1]))
    first, _ = deal_shares(peers[0], keys, place=0, least_clients=2)
    sealed = [deal_shares(peers[place], other, place=place, least_clients=2)[1][0] for place in (1, 2)]
    with pytest.raises(WireError, match="another list of clients"):
        receive_shares(first, [b"", *sealed, b""], least_clients=2)


@pytest.mark.parametrize(
    "relay", [lambda boxes: [b"", boxes[2], boxes[1]], lambda boxes: [b"", boxes[1][:-1], boxes[2]]]
)
def test_shares_that_were_moved_or_altered_are_not_opened(relay):
    _, peers, sealed = dealt_peers(3, threshold=2)
    with pytest.raises(WireError, match="sealed"):
        receive_shares(peers[0], relay([b"", sealed[1][0], sealed[2][0]]), least_clients=2)


def test_a_round_with_too_few_peers_left_is_refused_before_masking():
    _, peers, sealed = dealt_peers(5, threshold=4)
    with pytest.raises(PolicyError, match="3 client"):
        receive_shares(peers[0], [b"", sealed[1][0], sealed[2][0], b"", b""], least_clients=2)


@pytest.mark.parametrize(
    ("survivors", "error", "reason"),
    [
        ([0, 1, 1, 2], WireError, "not distinct"),
        ([0, 1, 2, 9], WireError, "not distinct clients of this round"),
        ([1, 2, 3], WireError, "vanished although it answers"),
        ([0, 1], PolicyError, "2 client.s. survive"),
    ],
)
def test_survivors_that_could_expose_a_client_are_refused(survivors, error, reason):
    _, peers = received_peers(4, threshold=3)
    with pytest.raises(error, match=reason):
        reveal_shares(mask_values(peers[0], random_values(6, 1)[0]).peer, survivors, least_clients=2)


def test_nothing_is_revealed_before_masking_and_no_shares_are_received_twice():
    _, peers = received_peers(3, threshold=2)
    with pytest.raises(WireError, match="before this client has masked"):
        reveal_shares(peers[0], [0, 1, 2], least_clients=2)
    with pytest.raises(WireError, match="out of turn"):
        receive_shares(peers[0], [b"", b"", b""], least_clients=2)


def test_wrong_shares_are_noticed_and_nothing_is_unmasked():
    keys, peers = received_peers(3, threshold=2)
    masked = {place: mask_values(peer, random_values(7, 3)[place]) for place, peer in peers.items()}
    shares = {place: reveal_shares(m.peer, [0, 1, 2], least_clients=2) for place, m in masked.items()}
    shares[0][1] = shares[0][1][:-20] + bytes(4) + shares[0][1][-16:]
    answers = {
        place: MaskedAnswer(m.values, m.commitment, reused=False, seconds=0.0, claim=CLAIM)
        for place, m in masked.items()
    }
    with pytest.raises(FederationError, match="run again"):
        unmask_sum(answers, shares, keys=keys, members=[0, 1, 2])


def test_a_round_and_its_peers_have_masks_of_their_own():
    secret, peer = key_agreement.new_secret(), key_agreement.public_key(key_agreement.new_secret())
    lists = [KeyList(number, 2, (b"a", b"b"), (b"c", b"d")).session for number in (1, 2)]
    keys = {key_agreement.pair_mask_key(secret, peer, session) for session in lists}
    keys |= {key_agreement.self_mask_key(bytes(32), session) for session in lists}
    keys |= {key_agreement.commitment(bytes(32), session) for session in lists}
    assert len(keys) == 6
