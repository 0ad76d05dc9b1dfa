"""The consensus goes back to the clients, which distil it into personal models; only metrics return."""

import logging
import time
from typing import NamedTuple

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from jaxtyping import UInt

from knot_fed.config import RunConfig
from knot_fed.errors import WireError, phase
from knot_fed.federation.server.learning import Learner
from knot_fed.federation.server.nodes import content_of
from knot_fed.federation.server.roster import ClientRecord, Outcome, Roster
from knot_fed.federation.wire import exchange, personal_wire
from knot_fed.geometry import evaluation_labels, local_labels
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.types import SoftLabels

AWAY = "not connected when the consensus was sent"
SILENT = "gave no answer in time; see the client's log"

logger = logging.getLogger("knot_fed")


def send_consensus(learner: Learner, roster: Roster, server_round: int, grid: Grid) -> None:
    """Send the consensus to all clients that are there, if it is due after this round, and enter what they reply.

    A client that refuses, fails or is away is named with its reason, and does not fail the run.
    """
    config = learner.config
    if not is_due(config, server_round):
        return
    with phase("personal models"):
        deadline = time.monotonic() + config.timeout
        states = {record.name: record.status for record in roster.joined() if record.rounds}
        roster.welcome(grid, learner.transfer)
        for name, status in states.items():  # that it left after its answer is told by its reason
            roster.outcome.clients[name].status = status
        asked = roster.present()
        messages = _messages(learner, roster, asked, server_round, consensus(learner, server_round))
        replies = grid.send_and_receive(messages, timeout=max(0.0, deadline - time.monotonic()))
        left = max(0.0, deadline - time.monotonic())
        replied = _read(roster, server_round, roster.ask_again(grid, messages, replies, timeout=left))
        for record in roster.joined():
            if record.name not in replied:
                _enter(roster.outcome, record.name, reason=SILENT if record in asked else AWAY)


def is_due(config: RunConfig, server_round: int) -> bool:
    """Return whether a consensus goes to the clients after this round."""
    personal = config.personal
    return personal.consensus != "none" and (personal.when == "rounds" or server_round == config.rounds)


class Consensus(NamedTuple):
    """Rows of the transfer set, the positions in them of the texts that teach (None: all), and their soft labels."""

    rows: range
    kept: UInt[np.ndarray, "kept"] | None
    soft_labels: SoftLabels


def consensus(learner: Learner, server_round: int) -> Consensus:
    """Return what goes down: after each round the rows of that round; at the end those of the whole transfer set.

    Pooled soft labels of texts that were left out of the distillation stay here.
    """
    config, transfer = learner.config, learner.transfer
    numbers = [server_round] if config.personal.when == "rounds" else config.last_pass
    slices = [transfer.slice(number, config.slices) for number in numbers]
    rows = range(slices[0].start, slices[-1].stop)
    if config.personal.consensus == "student":
        return Consensus(rows, None, predict_soft_labels(learner.student, transfer.texts[rows.start : rows.stop]))
    pooled = np.concatenate([learner.folder.read_pooled(number) for number in numbers])
    teaches = np.concatenate([learner.folder.read_text_weights(number) for number in numbers]) > 0
    soft_labels = (pooled / pooled.sum(axis=1, keepdims=True)).astype(np.float32)
    if teaches.all():
        return Consensus(rows, None, soft_labels)
    return Consensus(rows, np.flatnonzero(teaches).astype(np.uint32), soft_labels[teaches])


def _messages(
    learner: Learner, roster: Roster, asked: list[ClientRecord], server_round: int, found: Consensus
) -> list[Message]:
    """Return one message for each client; those with the texts share one content, and those without another."""
    contents, messages = dict[bool, RecordDict](), list[Message]()
    geometry = None if local_labels(roster.config) is not None else evaluation_labels(roster.config)
    start, stop = found.rows.start, found.rows.stop
    for record in asked:
        holds = record.holds_transfer_set
        if holds not in contents:
            texts = None if holds else learner.transfer
            part = exchange.TrainRequest(server_round, learner.transfer.fingerprint, start, stop, texts)
            contents[holds] = personal_wire.pack_consensus(
                personal_wire.ConsensusRequest(part, found.soft_labels, found.kept, geometry)
            )
        messages.append(roster.message(contents[holds], record, personal_wire.KIND))
    return messages


def _read(roster: Roster, server_round: int, replies: list[Message]) -> set[str]:
    """Enter the metrics of the last round, or reasons, and return the names of the clients that replied."""
    outcome, labels, last = roster.outcome, evaluation_labels(roster.config), server_round == roster.config.rounds
    replied = set()
    for record, reply in roster.by_client(replies):
        replied.add(record.name)
        try:
            read = personal_wire.unpack_reply(content_of(reply), round_number=server_round, labels=labels)
            record.holds_transfer_set = True
            record.seconds += read.seconds
            roster.log_reply(reply, record, outcome="ok")
        except WireError as error:
            roster.log_reply(reply, record, outcome=f"rejected: {error}")
            logger.warning("%s: personal model: %s", record.name, error)
            read = personal_wire.PersonalReply(withheld=str(error))
        _enter(outcome, record.name, read, reason=read.withheld if last else "")
    return replied


def _enter(outcome: Outcome, name: str, read: personal_wire.PersonalReply | None = None, *, reason: str) -> None:
    outcome.personal.pop(name, None)
    outcome.without_personal.pop(name, None)
    if read is not None and read.before is not None and read.after is not None:
        outcome.personal[name] = {"before": read.before, "after": read.after}
    elif reason:
        outcome.without_personal[name] = reason


def personal_facts(config: RunConfig, outcome: Outcome) -> dict[str, object]:
    """Return the section `personal` of `summary.json`; none without a consensus, or where no client was there."""
    if not (outcome.personal or outcome.without_personal):
        return {}
    measured = {
        name: {when: metrics.to_mapping() for when, metrics in both.items()} for name, both in outcome.personal.items()
    }
    reasons = {name: {"reason": reason} for name, reason in outcome.without_personal.items()}
    return {"personal": {**config.personal.model_dump(), "clients": dict(sorted((measured | reasons).items()))}}
