"""One client's settings: who it is, what its files hold, and what its owner's policy allows."""

import logging
import tomllib
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, RecordDict

from knot_fed import models
from knot_fed.config import PROMPT, NodeConfig, RunConfig
from knot_fed.data.partition import client_shard, split_examples
from knot_fed.data.private import Columns, OnNote, ignore_note, join_examples, read_labelled_texts, seed_key
from knot_fed.data.reading.files import data_path, short_name
from knot_fed.data.transfer_set import TransferSet, load_transfer_set, read_transfer_set, save_transfer_set
from knot_fed.errors import ConfigError, PolicyError, WireError
from knot_fed.federation.client.shared_file import Reading, read_once
from knot_fed.federation.wire import exchange, student_wire
from knot_fed.federation.wire.checks import cut_printable
from knot_fed.geometry import local_labels
from knot_fed.labels import LabelSpace
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.privacy.ledger.ledger import Ledger
from knot_fed.privacy.policy import STUDY, ReleasePolicy
from knot_fed.privacy.policy_checks import check_student_accepted, check_transfer_set
from knot_fed.training.personal.kept import PersonalModels
from knot_fed.types import SplitExamples, TrainedState

KEPT_TEXTS = "transfer-set.json"

logger = logging.getLogger("knot_fed")


@dataclass(frozen=True, slots=True)
class Client:
    """One client's settings: its name, its private files, its state folder, and its owner's policy.

    Virtual clients share a folder of features, so that the encoder reads the transfer set once for all of them.
    """

    name: str
    run: RunConfig
    node: NodeConfig
    files: tuple[str, ...]
    shard: tuple[int, int]
    model: str
    state: Path
    features: Path
    policy: ReleasePolicy

    @classmethod
    def from_context(cls, context: Context) -> "Client":
        """Parse both configurations; an error in the owner's configuration is not sent to the peer."""
        run = RunConfig.from_mapping(context.run_config)
        try:
            node = NodeConfig.from_mapping(context.node_config)
        except ConfigError as error:
            raise ConfigError(
                str(error), refusal="the node configuration is wrong; its owner finds why in the client's own log"
            ) from None
        return cls.from_configs(run, node, node_id=context.node_id)

    @classmethod
    def from_configs(cls, run: RunConfig, node: NodeConfig, *, node_id: int = 0) -> "Client":
        """Build the client's settings; a virtual client's role follows from its partition number."""
        policy = read_policy(node.policy) if node.data or node.policy else STUDY
        rotation = [name.strip() for name in run.teacher.models.split(",") if name.strip()]
        if not node.data and not node.num_partitions:
            raise ConfigError("node configuration: data is missing; give the absolute path of this node's private file")
        if node.data and not node.state_dir:
            raise ConfigError("node configuration: state-dir is missing; give the absolute path of this node's folder")
        name, files, place, model = node.name or f"node-{node_id}", [node.data], (0, 1), run.model
        if not node.data:
            shard = client_shard(node.partition_id, node.num_partitions or 1, run.data.client_names)
            name, place = shard.name, (shard.index, shard.count)
            files = [data_path(run.data.root, file) for file in shard.files]
            if rotation:
                model = rotation[run.data.client_names.index(shard.files[0]) % len(rotation)]
        state = Path(node.state_dir) if node.state_dir else Path(run.state_dir) / name
        features = Path(node.state_dir or run.state_dir) / "features"
        return cls(name, run, node, tuple(files), place, node.model or model, state, features, policy)

    def columns(self) -> Columns:
        """Return column names, separator and cut of fields; the node's settings override the run's.

        A real node ignores the run's: a server that named the label column would choose what is learnt about a patient.
        """
        ours, theirs = self.node, Columns() if self.node.data else self.run.data
        return replace(Columns.from_settings(ours, theirs), id="" if self.node.data else self.run.data.id_column)

    def secret(self) -> bytes:
        """Return the key of private choices: a real node's secret, or the run's seed for a virtual client."""
        return self.ledger.secret() if self.node.data else seed_key(self.run.seed)

    def examples(self, *, on_note: OnNote = ignore_note) -> tuple[SplitExamples, dict[str, list[int]]]:
        """Read the private files, and this client's share of one that several virtual clients split.

        A server controls neither the split of a real node's file nor how much of it is read: the node's secret splits
        it, identically in all runs. Only virtual clients keep what they read.
        """
        data, (index, count) = self.run.data, self.shard
        limit, labels = 0 if self.node.data else data.limit, self.run.label_space()
        columns, key = self.columns(), self.secret()

        def read() -> SplitExamples:
            parts = [
                read_labelled_texts(file, columns=columns, labels=labels, key=key, limit=limit, on_note=on_note)
                for file in self.files
            ]
            return join_examples(parts)

        shared = Reading(self.files, columns, labels.to_json(), key, limit)
        examples = read() if self.node.data else read_once(shared, read)
        return split_examples(
            examples, index=index, count=count, scheme=data.partition, alpha=data.alpha,
            seed=self.run.seed, labels_per_client=data.labels_per_client, min_examples=data.min_examples,
        )  # fmt: skip

    def transfer_set(self) -> TransferSet | None:
        """Read the node's copy of the transfer set, if it has one."""
        if not self.node.transfer:
            return None
        return read_transfer_set(self.node.transfer, columns=self.columns(), limit=self.run.data.limit)

    @property
    def ledger(self) -> Ledger:
        """The ledger of what this client has released."""
        return Ledger(self.state)

    def bind(self, run: str, fingerprint: str) -> None:
        """Bind a run to its first transfer set; raises PolicyError for another one, or if the owner pinned another."""
        with self.ledger.locked():
            bound = self.ledger.transfer_set_of_run(run)
            check_transfer_set(fingerprint, bound=bound, policy=self.policy)
            if not bound:
                self.ledger.record(LedgerEntry(run=run, fingerprint=fingerprint))

    def check_model(self, name: str) -> None:
        """Refuse a pretrained model, or a function that builds one, that only the server has named."""
        if self.node.data and models.is_external_model(name) and name not in (self.node.model, *self.policy.models):
            raise PolicyError(
                f"the model {cut_printable(name, 80)!r} is named by the server only; add it to models in the policy"
            )

    def build_student(self, spec: str, arrays: ArrayRecord) -> models.TextClassifier:
        """Build the student that the server describes; raises KnotError if it does not fit the run's labels."""
        described = self._cut_to_owners_length(models.ModelSpec.from_json(spec))
        self.check_model(described.name)
        if described.labels != self.run.label_space().names:
            raise WireError("the student has other labels than the run; send the run's student")
        student = models.build_classifier(described, seed=0, feature_cache=self.features)
        models.load_trained_state(student, student_wire.unpack_state(arrays, expected=models.trained_state(student)))
        return student

    def teacher_start(self, request: exchange.TrainRequest, spec: models.ModelSpec, *, run: str) -> TrainedState | None:
        """Return the parameters that this client's teacher starts from: the student's, or its own personal model's.

        None if the configuration starts teachers from nothing, there is no personal model yet, or the model has another
        architecture than `spec`.
        Raises PolicyError if the owner does not accept students, and WireError if one is missing or was not asked for.
        """
        if self.run.sends_student != (request.student is not None):
            came = "a student came and" if request.student else "no student came and"
            raise WireError(f"{came} teacher.start = {self.run.teacher.start!r}; use the run's configuration")
        if not self.run.rounds_differ:
            return None
        check_student_accepted(self.policy)
        start = self._personal_model(run, before=request.round)
        if request.student is not None:
            start = self.build_student(request.student.spec, request.student.arrays)
        if start is None or models.same_architecture(start.spec, spec):
            return None if start is None else models.trained_state(start)
        if request.round == 1 and not self.model.startswith(PROMPT):
            logger.info(
                "%s: its teacher has another architecture than the student, so it starts from nothing", self.name
            )
        return None

    def _personal_model(self, run: str, *, before: int) -> models.TextClassifier | None:
        """Load this run's newest personal model of an earlier round, if teachers start from it."""
        if self.run.teacher.start != "personal":
            return None
        kept = PersonalModels(self.state, client=self.name)
        digest = kept.before(run, before, resumed=self.run.resume)
        if not digest and before > 1 and not self.model.startswith(PROMPT):
            logger.info(
                "%s: no personal model of an earlier round of this run is in its state folder, so its teacher starts"
                " from nothing", self.name,
            )  # fmt: skip
        return models.load_classifier(kept.folder(digest), feature_cache=self.features) if digest else None

    def evaluation_labels(self, content: RecordDict) -> LabelSpace:
        """Return the label space of the metrics; the server may send one only if the run's configuration needs it."""
        known, sent = local_labels(self.run), student_wire.unpack_geometry(content, names=self.run.label_space().names)
        space = known if known is not None else sent
        if space is None or (known is not None and sent is not None):
            needed = "needs coordinates of the labels" if space is None else "needs none, and coordinates were sent"
            raise WireError(f"labels.geometry = {self.run.labels.geometry!r} {needed}; use one configuration for all")
        return space

    def _cut_to_owners_length(self, described: models.ModelSpec) -> models.ModelSpec:
        """Let a student read no more of a private text than the owner's teacher would."""
        longest = self.node.max_length
        if not self.node.data or described.max_length <= longest:
            return described
        if described.max_length > models.TINY_BERT_POSITIONS:  # its parameters would have other shapes when it is cut
            raise WireError(
                f"the student reads {described.max_length} tokens, more than max-length of this node and"
                f" {models.TINY_BERT_POSITIONS}; send one that reads fewer"
            )
        return replace(described, max_length=longest)

    def keep_texts(self, transfer: TransferSet) -> None:
        """Keep the texts that the server sent, for use after a restart; a virtual client keeps none."""
        if self.node.data:
            save_transfer_set(transfer, self.state / KEPT_TEXTS)

    def kept_texts(self, fingerprint: str) -> TransferSet | None:
        """Return the kept texts with this fingerprint, if any."""
        return load_transfer_set(self.state / KEPT_TEXTS, fingerprint=fingerprint) if self.node.data else None

    def seed(self) -> int:
        """Derive this client's seed from the run's seed and its name."""
        return int(np.random.SeedSequence([self.run.seed, zlib.crc32(self.name.encode())]).generate_state(1)[0])

    def spec(self, transfer: TransferSet) -> models.ModelSpec:
        """Describe the teacher; a vocabulary is trained on the public transfer texts only."""
        return models.run_spec(
            self.run,
            self.model,
            paired=transfer.paired,
            teacher=True,
            max_length=self.node.max_length if self.node.data else 0,
            trainable=self.node.trainable,
            vocabulary=models.train_vocabulary(transfer.texts) if self.model == "tiny-bert" else (),
        )


def read_policy(file: str) -> ReleasePolicy:
    """Read the owner's policy from a TOML file, or the defaults without one; raises PolicyError if it is invalid."""
    if not file:
        return ReleasePolicy()
    try:
        mapping = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"{short_name(file)}: cannot be read as TOML ({type(error).__name__}); fix it, or name another file",
            refusal="the policy's file cannot be read as TOML; its owner finds why in the client's own log",
        ) from None
    return ReleasePolicy.from_mapping(mapping)
