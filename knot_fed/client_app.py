"""The client: a private teacher that answers with soft labels and nothing else."""

import time
import tomllib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from jaxtyping import Float

from knot_fed.confidence import teacher_scores
from knot_fed.config import NodeConfig, RunConfig
from knot_fed.data.files import data_path
from knot_fed.data.partition import client_shard, split_examples
from knot_fed.data.private import Columns, read_labelled_texts
from knot_fed.data.transfer_set import TransferSet, read_transfer_set
from knot_fed.errors import PolicyError, WireError
from knot_fed.evaluation import evaluate_classifier
from knot_fed.federation import wire
from knot_fed.federation.guard import only_declared_records, redact_errors
from knot_fed.federation.ledger import Ledger
from knot_fed.models import (
    ModelSpec,
    TextClassifier,
    build_classifier,
    load_trained_state,
    train_vocabulary,
    use_threads,
)
from knot_fed.privacy.policy import ReleasePolicy, release_soft_labels
from knot_fed.reporting import RunFolder
from knot_fed.teacher import load_or_train_teacher, predict_soft_labels
from knot_fed.types import SoftLabels, SplitExamples, Text

app = ClientApp()
HELD_TEXTS = "held-texts"


@dataclass(frozen=True, slots=True)
class Client:
    """One client's settings: who it is, where its private file and its state are, and what its policy allows.

    Virtual clients share a folder of features, so that the encoder reads the transfer set once for all of them.
    """

    name: str
    run: RunConfig
    node: NodeConfig
    path: str
    shard: tuple[int, int]
    model: str
    state: Path
    features: Path
    policy: ReleasePolicy

    @classmethod
    def from_context(cls, context: Context) -> "Client":
        """Parse both configurations; a virtual client takes its role from its partition number."""
        run = RunConfig.from_mapping(context.run_config)
        node = NodeConfig.from_mapping(context.node_config)
        policy = ReleasePolicy.from_mapping(tomllib.loads(Path(node.policy).read_text()) if node.policy else {})
        models = [name.strip() for name in run.teacher.models.split(",") if name.strip()]
        if node.data:
            name = node.name or f"node-{context.node_id}"
            path, place, model = node.data, (0, 1), run.model
        else:
            shard = client_shard(node.partition_id, node.num_partitions or 1, run.data.client_names)
            name, path, place = shard.name, data_path(run.data.root, shard.file), (shard.index, shard.count)
            model = models[run.data.client_names.index(shard.file) % len(models)] if models else run.model
        state = Path(node.state_dir) if node.state_dir else Path(run.state_dir) / name
        features = Path(node.state_dir or run.state_dir) / "features"
        return cls(name, run, node, path, place, node.model or model, state, features, policy)

    def columns(self) -> Columns:
        """Return the column names, the node's own before the run's."""
        ours, theirs = self.node, self.run.data
        return Columns(
            text=ours.text or theirs.text,
            text_a=ours.text_a or theirs.text_a,
            text_b=ours.text_b or theirs.text_b,
            label=ours.label or theirs.label,
            split=ours.split or theirs.split,
            separator=theirs.separator,
        )

    def examples(self) -> tuple[SplitExamples, dict[str, list[int]]]:
        """Read the private file, and this client's share of it where several virtual clients split it."""
        data, (index, count) = self.run.data, self.shard
        examples = read_labelled_texts(
            self.path, columns=self.columns(), labels=self.run.label_space(), seed=self.run.seed, limit=data.limit
        )
        return split_examples(
            examples, index=index, count=count, scheme=data.partition, alpha=data.alpha, seed=self.run.seed
        )

    def transfer_set(self) -> TransferSet | None:
        """Read the node's own copy of the transfer set, if it has one."""
        if not self.node.transfer:
            return None
        return read_transfer_set(self.node.transfer, columns=self.columns(), limit=self.run.data.limit)

    def seed(self) -> int:
        """Draw this client's seed from the run's seed and its name."""
        return client_seed(self.run.seed, self.name)

    def confidence(
        self, teacher: TextClassifier, soft_labels: SoftLabels, *, texts: Sequence[Text], private: Sequence[Text]
    ) -> Float[np.ndarray, "examples"]:
        """Return the score per text that the run weighs by, if any; the prediction bias itself never leaves."""
        generator = np.random.default_rng(self.seed())
        return teacher_scores(
            self.run.weights.scheme, teacher, soft_labels, texts=texts, private=private, generator=generator
        )

    def spec(self, transfer: TransferSet) -> ModelSpec:
        """Describe the teacher; a vocabulary is trained on the public transfer texts only."""
        return ModelSpec(
            name=self.model,
            trainable=self.node.trainable or self.run.trainable,
            labels=self.run.label_space().names,
            paired=transfer.paired,
            max_length=self.run.teacher.max_length,
            vocabulary=train_vocabulary(transfer.texts) if self.model == "tiny-bert" else (),
        )


