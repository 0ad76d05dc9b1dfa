"""The server's part in a secure sum: it relays keys, shares and masked values, and unmasks the sum.

It never holds enough shares of both secrets of a client, and so never sees that client's soft labels.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TypeVar

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from jaxtyping import UInt
from typing_extensions import override

from knot_fed.aggregation import consensus_of_pooled, find_scheme, selects_texts, sharpen, single_weights, weight_bound
from knot_fed.config import MOST_CLIENTS_IN_SUM, RunConfig
from knot_fed.config.choices import reports_scores
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import FederationError, WireError
from knot_fed.federation.secure import key_agreement, sum_wire
from knot_fed.federation.secure.peer import KeyList
from knot_fed.federation.server.checkpoint import Received
from knot_fed.federation.server.collecting import AnswerCollector, Collector
from knot_fed.federation.server.nodes import content_of
from knot_fed.federation.server.roster import ClientRecord, Roster
from knot_fed.federation.wire import envelope, exchange
from knot_fed.privacy import secure_sum
from knot_fed.types import TeacherAnswer

_Answer = TypeVar("_Answer")


class SecureRound:
    """One round of a secure sum, from the clients' keys to the sum."""

    def __init__(self, roster: Roster, grid: Grid, round_number: int) -> None:
        self._roster = roster
        self._grid = grid
        self._round = roster.round = round_number
        self.clients: list[ClientRecord] = []
        self.keys = KeyList(round_number, 0, (), ())
        self.sealed: dict[int, list[bytes]] = {}
        self.answers: dict[str, sum_wire.MaskedAnswer] = {}

    def open(self, asked: list[ClientRecord]) -> None:
        """Collect keys, then sealed shares; a client that sends none is out of the round."""
        keys = self._exchange(
            [(record, sum_wire.pack_keys_request(self._round)) for record in asked],
            sum_wire.KEYS_STAGE,
            lambda _, content: sum_wire.unpack_keys(content, round_number=self._round),
        )
        self.clients = [record for record in asked if record.name in keys]
        threshold = self._roster.config.privacy.threshold or secure_sum.default_threshold(len(self.clients))
        self._require(len(self.clients), threshold, "sent keys")
        secure_sum.check_threshold(threshold, clients=len(self.clients))
        seal_keys, mask_keys = zip(*(keys[record.name] for record in self.clients), strict=True)
        self.keys = KeyList(self._round, threshold, seal_keys, mask_keys)
        clients = len(self.clients)
        sealed = self._exchange(
            [(r, sum_wire.pack_shares_request(self.keys, place=place)) for place, r in enumerate(self.clients)],
            sum_wire.SHARES_STAGE,
            lambda place, reply: sum_wire.unpack_sealed(reply, round_number=self._round, clients=clients, place=place),
        )
        self.sealed = {place: sealed[r.name] for place, r in enumerate(self.clients) if r.name in sealed}
        self._require(len(self.sealed), threshold, "sealed shares")

    def ask_masked(self, request_of: Callable[[ClientRecord], exchange.TrainRequest]) -> list[Message]:
        """Ask each client that sealed shares for masked values, and relay the shares sealed for it."""
        messages = []
        for place in self.sealed:
            record = self.clients[place]
            relayed = [self.sealed[other][place] if other in self.sealed else b"" for other in range(len(self.clients))]
            content = sum_wire.pack_masked_request(request_of(record), relayed)
            messages.append(self._roster.message(content, record, f"train.{sum_wire.MASKED_STAGE}"))
        return messages

    def close(
        self, replies: Iterable[Message], *, texts: int, columns: int, quantisation: secure_sum.Quantisation
    ) -> UInt[np.ndarray, "texts columns"]:
        """Read the masked values, ask for shares, and return the unmasked sum of the values that arrived.

        Raises FederationError, and unmasks nothing, if fewer than the threshold, or `min-teachers`, sent values or
        shares.
        """
        read = partial(
            sum_wire.unpack_masked, round_number=self._round, texts=texts, columns=columns, word=quantisation.word,
            mechanism=self._roster.config.privacy.mechanism,
        )  # fmt: skip
        self.answers = self._read(replies, lambda _, content: read(content))
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
        names = {place: self.clients[place].name for place in survivors}
        shares = {place: revealed[name] for place, name in names.items() if name in revealed}
        masked = {place: self.answers[name] for place, name in names.items()}
        return unmask_sum(masked, shares, keys=self.keys, members=list(self.sealed))

    def _check_revealed(self, holder: int, content: RecordDict, survivors: set[int]) -> list[bytes]:
        shares = sum_wire.unpack_revealed(
            content, round_number=self._round, survivors=survivors, members=set(self.sealed), clients=len(self.clients)
        )
        for share in filter(None, shares):
            key_agreement.check_share(share, holder=holder, size=len(share))
        return shares

    def _exchange(
        self, requests: list[tuple[ClientRecord, RecordDict]], stage: str, unpack: Callable[[int, RecordDict], _Answer]
    ) -> dict[str, _Answer]:
        messages = []
        for record, content in requests:
            record.status = "no answer"
            messages.append(self._roster.message(content, record, f"train.{stage}"))
        return self._read(self._grid.send_and_receive(messages, timeout=self._roster.config.timeout), unpack)

    def _read(self, replies: Iterable[Message], unpack: Callable[[int, RecordDict], _Answer]) -> dict[str, _Answer]:
        places = {record.name: place for place, record in enumerate(self.clients)}
        return self._roster.read(
            replies,
            lambda record, reply: unpack(places.get(record.name, -1), content_of(reply)),
            status="in the secure sum",
        )

    def _require(self, count: int, threshold: int, what: str, *, least: int | None = None) -> None:
        least = self._roster.config.min_teachers if least is None else least
        if count < max(threshold, least):
            fine = ("ok", "in the secure sum")
            out = "; ".join(f"{r.name}: {r.status}" for r in self._roster.joined() if r.status not in fine)
            raise FederationError(
                f"secure sum, round {self._round}: {count} client(s) {what}, the threshold is {threshold} and"
                f" min-teachers {self._roster.config.min_teachers} ({out or 'no client is missing'}); no mask was"
                " removed and nothing revealed; fix these clients or lower privacy.threshold"
            )


