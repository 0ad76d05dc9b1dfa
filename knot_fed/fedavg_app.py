"""The baseline (`--strategy fedavg`): the same student by Flower's FedAvg, over the same clients and data."""

import time

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from knot_fed.config import NO_MECHANISM, RunConfig
from knot_fed.errors import PolicyError, phase
from knot_fed.federation.client.costs import averaging_cost, check_cost
from knot_fed.federation.client.guard import guard_handler
from knot_fed.federation.client.handlers import answer_evaluation, answer_handshake
from knot_fed.federation.client.settings import Client
from knot_fed.federation.flower.bounded_grid import bounded
from knot_fed.federation.server import run
from knot_fed.federation.server.averaging import CountedFedAvg
from knot_fed.federation.server.facts import data_facts
from knot_fed.federation.server.learning import round_seed
from knot_fed.federation.wire import envelope, student_wire
from knot_fed.federation.wire.message_log import log_messages
from knot_fed.models import trained_state, use_device, use_threads
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.privacy.policy_checks import check_parameters_may_leave
from knot_fed.runs.run_folder import RunFolder
from knot_fed.training.teacher import train_further

server_app = ServerApp()
client_app = ClientApp(mods=[log_messages])
client_app.evaluate()(answer_evaluation)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation; a failed run exits non-zero and keeps what was computed in the run folder."""
    run.run_in_folder(grid, context, federate)


def federate(grid: Grid, config: RunConfig, folder: RunFolder) -> None:
    """Run, evaluate and write `summary.json`, `student/` and `report.html`; a failed run raises."""
    started = time.monotonic()
    with phase("preparation"):
        use_threads(config.threads)
        use_device(config, required=True)
        transfer, public = run.read_server_data(config)
        read = data_facts(config, transfer)
        student = run.start_student(config, public, transfer)
    sizes = [value.nbytes for value in trained_state(student).values()]
    grid = bounded(grid, envelope.ReplyBounds.of_arrays(sizes))
    strategy = CountedFedAvg(config, student, transfer, public.val, folder.trackers)
    outcome = strategy.roster.outcome
    averaging = time.monotonic()
    with phase("averaging"):
        failure = run.run_between_measurements(lambda: strategy.run(grid), student, config, public, outcome, folder)
    facts: dict[str, object] = {
        "fedavg": {
            "rounds": config.fedavg.rounds,
            "epochs": config.fedavg.epochs,
            "kept": "the last round",
            "seconds": time.monotonic() - averaging,
            "bytes_up_in_training": strategy.bytes_up_in_training,
        },
        "privacy": {"mechanism": "none", "guarantee": "no guarantee: parameters leave each client"},
        "data": read,
    }
    rounds = config.fedavg.rounds
    run.finish_run(config, outcome, student, folder, facts, rounds=rounds, started=started, failure=failure)


@client_app.query()
@guard_handler(envelope.ABOUT)
def query(message: Message, context: Context) -> Message:
    """Refuse before any training if the owner does not release parameters, or else shake hands."""
    check_owner(Client.from_context(context))
    return answer_handshake(message, context)


@client_app.train()
@guard_handler(student_wire.PARAMETERS, student_wire.TRAINING)
def train(message: Message, context: Context) -> Message:
    """Train the student on the private training split for the configured epochs, and return its parameters."""
    client = Client.from_context(context)
    check_owner(client)
    use_threads(client.run.threads)
    use_device(client.run)
    started = time.monotonic()
    spec, state, server_round = student_wire.unpack_averaging_request(message.content)
    student = client.build_student(spec, state)
    examples = client.examples()[0].train
    local = client.run.fedavg
    steady = {"warmup": 0.0, "schedule": "constant"}  # a schedule would fall to 0 in each round
    settings = client.run.teacher.model_copy(
        update={"epochs": local.epochs, "learning_rate": local.learning_rate, **steady}
    )
    if client.node.data:
        ledger = client.ledger
        check_cost(averaging_cost(settings, len(examples), key=ledger.secret()), policy=client.policy)
        ledger.charge(lambda _: LedgerEntry(run=str(context.run_id), round=server_round, parameters=1))
    train_further(student, examples, settings, seed=round_seed(client.seed(), server_round))
    seconds = time.monotonic() - started
    reply = student_wire.pack_parameters(trained_state(student), examples=len(examples), seconds=seconds)
    return Message(reply, reply_to=message)


def check_owner(client: Client) -> None:
    """Refuse a run with a privacy mechanism, or a node with a private file whose policy does not release parameters."""
    if client.run.privacy.mechanism != NO_MECHANISM:
        raise PolicyError(
            f"privacy.mechanism = {client.run.privacy.mechanism!r} covers soft labels and not parameters; set it to"
            " none for the reference line, or leave that out with --no-fedavg"
        )
    if client.node.data:
        check_parameters_may_leave(client.policy)
