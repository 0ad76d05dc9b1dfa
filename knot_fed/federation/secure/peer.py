"""One client's part in a secure sum (Bonawitz et al. 2017, semi-honest, with drop-outs).

A client passes four stages, each once: it draws keys; it deals shares of its secrets, sealed for each peer; it masks
its values; it reveals one share of each peer. A peer's values are hidden by one mask per other client and by a
self-mask. If the values arrived, the share of the self-mask's seed is revealed; if the peer dropped out before, the
share of its secret key. No client ever reveals both.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import UInt

from knot_fed.errors import PolicyError, WireError
from knot_fed.federation.secure import key_agreement
from knot_fed.privacy.secure_sum import add_masks, check_threshold, expand_mask


@dataclass(frozen=True, slots=True)
class KeyList:
    """The clients of one round, by place: their public keys, and the number of shares that restores a secret.

    Shares are sealed under the seal keys, and masks are agreed under the mask keys.
    """

    round_number: int
    threshold: int
    seal_keys: tuple[bytes, ...]
    mask_keys: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.seal_keys)

    @property
    def session(self) -> bytes:
        """What all keys of the round are bound to: a client that sees another list derives other keys."""
        digest = hashlib.sha256(b"knot_fed secure sum 1")
        for number in (self.round_number, self.threshold, len(self)):
            digest.update(number.to_bytes(8, "big"))
        for key in (*self.seal_keys, *self.mask_keys):
            digest.update(len(key).to_bytes(2, "big") + key)
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Peer:
    """A client's state between the messages of a round; wiped when the round ends.

    `place` is the client's place in the list (-1: not known yet), `seed` that of its self-mask. `seed_shares` and
    `key_shares` are the shares that it holds, by their owner's place, empty where the owner dealt none. `masked` states
    whether the masked values were sent.
    """

    round_number: int
    seal_secret: bytes
    mask_secret: bytes
    place: int = -1
    threshold: int = 0
    seal_keys: tuple[bytes, ...] = ()
    mask_keys: tuple[bytes, ...] = ()
    seed: bytes = b""
    seed_shares: tuple[bytes, ...] = ()
    key_shares: tuple[bytes, ...] = ()
    masked: bool = False

    @classmethod
    def fresh(cls, round_number: int) -> "Peer":
        """Draw the keys of a new round."""
        return cls(round_number, key_agreement.new_secret(), key_agreement.new_secret())

    @property
    def public_keys(self) -> tuple[bytes, bytes]:
        """The client's seal key and mask key."""
        return key_agreement.public_key(self.seal_secret), key_agreement.public_key(self.mask_secret)

    @property
    def key_list(self) -> KeyList:
        """The clients of the round."""
        return KeyList(self.round_number, self.threshold, self.seal_keys, self.mask_keys)

    @property
    def members(self) -> list[int]:
        """Places of the clients whose shares this client holds, including its own."""
        return [place for place, share in enumerate(self.seed_shares) if share]

    def to_mapping(self) -> dict[str, object]:
        """Return the fields that are set, with lists instead of tuples."""
        fields = {key: value for key, value in asdict(self).items() if value != ()}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}


def deal_shares(peer: Peer, keys: KeyList, *, place: int, least_clients: int) -> tuple[Peer, list[bytes]]:
    """Check the list of clients, draw the self-mask's seed, and seal shares of seed and secret key for each peer.

    `least_clients` is the fewest clients that the owner allows in a sum, itself included. Returns the client with the
    list and its own shares, and the sealed shares by place, empty for its own.
    """
    if peer.seal_keys:
        raise WireError("asks to deal shares a second time; a round deals once, start another")
    if keys.round_number != peer.round_number:
        raise WireError(f"asks for round {keys.round_number}, the keys are of round {peer.round_number}; ask for keys")
    clients = len(keys)
    if len(keys.mask_keys) != clients or not 0 <= place < clients:
        raise WireError(f"names place {place} in a list of {clients} clients; send all keys and a place among them")
    if (keys.seal_keys[place], keys.mask_keys[place]) != peer.public_keys:
        raise WireError("names other keys for this client than it sent; relay keys unchanged")
    if len({*keys.seal_keys, *keys.mask_keys}) != 2 * clients:
        raise WireError("lists a key twice, so that one client may act as several; list each client once")
    _check_enough(clients, least_clients, "take part in")
    check_threshold(keys.threshold, clients=clients)
    seed, session = key_agreement.new_seed(), keys.session
    seed_shares = key_agreement.split_secret(seed, threshold=keys.threshold, clients=clients)
    key_shares = key_agreement.split_secret(peer.mask_secret, threshold=keys.threshold, clients=clients)
    sealed = [
        b"" if other == place else key_agreement.seal_shares(
            seed_shares[other], key_shares[other], secret=peer.seal_secret, peer=keys.seal_keys[other],
            session=session, sender=place, receiver=other,
        )
        for other in range(clients)
    ]  # fmt: skip
    own_seed, own_key = (
        tuple(share if other == place else b"" for other, share in enumerate(shares))
        for shares in (seed_shares, key_shares)
    )
    dealt = replace(
        peer, place=place, threshold=keys.threshold, seal_keys=keys.seal_keys, mask_keys=keys.mask_keys, seed=seed,
        seed_shares=own_seed, key_shares=own_key,
    )  # fmt: skip
    return dealt, sealed