def unmask_sum(
    masked: Mapping[int, sum_wire.MaskedAnswer], shares: Mapping[int, list[bytes]], *, keys: KeyList, members: list[int]
) -> UInt[np.ndarray, "texts columns"]:
    """Add masked values, and remove the masks that do not cancel; refuse shares that restore another secret.

    Those are the self-masks of the clients whose values arrived, and the masks between each of them and each member
    that dropped out after it had dealt shares. Answers and shares are given by place, shares by their revealer's.
    """
    first = next(iter(masked.values())).masked
    rows, columns = first.shape

    def mask(key: bytes) -> UInt[np.ndarray, "texts columns"]:
        return secure_sum.expand_mask(key, rows=rows, columns=columns, word=first.dtype)

    def secret_of(place: int) -> bytes:
        return key_agreement.join_shares([held[place] for held in shares.values()], threshold=keys.threshold)

    total = secure_sum.add_masks(np.zeros_like(first), plus=(answer.masked for answer in masked.values()), minus=[])
    session = keys.session
    try:
        for place, answer in masked.items():
            seed = secret_of(place)
            if key_agreement.commitment(seed, session) != answer.commitment:
                raise WireError(f"the shares of place {place}'s seed restore another one; run again")
            total = secure_sum.add_masks(total, plus=[], minus=[mask(key_agreement.self_mask_key(seed, session))])
        for place in sorted(set(members) - set(masked)):
            secret = secret_of(place)
            if key_agreement.public_key(secret) != keys.mask_keys[place]:
                raise WireError(f"the shares of place {place}'s secret key restore another one; run again")
            for other in masked:
                pair = [mask(key_agreement.pair_mask_key(secret, keys.mask_keys[other], session))]
                total = secure_sum.add_masks(
                    total, plus=pair if place < other else [], minus=pair if place > other else []
                )
    except WireError as error:
        raise FederationError(f"secure sum: {error}") from None
    return total


