"""What a run needs to go on in the middle of distillation: kept at each epoch, read by `resume`."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from knot_fed.config import PrivacyConfig
from knot_fed.distillation import DistillationResult
from knot_fed.errors import RunFolderError
from knot_fed.federation import wire
from knot_fed.federation.roster import ClientRecord, Outcome
from knot_fed.models import FitState
from knot_fed.reporting import RunFolder
from knot_fed.types import Metrics

FACTS = "facts"
DIGEST = "digest"
ANSWER = "answer/"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A round whose answers were received, and how far the student has learnt from them.

    Parameters
    ----------
    round
        The round, from 1.
    answers
        The valid replies by client, packed without compression.
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
    answers: dict[str, bytes]
    clients: dict[str, ClientRecord]
    before: dict[str, Metrics]
    distillations: list[DistillationResult]
    supervision: dict[str, Any] | None
    fit: FitState

    @classmethod
    def of(
        cls, server_round: int, answers: dict[str, wire.TrainReply], outcome: Outcome, supervision: Any, fit: FitState,
        *, privacy: PrivacyConfig,
    ) -> "Checkpoint":  # fmt: skip
        """Take the state of a round whose answers were received; `privacy` is that of `kept_privacy`."""
        packed = {
            name: wire.content_to_bytes(wire.pack_soft_labels(answer, round_number=server_round, privacy=privacy))
            for name, answer in answers.items()
        }
        return cls(server_round, packed, outcome.clients, outcome.before, outcome.distillations, supervision, fit)

    def save(self, folder: RunFolder) -> None:
        """Write it into the run folder, whole or not at all.

        Raises
        ------
        RunFolderError
            If the disk is full, say.
        """
        facts = {
            "round": self.round,
            "clients": {name: asdict(record) for name, record in self.clients.items()},
            "before": {name: metrics.to_mapping() for name, metrics in self.before.items()},
            "distillations": [asdict(distillation) for distillation in self.distillations],
            "supervision": self.supervision,
            "fit": self.fit.facts,
        }
        arrays = {ANSWER + name: np.frombuffer(packed, dtype=np.uint8) for name, packed in self.answers.items()}
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
        return cls(
            round=facts["round"],
            answers={n.removeprefix(ANSWER): v.tobytes() for n, v in arrays.items() if n.startswith(ANSWER)},
            clients={name: _client(**record) for name, record in facts["clients"].items()},
            before={name: Metrics(**metrics) for name, metrics in facts["before"].items()},
            distillations=[_distillation(**kept) for kept in facts["distillations"]],
            supervision=facts["supervision"],
            fit=FitState({n: v for n, v in arrays.items() if not n.startswith(ANSWER)}, facts["fit"]),
        )


def kept_privacy(privacy: PrivacyConfig) -> PrivacyConfig:
    """Return the run's privacy settings without compression, since answers are kept as they were read."""
    return privacy.model_copy(update={"compression": "none"})


def _client(*, claim: dict[str, Any] | None, **rest: Any) -> ClientRecord:
    return ClientRecord(claim=wire.Claim(**claim) if claim else None, **rest)


def _distillation(*, train_losses: list[float], validation_losses: list[float], **rest: Any) -> DistillationResult:
    return DistillationResult(train_losses=tuple(train_losses), validation_losses=tuple(validation_losses), **rest)


def _digest(told: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(told.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
