"""The state from which a run resumes in the middle of distillation: written at each epoch, read by `resume`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import TypeAdapter

from knot_fed.aggregation import Consensus
from knot_fed.errors import DamagedError, RunFolderError
from knot_fed.federation.server.roster import ClientRecord, Outcome
from knot_fed.runs.arrays import pack_file, read_file
from knot_fed.runs.run_folder import RunFolder
from knot_fed.training.distillation import DistillationResult
from knot_fed.training.fitting import FitState
from knot_fed.types import Metrics, TeacherAnswer

CONSENSUS = ("targets", "weights", "pooled")


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """The consensus of a round; for each client, whether its teacher was reused, its seconds, and its answer.

    There are no answers in a secure sum, and none after a restart. `selected` has the texts that its sum selects.
    """

    teachers: dict[str, dict[str, bool | float]]
    consensus: Consensus
    answers: Mapping[str, TeacherAnswer] = field(default_factory=dict)
    selected: Float[np.ndarray, "texts"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A round whose answers were received, the outcome so far, and the state of supervision and distillation."""

    round: int
    received: Received
    outcome: Outcome
    supervision: dict[str, Any] | None
    fit: FitState

    def save(self, folder: RunFolder) -> None:
        """Write the checkpoint into the run folder, whole or not at all; raises RunFolderError if that fails."""
        facts = {
            "round": self.round,
            "teachers": self.received.teachers,
            "clients": {name: asdict(record) for name, record in self.outcome.clients.items()},
            "before": {name: metrics.to_mapping() for name, metrics in self.outcome.before.items()},
            "distillations": [asdict(distillation) for distillation in self.outcome.distillations],
            "supervision": self.supervision,
            "fit": self.fit.facts,
        }
        arrays = {name: getattr(self.received.consensus, name) for name in CONSENSUS} | self.fit.arrays
        folder.write_checkpoint(pack_file(facts, arrays))

    @classmethod
    def load(cls, file: Path) -> "Checkpoint":
        """Read what `save` wrote; raises RunFolderError if the file is damaged."""
        try:
            facts, arrays = read_file(file)
            consensus = Consensus(**{name: arrays.pop(name) for name in CONSENSUS})
        except (DamagedError, KeyError):
            raise RunFolderError(
                f"{file}: the checkpoint is damaged, so the run cannot continue; delete the run folder and start"
                " it again"
            ) from None
        outcome = Outcome(
            clients=TypeAdapter(dict[str, ClientRecord]).validate_python(facts["clients"]),
            before=TypeAdapter(dict[str, Metrics]).validate_python(facts["before"]),
            distillations=TypeAdapter(list[DistillationResult]).validate_python(facts["distillations"]),
        )
        received, fit = Received(facts["teachers"], consensus), FitState(arrays, facts["fit"])
        return cls(facts["round"], received, outcome, facts["supervision"], fit)

    def restore(self, outcome: Outcome) -> None:
        """Restore the interrupted run's outcome; a client that is absent keeps its record."""
        for name, kept in self.outcome.clients.items():
            here = outcome.clients.get(name)
            node_id, holds = (here.node_id, here.holds_transfer_set) if here else (0, False)
            outcome.clients[name] = replace(kept, node_id=node_id, holds_transfer_set=holds)
        outcome.before |= self.outcome.before
        outcome.distillations += self.outcome.distillations