class SecureSumCollector(Collector):
    """Collects the sum of the clients' weighted soft labels under masks; parameters as in `Collector`."""

    _sum: SecureRound

    @override
    def requests(self, roster: Roster, server_round: int, grid: Grid, answered: Collection[int] = ()) -> list[Message]:
        roster.welcome(grid, self.transfer)
        self._sum = SecureRound(roster, grid, server_round)
        sampled = self.sample(roster, server_round)
        for record in sampled:
            record.asked_in = server_round
        self._sum.open(sampled)
        return self._sum.ask_masked(lambda record: self.request(record, server_round))

    @override
    def ask(self, roster: Roster, server_round: int, grid: Grid) -> list[Message]:
        """Ask once: no client masks the same rows for a second sum, and an absent client is left out."""
        messages = self.requests(roster, server_round, grid)
        return list(grid.send_and_receive(messages, timeout=self.config.timeout))

    @override
    def collect(self, roster: Roster, server_round: int, replies: Iterable[Message]) -> Received:
        rows = self.transfer.slice(server_round, self.config.slices)
        bound = weight_bound(self.config.weights.scheme, power=self.config.weights.power)
        quantisation = secure_sum.Quantisation(self.config.privacy.sum_bits, bound, parties=len(self._sum.clients) + 1)
        columns = len(self.config.label_space()) + 1
        total = self._sum.close(replies, texts=len(rows), columns=columns, quantisation=quantisation)
        if self.public_teacher is not None:
            public = self.public_teacher.select(rows)  # it is not private, and is added in clear
            own = single_weights(self.config.weights.scheme, public, power=self.config.weights.power)
            total = secure_sum.add_masks(
                total, plus=[secure_sum.quantise(public.soft_labels, own, quantisation)], minus=[]
            )
        weighted, weights = secure_sum.dequantise(total, quantisation)
        pooled = weighted / weighted.sum(axis=1, keepdims=True)
        answers = self._sum.answers
        roster.close_round(answers, how=", in a secure sum")
        for record in self._sum.clients:
            if record.name in answers:
                answer = answers[record.name]
                record.enter(answer.claim, seconds=answer.seconds, asked=len(rows), sent=len(rows))
        teachers = {
            name: {"reused": answer.reused, "seconds": answer.seconds, "rows_sent": len(rows)}
            for name, answer in sorted(answers.items())
        }
        if self.config.weights.pooling == "era":
            pooled = sharpen(pooled, self.config.weights.era_temperature)
        selected = None
        if selects_texts(self.config.weights.scheme):
            summands = len(answers) + (self.public_teacher is not None)
            selected = secure_sum.weighed(weights, quantisation, summands=summands)
        return Received(teachers, consensus_of_pooled(pooled, self.config.weights, selected), selected=selected)


def make_collector(config: RunConfig, transfer: TransferSet, public_teacher: TeacherAnswer | None) -> Collector:
    """Return the configured collector."""
    if config.privacy.secure_sum:
        return SecureSumCollector(config, transfer, public_teacher)
    find_scheme(config.weights.scheme)  # a plug-in that cannot be imported is refused before any training
    return AnswerCollector(config, transfer, public_teacher)


def reply_bounds(config: RunConfig, *, texts: int) -> envelope.ReplyBounds:
    """Bound the replies to the requests of the configured collector."""
    classes = len(config.label_space())
    if not config.privacy.secure_sum:
        return envelope.ReplyBounds.of_soft_labels(texts, classes, scored=reports_scores(config.weights.scheme))
    # Masked values in the longest words, or sealed shares for all peers.
    size = max(8 * texts * (classes + 1), MOST_CLIENTS_IN_SUM * sum_wire.SEALED_BYTES)
    return envelope.ReplyBounds.of_arrays([size])
