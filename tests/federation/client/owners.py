"""A data owner's node with a private file, a policy and a state folder, and a server's requests to it."""

import json

from flwr.app import Message

from knot_fed import client_app
from knot_fed.config.choices import reports_scores
from knot_fed.data.transfer_set import TransferSet
from knot_fed.federation.wire import envelope, exchange, student_wire
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec, build_classifier, trained_state
from tests.conftest import small_config
from tests.fakes import InProcessGrid, context

LABELS = LabelSpace.preset("sentiment")
PUBLIC = TransferSet(tuple(f"a {word} book of {number}" for number in range(6) for word in ("good", "bad", "plain")))
SPEC = ModelSpec("ngram-bag", "all", LABELS.names, paired=False, max_length=128)
QUICK = {"teacher.epochs": 1, "privacy.epochs": 2, "privacy.sampling-rate": 0.1, "privacy.shards": 3}
QUICK |= {"weights.scheme": "uniform"}


def rows(count=300, *, extra=()):
    """Labelled reviews without a split column."""
    words = ("awful", "bad", "plain", "good", "great")
    made = [{"text": f"it is {words[row % 5]} number {row}", "label": row % 5} for row in range(count)]
    return [*made, *extra]


class Owner:
    """One node over several runs; `run` starts another run, whose number and settings the server chooses."""

    def __init__(self, folder, *, policy="", examples=None, **node):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.state = folder, folder / "state"
        self.write(rows() if examples is None else examples)
        (folder / "policy.toml").write_text(policy)
        own = {"name": "hospital", "data": str(folder / "private.jsonl"), "policy": str(folder / "policy.toml")}
        self.node = own | {"state-dir": str(self.state)} | node
        self.run()

    def write(self, examples):
        (self.folder / "private.jsonl").write_text("\n".join(map(json.dumps, examples)))

    def run(self, number=7, **keys):
        """Start a run with that number and settings by dotted key."""
        config = small_config(self.folder / "server", QUICK)
        made = context(config, node=self.node, node_id=100)
        made.run_config |= keys.pop("keys", {}) | keys
        made.run_id = number
        self.context = made
        return self

    def ask(self, kind, content):
        grid = InProcessGrid({100: self.context}, app=client_app.app)
        (reply,) = grid.send_and_receive([Message(content, dst_node_id=100, message_type=kind)])
        return reply.content

    def refusal(self, kind, content):
        reason = envelope.refusal_of(self.ask(kind, content))
        assert reason is not None, f"the {kind} was answered"
        return reason

    def soft_labels(self, transfer=PUBLIC, **where):
        """Ask for soft labels and read them as the server does."""
        content = self.ask("train", request(transfer, **where))
        assert envelope.refusal_of(content) is None, envelope.refusal_of(content)
        rows_asked = where.get("stop", len(transfer)) - where.get("start", 0)
        return self.read(content, examples=rows_asked, round_number=where.get("round_number", 1))

    def read(self, content, *, examples, round_number=1, held=None):
        """Read soft labels as the server does, which may hold an earlier answer's arrays."""
        config = self.client().run
        return exchange.unpack_soft_labels(
            content, round_number=round_number, examples=examples, labels=LABELS, privacy=config.privacy,
            scored=reports_scores(config.weights.scheme), held=held,
        )  # fmt: skip

    def client(self):
        from knot_fed.federation.client.settings import Client

        return Client.from_context(self.context)

    def entries(self):
        return self.client().ledger.entries()


def request(transfer=PUBLIC, *, start=0, stop=None, round_number=1, student=None, held=""):
    stop = len(transfer) if stop is None else stop
    return exchange.pack_train_request(
        exchange.TrainRequest(round_number, transfer.fingerprint, start, stop, transfer, student, held)
    )


def sent_student(spec=SPEC, *, state=None):
    """A student as a request for soft labels carries it."""
    arrays = trained_state(build_classifier(SPEC, seed=0)) if state is None else state
    return exchange.SentStudent(spec.to_json(), envelope.pack_arrays(arrays))


def student(spec=SPEC):
    state = trained_state(build_classifier(SPEC, seed=0))
    return student_wire.pack_student(spec.to_json(), envelope.pack_arrays(state))
