"""One client's settings: who it is, what its files hold, and what its owner's policy allows."""

import logging
import tomllib
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context

from knot_fed.config import NodeConfig, RunConfig
from knot_fed.data.partition import client_shard, split_examples
from knot_fed.data.private import Columns, Tell, join_examples, read_labelled_texts, seed_key, untold
from knot_fed.data.reading.files import data_path, short_name
from knot_fed.data.transfer_set import TransferSet, keep_transfer_set, kept_transfer_set, read_transfer_set
from knot_fed.errors import ConfigError, PolicyError, WireError
from knot_fed.federation.wire import student_wire
from knot_fed.federation.wire.checks import cut_printable
from knot_fed.models import (
    TINY_BERT_POSITIONS,
    ModelSpec,
    TextClassifier,
    build_classifier,
    load_trained_state,
    needs_permission,
    train_vocabulary,
    trained_state,
)
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.privacy.ledger.ledger import Ledger
from knot_fed.privacy.policy import STUDY, ReleasePolicy
from knot_fed.privacy.policy_checks import check_transfer_set
from knot_fed.types import SplitExamples

HELD_TEXTS = "held-texts"
KEPT_TEXTS = "transfer-set.json"

logger = logging.getLogger("knot_fed")


@dataclass(frozen=True, slots=True)
class Client:
    """One client's settings: who it is, where its private files and its state are, and what its policy allows.

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
        """Parse both configurations; what is wrong with the owner's own is told to nobody else."""
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
        """Work out who the client is; a virtual one takes its role from its partition number.

        Raises
        ------
        ConfigError
            If a real node does not say itself which file is its own and where it may write.
        PolicyError
            If the policy cannot be read.
        """
        policy = read_policy(node.policy) if node.data or node.policy else STUDY
        models = [name.strip() for name in run.teacher.models.split(",") if name.strip()]
        if not node.data and not node.num_partitions:
            raise ConfigError("node configuration: data is missing; give the absolute path of this node's private file")
        if node.data and not node.state_dir:
            raise ConfigError("node configuration: state-dir is missing; give the absolute path of this node's folder")
        if node.data:
            name = node.name or f"node-{node_id}"
            files: tuple[str, ...] = (node.data,)
            place, model = (0, 1), run.model
        else:
            shard = client_shard(node.partition_id, node.num_partitions or 1, run.data.client_names)
            name, place = shard.name, (shard.index, shard.count)
            files = tuple(data_path(run.data.root, file) for file in shard.files)
            model = models[run.data.client_names.index(shard.files[0]) % len(models)] if models else run.model
        state = Path(node.state_dir) if node.state_dir else Path(run.state_dir) / name
        features = Path(node.state_dir or run.state_dir) / "features"
        return cls(name, run, node, files, place, node.model or model, state, features, policy)

    def columns(self) -> Columns:
        """Return the column names, the separator and how fields are cut, the node's own before the run's.

        A real node's are never the run's: a server that named the column of the labels would choose what about a
        patient is taught.
        """
        ours, theirs = self.node, Columns() if self.node.data else self.run.data
        return replace(Columns.from_settings(ours, theirs), id="" if self.node.data else self.run.data.id_column)

    def secret(self) -> bytes:
        """Return what a real node's private choices hang on; a virtual one's are a study's, by the run's seed.

        Raises
        ------
        PolicyError
            If the secret of the state folder is lost.
        """
        return self.ledger.secret() if self.node.data else seed_key(self.run.seed)

    def examples(self, *, tell: Tell = untold) -> tuple[SplitExamples, dict[str, list[int]]]:
        """Read the private files, and this client's share of one where several virtual clients split it.

        How a real node's file is split, and how much of it is read, is no server's to say: its secret splits it, the
        same for all runs.

        Parameters
        ----------
        tell
            As in `read_labelled_texts`.

        Raises
        ------
        DataError
            If the file breaks a rule.
        PolicyError
            If the secret of the state folder is lost.
        """
        data, (index, count) = self.run.data, self.shard
        key, limit = self.secret(), 0 if self.node.data else data.limit
        columns, labels = self.columns(), self.run.label_space()
        examples = join_examples(
            [
                read_labelled_texts(file, columns=columns, labels=labels, key=key, limit=limit, tell=tell)
                for file in self.files
            ]
        )
        return split_examples(
            examples,
            index=index,
            count=count,
            scheme=data.partition,
            alpha=data.alpha,
            seed=self.run.seed,
            labels_per_client=data.labels_per_client,
            min_examples=data.min_examples,
        )

    def transfer_set(self) -> TransferSet | None:
        """Read the node's own copy of the transfer set, if it has one."""
        if not self.node.transfer:
            return None
        return read_transfer_set(self.node.transfer, columns=self.columns(), limit=self.run.data.limit)

    @property
    def ledger(self) -> Ledger:
        """What this client has let out."""
        return Ledger(self.state)

    def bind(self, run: str, fingerprint: str) -> None:
        """Hold a run to the transfer set that it begins with.

        Raises
        ------
        PolicyError
            If the run began with another, or the owner has pinned another.
        """
        with self.ledger.locked():
            bound = self.ledger.transfer_set_of_run(run)
            check_transfer_set(fingerprint, bound=bound, policy=self.policy)
            if not bound:
                self.ledger.record(LedgerEntry(run=run, fingerprint=fingerprint))

    def check_model(self, name: str) -> None:
        """Refuse to load a pretrained model, or to run a function that builds one, that only the server has named.

        Raises
        ------
        PolicyError
            If the owner of a real node has not named it.
        """
        if self.node.data and needs_permission(name) and name not in (self.node.model, *self.policy.models):
            raise PolicyError(
                f"the model {cut_printable(name, 80)!r} is named by the server only; add it to models in the policy"
            )

    def build_student(self, spec: str, arrays: ArrayRecord) -> TextClassifier:
        """Build the student that the server describes, if it is one of this run.

        Raises
        ------
        KnotError
            If specification or arrays are not those of a student for the run's labels.
        """
        described = self._cut_to_owners_length(ModelSpec.from_json(spec))
        self.check_model(described.name)
        if described.labels != self.run.label_space().names:
            raise WireError("the student has other labels than the run; send the run's student")
        student = build_classifier(described, seed=0, feature_cache=self.features)
        load_trained_state(student, student_wire.unpack_state(arrays, expected=trained_state(student)))
        return student

    def _cut_to_owners_length(self, described: ModelSpec) -> ModelSpec:
        """Let a student read no more of a private text than the owner's own teacher would."""
        longest = self.node.max_length
        if not self.node.data or described.max_length <= longest:
            return described
        if described.max_length > TINY_BERT_POSITIONS:  # its parameters would have other shapes when it is cut
            raise WireError(
                f"the student reads {described.max_length} tokens, more than max-length of this node and"
                f" {TINY_BERT_POSITIONS}; send one that reads fewer"
            )
        return replace(described, max_length=longest)

    def keep_texts(self, transfer: TransferSet) -> None:
        """Keep the texts that the server sent for after a restart; a virtual client has none."""
        if self.node.data:
            keep_transfer_set(transfer, self.state / KEPT_TEXTS)

    def kept_texts(self, fingerprint: str) -> TransferSet | None:
        """Return the kept texts of this fingerprint, if any."""
        return kept_transfer_set(self.state / KEPT_TEXTS, fingerprint=fingerprint) if self.node.data else None

    def seed(self) -> int:
        """Draw this client's seed from the run's seed and its name."""
        return client_seed(self.run.seed, self.name)

    def spec(self, transfer: TransferSet) -> ModelSpec:
        """Describe the teacher; a vocabulary is trained on the public transfer texts only."""
        return ModelSpec(
            name=self.model,
            trainable=self.node.trainable or self.run.trainable,
            labels=self.run.label_space().names,
            paired=transfer.paired,
            max_length=self.node.max_length if self.node.data else self.run.teacher.max_length,
            vocabulary=train_vocabulary(transfer.texts) if self.model == "tiny-bert" else (),
        )


def read_policy(file: str) -> ReleasePolicy:
    """Read the owner's policy from a TOML file; without one there are the defaults.

    Raises
    ------
    PolicyError
        If it is not there, is not TOML, or breaks a rule.
    """
    if not file:
        return ReleasePolicy()
    try:
        mapping = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"{short_name(file)}: cannot be read as TOML ({type(error).__name__}); mend it, or name another file",
            refusal="the policy's file cannot be read as TOML; its owner finds why in the client's own log",
        ) from None
    return ReleasePolicy.from_mapping(mapping)


def client_seed(seed: int, name: str) -> int:
    """Derive one party's seed, whatever the order in which parties speak."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])
