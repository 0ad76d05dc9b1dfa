"""The answers of each round, kept in the run folder: other students are distilled from them without asking a client."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from typing_extensions import override

from knot_fed.aggregation import consensus_of_pooled, find_consensus
from knot_fed.config import RunConfig
from knot_fed.config.choices import reports_scores
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import DamagedError, RunFolderError
from knot_fed.federation.server.checkpoint import Received
from knot_fed.federation.server.collecting import Collector
from knot_fed.federation.server.facts import stated_claim
from knot_fed.federation.server.roster import ClientRecord, Roster
from knot_fed.federation.wire.exchange import Claim
from knot_fed.runs.arrays import pack_file, read_file
from knot_fed.runs.run_folder import RunFolder
from knot_fed.types import SoftLabels, TeacherAnswer

SCORE_BYTES = 4
"""Of the score of one text."""


@dataclass(frozen=True, slots=True)
class KeptClient:
    """A client in one round: its status after its answer was read, and this round's bytes, seconds and rows.

    `joined` is False for a node that did not pass the handshake, whose name is unknown. `reused` states whether the
    teacher was loaded, and is None if the client gave no valid answer.
    """

    joined: bool
    status: str
    examples: int
    bytes_up: int
    bytes_down: int
    seconds: float
    reused: bool | None
    claim: Claim | None
    rows_sent: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class KeptAnswers:
    """One round's answers, and the transfer set that they label.

    A file has the arrays `soft_labels`, float32 (clients, texts, labels), and `scores`, float32 (clients, texts), in
    the order of the names of the clients that answered; after a secure sum only `pooled`, float64 (texts, labels), and
    with a scheme that selects texts `selected`, float64 (texts,).
    """

    fingerprint: str
    clients: dict[str, KeptClient]
    answers: Mapping[str, TeacherAnswer]  # empty after a secure sum
    pooled: SoftLabels | None = None
    scored: bool = False  # whether the answers had scores, which the weighting scheme read; in version 0.1 always
    selected: Float[np.ndarray, "texts"] | None = None

    @classmethod
    def of(cls, received: Received, roster: Roster, fingerprint: str) -> "KeptAnswers":
        """Gather what a round received."""
        clients = {}
        for name, record in sorted(roster.outcome.clients.items()):
            told = received.teachers.get(name)
            up, down = roster.traffic_of_round(record)
            seconds = float(told["seconds"]) if told else 0.0
            reused = bool(told["reused"]) if told else None
            claim = stated_claim(roster.config, record.claim) if told and record.claim else None
            joined = bool(record.node_id or record.rounds)
            sent = int(told.get("rows_sent", 0)) if told else 0
            clients[name] = KeptClient(joined, record.status, record.examples, up, down, seconds, reused, claim, sent)
        pooled = None if received.answers else received.consensus.pooled
        scored = pooled is None and reports_scores(roster.config.weights.scheme)
        return cls(fingerprint, clients, received.answers, pooled, scored, received.selected)

    def save(self, folder: RunFolder, server_round: int) -> None:
        """Write the answers, readable by their owner only; raises RunFolderError if that fails."""
        facts = {
            "round": server_round,
            "fingerprint": self.fingerprint,
            "clients": {name: asdict(client) for name, client in self.clients.items()},
            "answered": list(self.answers),
            "scored": self.scored,
        }
        answers = self.answers.values()
        arrays = {"pooled": self.pooled} if self.pooled is not None else {
            "soft_labels": np.stack([answer.soft_labels for answer in answers], dtype=np.float32),
            "scores": np.stack([answer.scores for answer in answers], dtype=np.float32),
        }  # fmt: skip
        arrays |= {"selected": self.selected} if self.selected is not None else {}
        folder.write_answers(server_round, pack_file(facts, arrays))

    @classmethod
    def load(cls, folder: RunFolder, server_round: int) -> "KeptAnswers":
        """Read what `save` wrote; raises RunFolderError if it is missing or damaged."""
        file = folder.answers(server_round)
        if not file.is_file():
            raise RunFolderError(
                f"{folder.path}: no answers of round {server_round} are kept; the run stopped before that round, had"
                " keep-answers = false, or is itself distilled from another run's answers: use that run"
            )
        try:
            file.open("rb").close()
            facts, arrays = read_file(file)
            if facts["round"] != server_round:
                raise DamagedError(f"it holds round {facts['round']}")
            clients = TypeAdapter(dict[str, KeptClient]).validate_python(facts["clients"])
            answers = {
                name: TeacherAnswer(arrays["soft_labels"][row], arrays["scores"][row], clients[name].examples)
                for row, name in enumerate(facts["answered"])
            }
            sums = arrays.get("pooled"), facts.get("scored", True), arrays.get("selected")
            return cls(facts["fingerprint"], clients, answers, *sums)
        except OSError as error:
            raise RunFolderError(
                f"{file}: cannot be read ({error.strerror}); only the user who ran the server may read it"
            ) from None
        except (DamagedError, ValidationError, KeyError, IndexError, TypeError) as error:
            raise RunFolderError(f"{file}: the kept answers are damaged ({error}); run the federation again") from None


class KeptCollector(Collector):
    """Enters the kept answers of a run instead of asking its clients; `kept` holds them by round."""

    reaches_clients = False

    def __init__(
        self,
        config: RunConfig,
        transfer: TransferSet,
        public_teacher: TeacherAnswer | None,
        kept: Mapping[int, KeptAnswers],
    ) -> None:
        super().__init__(config, transfer, public_teacher)
        self._kept = kept

    @override
    def requests(self, roster: Roster, server_round: int, grid: Grid, answered: Collection[int] = ()) -> list[Message]:
        roster.round = server_round
        return []

    @override
    def ask(self, roster: Roster, server_round: int, grid: Grid) -> list[Message]:
        return self.requests(roster, server_round, grid)

    @override
    def collect(self, roster: Roster, server_round: int, replies: Iterable[Message]) -> Received:
        kept = self._kept[server_round]
        self._check_shape(kept, server_round)
        unread = SCORE_BYTES if kept.scored and not reports_scores(self.config.weights.scheme) else 0
        for name, client in kept.clients.items():
            record = roster.outcome.clients.setdefault(name, ClientRecord(name, 0))
            _enter(record, client, server_round, asked=len(self.transfer.slice(server_round, self.config.slices)))
            record.bytes_up -= unread * client.rows_sent  # a run of its own would not have asked for them
        teachers = {
            name: {"reused": client.reused, "seconds": client.seconds, "rows_sent": client.rows_sent}
            for name, client in kept.clients.items()
            if client.reused is not None
        }
        roster.close_round(teachers, how=", from the answers kept")
        if kept.pooled is not None:
            found = consensus_of_pooled(kept.pooled, self.config.weights, kept.selected)
            return Received(teachers, found, selected=kept.selected)
        answers = list(kept.answers.values())
        if self.public_teacher is not None:
            answers.append(self.public_teacher.select(self.transfer.slice(server_round, self.config.slices)))
        return Received(teachers, find_consensus(answers, self.config.weights, self.config.distill), kept.answers)

    def _check_shape(self, kept: KeptAnswers, server_round: int) -> None:
        """Refuse a file of another run, whose rows would be taken for those of other texts."""
        texts, labels = len(self.transfer.slice(server_round, self.config.slices)), len(self.config.label_space())
        held = [kept.pooled] if kept.pooled is not None else [answer.soft_labels for answer in kept.answers.values()]
        shapes = {rows.shape for rows in held}
        if shapes != {(texts, labels)} or (kept.pooled is not None) != self.config.privacy.secure_sum:
            raise RunFolderError(
                f"the kept answers of round {server_round} have shapes {sorted(shapes)}, expected {(texts, labels)} of"
                f" {'the sum' if self.config.privacy.secure_sum else 'each client'}; they are those of another run: use"
                " the folder as the run left it"
            )


def _enter(record: ClientRecord, client: KeptClient, server_round: int, *, asked: int) -> None:
    record.asked_in = server_round if client.bytes_down else record.asked_in
    record.status, record.examples = client.status, client.examples
    record.bytes_up += client.bytes_up
    record.bytes_down += client.bytes_down
    if client.claim is not None:
        record.enter(client.claim, seconds=client.seconds, asked=asked, sent=client.rows_sent)