def client_seed(seed: int, name: str) -> int:
    """Derive one party's seed, whatever the order in which parties speak."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])


@app.query()
@redact_errors
@only_declared_records
def query(message: Message, context: Context) -> Message:
    """Compare protocol, labels and transfer set, and check the private file, before any training."""
    client = Client.from_context(context)
    server = wire.unpack_handshake(message.content)
    held = client.transfer_set()
    ours = wire.Handshake(
        protocol=wire.PROTOCOL,
        labels=wire.canonical_labels(client.run.label_space()),
        fingerprint=held.fingerprint if held else "",
        name=client.name,
    )
    wire.check_handshake(ours, server)
    _, assignment = client.examples()
    if client.shard[1] > 1 and client.run.name:
        RunFolder.open(Path(client.run.runs_dir) / client.run.name).write_assignment(client.name, assignment)
    if held:
        context.state[HELD_TEXTS] = wire.pack_transfer_set(held)
    return Message(wire.pack_handshake(ours), reply_to=message)


@app.train()
@redact_errors
@only_declared_records
def train(message: Message, context: Context) -> Message:
    """Train or load the teacher, label the slice of the transfer set, and release what the policy allows."""
    client = Client.from_context(context)
    use_threads(client.run.threads)
    request = wire.unpack_train_request(message.content)
    transfer = _held_transfer_set(request, context)
    ledger = Ledger(client.state / "ledger.jsonl")
    rows = transfer.texts[request.start : request.stop]
    started = time.monotonic()
    examples, _ = client.examples()
    teacher, reused = load_or_train_teacher(
        client.spec(transfer),
        examples,
        client.run.teacher,
        seed=client.seed(),
        folder=client.state / "teachers",
        feature_cache=client.features,
    )
    soft_labels = predict_soft_labels(teacher, rows, temperature=client.run.teacher.temperature)
    release = release_soft_labels(
        soft_labels,
        confidence=client.confidence(teacher, soft_labels, texts=rows, private=examples.train.texts),
        examples=len(examples.train),
        policy=client.policy,
        released_in_run=ledger.released_in_run(str(context.run_id)),
        released_in_life=ledger.released_in_life(),
    )
    ledger.record(run=str(context.run_id), round_number=request.round, texts=len(rows))
    reply = wire.TrainReply(
        soft_labels=release.soft_labels,
        confidence=np.zeros(len(rows), dtype=np.float32) if release.confidence is None else release.confidence,
        examples=release.examples or 0,
        reused=reused,
        seconds=time.monotonic() - started,
    )
    return Message(wire.pack_soft_labels(reply, round_number=request.round), reply_to=message)


@app.evaluate()
@redact_errors
@only_declared_records
def evaluate(message: Message, context: Context) -> Message:
    """Judge the student on the private test split; only metrics leave."""
    client = Client.from_context(context)
    if not client.policy.take_part_in_evaluation:
        raise PolicyError("the policy keeps this client out of evaluation; set take-part-in-evaluation to join")
    use_threads(client.run.threads)
    spec, state = wire.unpack_evaluate_request(message.content)
    student = build_classifier(ModelSpec.from_json(spec), seed=0, feature_cache=client.features)
    load_trained_state(student, state)
    test = client.examples()[0].test
    metrics = evaluate_classifier(predict_soft_labels(student, test.texts), test.labels, client.run.label_space())
    return Message(wire.pack_metrics(metrics), reply_to=message)


def _held_transfer_set(request: wire.TrainRequest, context: Context) -> TransferSet:
    if request.transfer is not None:
        context.state[HELD_TEXTS] = wire.pack_transfer_set(request.transfer)
    held = context.state.get(HELD_TEXTS)
    if not isinstance(held, ConfigRecord):
        raise WireError("the transfer set was never received; send the texts with the first request")
    transfer = wire.unpack_transfer_set(held)
    if transfer.fingerprint != request.fingerprint or request.stop > len(transfer):
        raise WireError("the request names another transfer set than the one held; send its texts")
    return transfer
