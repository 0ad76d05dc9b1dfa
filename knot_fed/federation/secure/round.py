"""The server's part in a secure sum: it relays keys, shares and masked values, and takes the masks off the sum.

It never holds enough shares of both of a client's secrets, and so never sees that client's soft labels.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from jaxtyping import UInt

from knot_fed.errors import FederationError, WireError
from knot_fed.federation.secure import key_agreement, sum_wire
from knot_fed.federation.secure.peer import KeyList
from knot_fed.federation.server.nodes import content_of
from knot_fed.federation.server.roster import ClientRecord, Roster
from knot_fed.federation.wire import exchange
from knot_fed.privacy.secure_sum import Quantisation, add_masks, check_threshold, default_threshold, expand_mask

_Answer = TypeVar("_Answer")

logger = logging.getLogger("knot_fed")


class SecureRound:
    """One round of a secure sum, from the clients' keys to the sum.

    Parameters
    ----------
    roster
        The clients of the run; traffic and states are entered there.
    grid
        Carries the messages.
    round_number
        The round, from 1.
    """

    def __init__(self, roster: Roster, grid: Grid, round_number: int) -> None:
        self._roster = roster
        self._grid = grid
        self._round = round_number
        self.clients: list[ClientRecord] = []
        self.keys = KeyList(round_number, 0, (), ())
        self.sealed: dict[int, list[bytes]] = {}
        self.answers: dict[str, sum_wire.MaskedAnswer] = {}

    def open(self, asked: list[ClientRecord]) -> None:
        """Collect keys, then sealed shares; who gives none is out of the round, and no value is at stake yet.

        Raises
        ------
        FederationError
            If too few clients are left to unmask a sum.
        """
        keys = self._exchange(
            [(record, sum_wire.pack_keys_request(self._round)) for record in asked],
            sum_wire.KEYS_STAGE,
            lambda _, content: sum_wire.unpack_keys(content, round_number=self._round),
        )
        self.clients = [record for record in asked if record.name in keys]
        threshold = self._roster.config.privacy.threshold or default_threshold(len(self.clients))
        self._require(len(self.clients), threshold, "sent keys")
        check_threshold(threshold, clients=len(self.clients))
        seal_keys, mask_keys = zip(*(keys[record.name] for record in self.clients), strict=True)
        self.keys = KeyList(self._round, threshold, seal_keys, mask_keys)
        sealed = self._exchange(
            [
                (record, sum_wire.pack_shares_request(self.keys, place=place))
                for place, record in enumerate(self.clients)
            ],
            sum_wire.SHARES_STAGE,
            lambda place, content: sum_wire.unpack_sealed(
                content, round_number=self._round, clients=len(self.clients), place=place
            ),
        )
        self.sealed = {place: sealed[r.name] for place, r in enumerate(self.clients) if r.name in sealed}
        self._require(len(self.sealed), threshold, "sealed shares")

    def ask_masked(self, request_of: Callable[[ClientRecord], exchange.TrainRequest]) -> list[Message]:
        """Ask each client that sealed shares for masked values, and relay what its peers sealed for it."""
        messages = []
        for place in self.sealed:
            record = self.clients[place]
            relayed = [self.sealed[other][place] if other in self.sealed else b"" for other in range(len(self.clients))]
            content = sum_wire.pack_masked_request(request_of(record), relayed)
            messages.append(self._roster.message(content, record, f"train.{sum_wire.MASKED_STAGE}"))
        return messages

    def close(
        self, replies: Iterable[Message], *, texts: int, columns: int, quantisation: Quantisation
    ) -> UInt[np.ndarray, "texts columns"]:
        """Read the masked values, ask for shares, and return the sum of those that arrived, unmasked.

        Raises
        ------
        FederationError
            If fewer than the threshold, or `min-teachers`, sent masked values or shares: then no mask is taken off.
        """
        self.answers = self._read(
            replies,
            lambda _, content: sum_wire.unpack_masked(
                content,
                round_number=self._round,
                texts=texts,
                columns=columns,
                word=quantisation.word,
                mechanism=self._roster.config.privacy.mechanism,
            ),
        )
        survivors = [place for place in self.sealed if self.clients[place].name in self.answers]
        self._require(len(survivors), self.keys.threshold, "sent masked values")
        content = sum_wire.pack_unmask_request(self._round, survivors)
        revealed = self._exchange(
            [(self.clients[place], content) for place in survivors],
            sum_wire.UNMASK_STAGE,
            lambda place, reply: self._check_revealed(place, reply, set(survivors)),
        )
        self._require(len(revealed), self.keys.threshold, "helped to unmask", least=0)
        for place in survivors:
            self.clients[place].status = "ok"
        shares = {
            place: revealed[self.clients[place].name] for place in survivors if self.clients[place].name in revealed
        }
        masked = {place: self.answers[self.clients[place].name] for place in survivors}
        return unmask_sum(masked, shares, keys=self.keys, members=list(self.sealed))

    def _check_revealed(self, holder: int, content: RecordDict, survivors: set[int]) -> list[bytes]:
        shares = sum_wire.unpack_revealed(
            content, round_number=self._round, survivors=survivors, members=set(self.sealed), clients=len(self.clients)
        )
        for share in filter(None, shares):
            key_agreement.check_share(share, holder=holder, size=len(share))
        return shares

    def _exchange(
        self,
        requests: list[tuple[ClientRecord, RecordDict]],
        stage: str,
        unpack: Callable[[int, RecordDict], _Answer],
    ) -> dict[str, _Answer]:
        messages = []
        for record, content in requests:
            record.status = "no answer"
            messages.append(self._roster.message(content, record, f"train.{stage}"))
        return self._read(self._grid.send_and_receive(messages, timeout=self._roster.config.timeout), unpack)

    def _read(self, replies: Iterable[Message], unpack: Callable[[int, RecordDict], _Answer]) -> dict[str, _Answer]:
        """Read valid answers by client name; the reason of any other becomes the client's state."""
        places = {record.name: place for place, record in enumerate(self.clients)}
        answers: dict[str, _Answer] = {}
        for record, reply in self._roster.by_client(replies):
            try:
                answers[record.name] = unpack(places.get(record.name, -1), content_of(reply))
            except WireError as error:
                record.status = f"rejected: {error}"
                logger.warning("round %d: %s: %s", self._round, record.name, error)
            else:
                record.status = "in the secure sum"
            self._roster.log_reply(reply, record, outcome="ok" if record.name in answers else record.status)
        return answers

    def _require(self, count: int, threshold: int, what: str, *, least: int | None = None) -> None:
        least = self._roster.config.min_teachers if least is None else least
        if count < max(threshold, least):
            out = "; ".join(
                f"{r.name}: {r.status}" for r in self._roster.joined() if r.status not in ("ok", "in the secure sum")
            )
            raise FederationError(
                f"secure sum, round {self._round}: {count} client(s) {what}, the threshold is {threshold} and"
                f" min-teachers {self._roster.config.min_teachers} ({out or 'no client is missing'}); no mask was"
                " taken off and nothing revealed, mend these clients or lower privacy.threshold"
            )


