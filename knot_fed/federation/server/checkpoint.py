"""What a run needs to go on in the middle of distillation: kept at each epoch, read by `resume`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from knot_fed.config import PrivacyConfig
from knot_fed.errors import RunFolderError
from knot_fed.federation.server.roster import ClientRecord, Outcome
from knot_fed.federation.wire import envelope, exchange
from knot_fed.runs.run_folder import RunFolder
from knot_fed.training.distillation import DistillationResult
from knot_fed.training.fitting import FitState
from knot_fed.types import Metrics

FACTS = "facts"
DIGEST = "digest"
ANSWER = "answer/"
POOLED = "pooled-soft-labels"
Teachers: TypeAlias = dict[str, dict[str, bool | float]]


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """What a round brought.

    Parameters
    ----------
    teachers
        By client, whether its teacher was kept from before, and the seconds that it took.
    answers
        The valid replies by client, as `pack_answers` makes them; none in a secure sum.
    pooled
        Pooled soft labels (texts, classes) of a secure sum, which shows no single ones.
    """

    teachers: Teachers
    answers: dict[str, bytes] = field(default_factory=dict)
    pooled: Float[np.ndarray, "texts classes"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A round whose answers were received, and how far the student has learnt from them.

    Parameters
    ----------
    round
        The round, from 1.
    received
        What the clients answered.
    clients
        The clients' records.
    before
        The student's metrics before the first round, by domain.
    distillations
        Those of the rounds before.
    supervision
        State of the generator that draws public examples; None without them.
    fit
        Student, optimiser and random state.
    """

    round: int
    received: Received
    clients: dict[str, ClientRecord]
    before: dict[str, Metrics]
    distillations: list[DistillationResult]
    supervision: dict[str, Any] | None
    fit: FitState

    @classmethod
    def of(
        cls, server_round: int, received: Received, outcome: Outcome, supervision: Any, fit: FitState
    ) -> "Checkpoint":
        """Take the state of a round whose answers were received."""
        return cls(server_round, received, outcome.clients, outcome.before, outcome.distillations, supervision, fit)

    def save(self, folder: RunFolder) -> None:
        """Write it into the run folder, whole or not at all.

        Raises
        ------
        RunFolderError
            If the disk is full, say.
        """
        facts = {
            "round": self.round,
            "teachers": self.received.teachers,
            "clients": {name: asdict(record) for name, record in self.clients.items()},
            "before": {name: metrics.to_mapping() for name, metrics in self.before.items()},
            "distillations": [asdict(distillation) for distillation in self.distillations],
            "supervision": self.supervision,
            "fit": self.fit.facts,
        }
        arrays = {
            ANSWER + name: np.frombuffer(packed, dtype=np.uint8) for name, packed in self.received.answers.items()
        }
        if self.received.pooled is not None:
            arrays[POOLED] = self.received.pooled
        arrays |= {name: np.ascontiguousarray(value) for name, value in self.fit.arrays.items()}
        told = json.dumps(facts)
        folder.write_checkpoint(save(arrays, {FACTS: told, DIGEST: _digest(told, arrays)}))

    @classmethod
    def load(cls, file: Path) -> "Checkpoint":
        """Read what `save` wrote.

        Raises
        ------
        RunFolderError
            If the file is damaged.
        """
        try:
            with safe_open(file, framework="numpy") as opened:
                told, digest = opened.metadata()[FACTS], opened.metadata()[DIGEST]
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if digest != _digest(told, arrays):
                raise ValueError
            facts = json.loads(told)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            raise RunFolderError(
                f"{file}: the checkpoint is damaged, so the run cannot go on; delete the run folder and start it again"
            ) from None
        pooled = arrays.pop(POOLED, None)
        answers = {n.removeprefix(ANSWER): arrays.pop(n).tobytes() for n in sorted(arrays) if n.startswith(ANSWER)}
        return cls(
            round=facts["round"],
            received=Received(facts["teachers"], answers, pooled),
            clients={name: _client(**record) for name, record in facts["clients"].items()},
            before={name: Metrics(**metrics) for name, metrics in facts["before"].items()},
            distillations=[_distillation(**kept) for kept in facts["distillations"]],
            supervision=facts["supervision"],
            fit=FitState(arrays, facts["fit"]),
        )


def pack_answers(
    server_round: int, answers: Mapping[str, exchange.TrainReply], privacy: PrivacyConfig
) -> dict[str, bytes]:
    """Pack valid replies as they were read, for `unpack_soft_labels` with `kept_privacy`."""
    kept = kept_privacy(privacy)
    return {
        name: envelope.content_to_bytes(exchange.pack_soft_labels(answer, round_number=server_round, privacy=kept))
        for name, answer in answers.items()
    }


def kept_privacy(privacy: PrivacyConfig) -> PrivacyConfig:
    """Return the run's privacy settings without compression, since answers are kept as they were read."""
    return privacy.model_copy(update={"compression": "none"})


def _client(*, claim: dict[str, Any] | None, **rest: Any) -> ClientRecord:
    return ClientRecord(claim=exchange.Claim(**claim) if claim else None, **rest)


def _distillation(*, train_losses: list[float], validation_losses: list[float], **rest: Any) -> DistillationResult:
    return DistillationResult(train_losses=tuple(train_losses), validation_losses=tuple(validation_losses), **rest)


def _digest(told: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(told.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
