"""The cost of a secure sum compared with plain soft labels: bytes and CPU seconds of a client and the server."""

import argparse
import time
from dataclasses import dataclass, field

import numpy as np

from knot_fed.config import PrivacyConfig
from knot_fed.federation.secure import sum_wire
from knot_fed.federation.secure.peer import KeyList, Peer, deal_shares, mask_values, receive_shares, reveal_shares
from knot_fed.federation.secure.round import unmask_sum
from knot_fed.federation.wire import envelope, exchange
from knot_fed.federation.wire.answer_arrays import answer_arrays
from knot_fed.privacy.secure_sum import Quantisation, default_threshold, dequantise, quantise
from knot_fed.types import TeacherAnswer

ROUND = 1
CLAIM = exchange.Claim("none", float("inf"), 0.0)
PLAIN = PrivacyConfig.model_construct(compression="none", top_k=1)


@dataclass
class Cost:
    down: int = 0
    up: int = 0
    client_seconds: float = 0.0
    server_seconds: float = 0.0
    clients: int = 0
    marks: list = field(default_factory=list)

    def sent(self, content, *, up):
        size = envelope.count_bytes(content)
        self.up, self.down = (self.up + size, self.down) if up else (self.up, self.down + size)

    def start(self):
        self.marks.append(time.process_time())

    def stop(self, *, server=False):
        seconds = time.process_time() - self.marks.pop()
        if server:
            self.server_seconds += seconds
        else:
            self.client_seconds += seconds / self.clients


def plain_cost(soft_labels):
    cost = Cost()
    cost.sent(exchange.pack_train_request(exchange.TrainRequest(ROUND, "f" * 64, 0, len(soft_labels))), up=False)
    answer = TeacherAnswer(soft_labels, np.zeros(len(soft_labels), dtype=np.float32), 9)
    reply = exchange.TrainReply(answer, False, 0.0, CLAIM)
    arrays = answer_arrays(answer, privacy=PLAIN, scored=True)
    cost.sent(exchange.pack_soft_labels(reply, arrays, round_number=ROUND), up=True)
    return cost


def secure_cost(soft_labels, *, clients, vanished, bits):
    """Run one round of the protocol without a network; bytes are those of one client that stays until the end."""
    threshold, quantisation = default_threshold(clients), Quantisation(bits, 1.0, parties=clients + 1)
    cost = Cost(clients=clients)
    cost.start()
    peers = [Peer.fresh(ROUND) for _ in range(clients)]
    public = [peer.public_keys for peer in peers]
    cost.stop()
    keys = KeyList(ROUND, threshold, *(tuple(keys) for keys in zip(*public, strict=True)))
    cost.start()
    dealt = [deal_shares(peer, keys, place=place, least_clients=3) for place, peer in enumerate(peers)]
    relayed = [[sealed[place] for _, sealed in dealt] for place in range(clients)]
    peers = [receive_shares(dealt[place][0], relayed[place], least_clients=3) for place in range(clients)]
    weights = np.ones(len(soft_labels))
    masked = [mask_values(peer, quantise(soft_labels, weights, quantisation)) for peer in peers]
    survivors = list(range(clients - vanished))
    shares = {place: reveal_shares(masked[place].peer, survivors, least_clients=3) for place in survivors}
    cost.stop()
    answers = {
        place: sum_wire.MaskedAnswer(masked[place].values, masked[place].commitment, False, 0.0, CLAIM)
        for place in survivors
    }
    cost.start()
    total = unmask_sum(answers, shares, keys=keys, members=list(range(clients)))
    weighted, _ = dequantise(total, quantisation)
    cost.stop(server=True)
    assert np.abs(weighted / len(survivors) - soft_labels).max() < 1e-6
    request = exchange.TrainRequest(ROUND, "f" * 64, 0, len(soft_labels))
    for content, up in (
        (sum_wire.pack_keys_request(ROUND), False),
        (sum_wire.pack_keys(ROUND, public[0]), True),
        (sum_wire.pack_shares_request(keys, place=0), False),
        (sum_wire.pack_sealed(ROUND, dealt[0][1]), True),
        (sum_wire.pack_masked_request(request, relayed[0]), False),
        (sum_wire.pack_masked(ROUND, answers[0]), True),
        (sum_wire.pack_unmask_request(ROUND, survivors), False),
        (sum_wire.pack_revealed(ROUND, shares[0]), True),
    ):
        cost.sent(content, up=up)
    return cost


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--clients", default="3,5,16")
    arguments = parser.parse_args()
    soft_labels = np.random.default_rng(1).dirichlet(np.ones(arguments.classes), size=arguments.texts)
    soft_labels = soft_labels.astype(np.float32)
    plain = plain_cost(soft_labels)
    print("| clients | threshold | vanished | sum-bits | bytes up | bytes down | client s | server s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print(f"| any, plain | | | | {plain.up:,} | {plain.down:,} | | |")
    for clients in map(int, arguments.clients.split(",")):
        for bits in (24, 56):
            for vanished in (0, clients - default_threshold(clients)) if clients > 3 else (0,):
                cost = secure_cost(soft_labels, clients=clients, vanished=vanished, bits=bits)
                print(
                    f"| {clients} | {default_threshold(clients)} | {vanished} | {bits} | {cost.up:,} | {cost.down:,}"
                    f" | {cost.client_seconds:.3f} | {cost.server_seconds:.3f} |"
                )


if __name__ == "__main__":
    main()