def receive_shares(peer: Peer, sealed: Sequence[bytes], *, least_clients: int) -> Peer:
    """Open the shares that the peers sealed for this client; a peer that dealt none is out of the round."""
    if not peer.seal_keys or peer.masked or len(peer.members) != 1:
        raise WireError("asks for masked values out of turn; keys, shares, masked values and unmasking come once each")
    if len(sealed) != len(peer.seal_keys) or sealed[peer.place]:
        raise WireError(f"relays {len(sealed)} sealed shares, expected one for each of {len(peer.seal_keys)} clients")
    session = peer.key_list.session
    seed_shares, key_shares = list(peer.seed_shares), list(peer.key_shares)
    for other, box in enumerate(sealed):
        if box:
            seed_shares[other], key_shares[other] = key_agreement.open_shares(
                box, secret=peer.seal_secret, peer=peer.seal_keys[other], session=session, sender=other,
                receiver=peer.place,
            )  # fmt: skip
    received = replace(peer, seed_shares=tuple(seed_shares), key_shares=tuple(key_shares))
    _check_enough(len(received.members), max(peer.threshold, least_clients), "are left in")
    return received


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """A client after masking, its masked values, and the commitment to its seed."""

    peer: Peer
    values: UInt[np.ndarray, "texts columns"]
    commitment: bytes


def mask_values(peer: Peer, values: UInt[np.ndarray, "texts columns"]) -> Masked:
    """Add the self-mask and one mask per peer, which cancels in the sum: the client of the earlier place adds it."""
    session = peer.key_list.session
    rows, columns = values.shape

    def mask(key: bytes) -> UInt[np.ndarray, "texts columns"]:
        return expand_mask(key, rows=rows, columns=columns, word=values.dtype)

    def with_peer(other: int) -> UInt[np.ndarray, "texts columns"]:
        return mask(key_agreement.pair_mask_key(peer.mask_secret, peer.mask_keys[other], session))

    masked = add_masks(
        add_masks(values, plus=[mask(key_agreement.self_mask_key(peer.seed, session))], minus=[]),
        plus=(with_peer(other) for other in peer.members if other > peer.place),
        minus=(with_peer(other) for other in peer.members if other < peer.place),
    )
    return Masked(replace(peer, masked=True), masked, key_agreement.commitment(peer.seed, session))


def reveal_shares(peer: Peer, survivors: Sequence[int], *, least_clients: int) -> list[bytes]:
    """Reveal one share of each peer: of its seed if it survived, of its secret key if it dropped out.

    The client must be wiped afterwards, so that nothing is revealed twice. The shares are ordered by place, and empty
    for a client that never took part. `survivors` are the places of the clients whose masked values the server holds.
    """
    if not peer.masked:
        raise WireError("asks to unmask before this client has masked; ask for masked values first")
    alive = set(survivors)
    if len(alive) != len(survivors) or not alive <= set(peer.members):
        raise WireError("names survivors that are not distinct clients of this round; name each once")
    if peer.place not in alive:
        raise WireError("names this client as vanished although it answers; name it among the survivors")
    _check_enough(len(alive), max(peer.threshold, least_clients), "survive in")
    places = range(len(peer.seal_keys))
    return [peer.seed_shares[place] if place in alive else peer.key_shares[place] for place in places]


def _check_enough(clients: int, least: int, what: str) -> None:
    if clients < least:
        raise PolicyError(
            f"{clients} client(s) {what} the secure sum, this client asks for {least}, by its least-clients or the"
            " threshold; start more clients"
        )