def unmask_sum(
    masked: Mapping[int, sum_wire.MaskedAnswer],
    shares: Mapping[int, list[bytes]],
    *,
    keys: KeyList,
    members: list[int],
) -> UInt[np.ndarray, "texts columns"]:
    """Add masked values up and take off the masks that do not cancel.

    Those are the self-masks of the clients whose values arrived, and the masks between each of them and each client
    that vanished after it had dealt shares.

    Parameters
    ----------
    masked
        Masked values and commitments, by place.
    shares
        What each client revealed, by its place: one share for each place.
    keys
        The clients of the round.
    members
        Places of those that dealt shares.

    Raises
    ------
    FederationError
        If shares do not give back what their owner has bound itself to.
    """
    first = next(iter(masked.values())).masked
    rows, columns = first.shape

    def mask(key: bytes) -> UInt[np.ndarray, "texts columns"]:
        return expand_mask(key, rows=rows, columns=columns, word=first.dtype)

    def secret_of(place: int) -> bytes:
        return key_agreement.join_shares([held[place] for held in shares.values()], threshold=keys.threshold)

    total = add_masks(np.zeros_like(first), plus=(answer.masked for answer in masked.values()), minus=[])
    session = keys.session
    try:
        for place, answer in masked.items():
            seed = secret_of(place)
            if key_agreement.commitment(seed, session) != answer.commitment:
                raise WireError(f"the shares of place {place}'s seed give another one; run again")
            total = add_masks(total, plus=[], minus=[mask(key_agreement.self_mask_key(seed, session))])
        for place in sorted(set(members) - set(masked)):
            secret = secret_of(place)
            if key_agreement.public_key(secret) != keys.mask_keys[place]:
                raise WireError(f"the shares of place {place}'s secret key give another one; run again")
            for other in masked:
                pair = [mask(key_agreement.pair_mask_key(secret, keys.mask_keys[other], session))]
                total = add_masks(total, plus=pair if place < other else [], minus=pair if place > other else [])
    except WireError as error:
        raise FederationError(f"secure sum: {error}") from None
    return total
