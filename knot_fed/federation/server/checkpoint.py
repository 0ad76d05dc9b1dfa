"""What a run needs to resume in the middle of distillation: kept at each epoch, read by `resume`."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from knot_fed.aggregation import Consensus
from knot_fed.errors import RunFolderError
from knot_fed.federation.server.roster import ClientRecord, Outcome
from knot_fed.federation.wire import exchange
from knot_fed.runs.run_folder import RunFolder
from knot_fed.training.distillation import DistillationResult
from knot_fed.training.fitting import FitState
from knot_fed.types import Metrics

FACTS = "facts"
DIGEST = "digest"
CONSENSUS = ("targets", "weights", "pooled")
Teachers: TypeAlias = dict[str, dict[str, bool | float]]


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """What a round brought.

    Parameters
    ----------
    teachers
        By client, whether its teacher was kept from before, and the seconds that it took.
    consensus
        What the student learns from.
    """

    teachers: Teachers
    consensus: Consensus


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
            If the disk is full, for example.
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
        arrays = {name: getattr(self.received.consensus, name) for name in CONSENSUS} | self.fit.arrays
        arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
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
            consensus = Consensus(**{name: arrays.pop(name) for name in CONSENSUS})
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            raise RunFolderError(
                f"{file}: the checkpoint is damaged, so the run cannot continue; delete the run folder and start"
                " it again"
            ) from None
        return cls(
            round=facts["round"],
            received=Received(facts["teachers"], consensus),
            clients={name: _client(**record) for name, record in facts["clients"].items()},
            before={name: Metrics(**metrics) for name, metrics in facts["before"].items()},
            distillations=[_distillation(**kept) for kept in facts["distillations"]],
            supervision=facts["supervision"],
            fit=FitState(arrays, facts["fit"]),
        )


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
