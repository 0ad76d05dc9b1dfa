"""Clients of a secure sum with made-up teachers, over real messages, some of them lost or altered in transit."""

from dataclasses import dataclass, field

import numpy as np
from flwr.clientapp import ClientApp

from knot_fed.aggregation import weight_bound
from knot_fed.federation.secure import sum_wire
from knot_fed.federation.secure.client import answer_keys, answer_shares, answer_unmask, masked_answer
from knot_fed.federation.secure.round import SecureRound
from knot_fed.federation.server.roster import ClientRecord, Roster
from knot_fed.federation.wire import exchange
from knot_fed.privacy.secure_sum import Quantisation, dequantise
from knot_fed.types import TeacherAnswer
from tests.fakes import InProcessGrid, context

TEXTS, CLASSES = 8, 5
CLAIM = exchange.Claim("none", float("inf"), 0.0)
STAGES = [
    f"train.{stage}"
    for stage in (sum_wire.KEYS_STAGE, sum_wire.SHARES_STAGE, sum_wire.MASKED_STAGE, sum_wire.UNMASK_STAGE)
]
KEYS, SHARES, MASKED, UNMASK = STAGES


@dataclass
class LossyGrid(InProcessGrid):
    """Drops requests or replies of a stage and node; `alter` may change a request."""

    lost: tuple = ()
    dropped: tuple = ()
    alter: object = staticmethod(lambda message: None)
    sent: list = field(default_factory=list)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            place = message.metadata.message_type, message.metadata.dst_node_id
            self.sent.append(place)
            if place not in self.lost:
                self.alter(message)
                reply = self.answer(message)
                if place not in self.dropped:
                    replies.append(reply)
        return self.order(replies)


def teacher_of(node_id, texts=TEXTS):
    generator = np.random.default_rng(node_id)
    return generator.dirichlet(np.full(CLASSES, 0.3), size=texts).astype(np.float32)


def confidence_of(node_id, texts=TEXTS):
    scores = np.random.default_rng([node_id, 1]).uniform(0, 1, size=texts).astype(np.float32)
    scores[0] = 0.0
    return scores


def answer_of(node_id, texts=TEXTS):
    return TeacherAnswer(teacher_of(node_id, texts), confidence_of(node_id, texts), node_id)


def made_up_labels(client, request, run_context):
    count, node_id = request.stop - request.start, run_context.node_id
    return exchange.TrainReply(answer_of(node_id, count), reused=False, seconds=0.1, claim=CLAIM)


def parties(config, clients, *, policy="", **grid_options):
    """Return the roster and grid of a federation after the handshake."""
    app = ClientApp()
    app.train(sum_wire.KEYS_STAGE)(answer_keys)
    app.train(sum_wire.SHARES_STAGE)(answer_shares)
    app.train(sum_wire.MASKED_STAGE)(masked_answer(made_up_labels))
    app.train(sum_wire.UNMASK_STAGE)(answer_unmask)
    node = {"num-partitions": clients} | ({"policy": policy} if policy else {})
    contexts = {
        100 + index: context(config, node=node | {"partition-id": index}, node_id=100 + index)
        for index in range(clients)
    }
    roster = Roster(config, rounds=config.rounds)
    roster.outcome.clients = {f"client-{node:04d}": ClientRecord(f"client-{node:04d}", node) for node in contexts}
    return roster, LossyGrid(contexts, app=app, **grid_options)


def request_of(round_number, start=0, texts=TEXTS):
    return lambda record: exchange.TrainRequest(round_number, "f" * 64, start, start + texts)


def secure_sum(roster, grid, *, round_number=1, start=0, texts=TEXTS):
    """Run one round and return the sum, `sum_k w_k q_k` and `sum_k w_k`."""
    secure = SecureRound(roster, grid, round_number)
    secure.open(roster.joined())
    replies = grid.send_and_receive(secure.ask_masked(request_of(round_number, start, texts)))
    quantisation = scale_of(roster.config, len(secure.clients))
    return dequantise(secure.close(replies, texts=texts, columns=CLASSES + 1, quantisation=quantisation), quantisation)


def scale_of(config, clients):
    bound = weight_bound(config.weights.scheme, power=config.weights.power)
    return Quantisation(config.privacy.sum_bits, bound, parties=clients + 1)
