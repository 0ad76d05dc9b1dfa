"""Distil the student from each round's consensus, with checkpoints, warnings and one line a round."""

import logging
import time

import numpy as np

from knot_fed.aggregation import check_texts_teach
from knot_fed.config import RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import phase
from knot_fed.federation.server.checkpoint import Checkpoint, Received
from knot_fed.federation.server.roster import Outcome
from knot_fed.federation.server.tracking import track_losses
from knot_fed.geometry import learnt_ground_cost, read_matrix, write_matrix
from knot_fed.losses import learns_cost, make_loss
from knot_fed.models import TextClassifier, load_trained_state, trained_state
from knot_fed.runs.run_folder import RunFolder
from knot_fed.training.distillation import SATURATED, DistillationResult, PublicCrossEntropy, distil_student
from knot_fed.training.fitting import FitState
from knot_fed.transport import GroundCost, check_ground_cost
from knot_fed.types import SoftLabels, SplitExamples

GROUND_COST = "ground-cost.csv"
REMEDY = (
    "try another distill.learning-rate, a larger distill.patience, distill.objective = 'pooled', or a start trained for"
    " fewer teacher.epochs"
)
"""For a student that keeps its start."""

logger = logging.getLogger("knot_fed")


class Learner:
    """Distils the student, round after round; raises ConfigError or GroundCostError if the loss cannot be built.

    Parameters
    ----------
    student
        The student, pretrained or not; distilled in place.
    transfer
        The shared unlabelled texts.
    folder
        Run folder for pooled soft labels, checkpoints and rounds.
    public
        Public labelled examples: the validation split fits temperatures, the training split supervises if configured.
    """

    def __init__(
        self,
        config: RunConfig,
        student: TextClassifier,
        transfer: TransferSet,
        folder: RunFolder,
        public: SplitExamples,
    ) -> None:
        self.config = config
        self.student = student
        self.transfer = transfer
        self.folder = folder
        self.public = public
        self.loss = None if learns_cost(config) else make_loss(config)
        distill, weigh = config.distill, config.teacher.class_weights
        self._initial = trained_state(student) if config.student.restart else None
        self.supervision = None
        if distill.supervised:
            self.supervision = PublicCrossEntropy(
                student, public.train, weight=distill.supervised, weigh_classes=weigh, seed=config.seed
            )

    def learn(self, server_round: int, received: Received, outcome: Outcome, *, start: FitState | None = None) -> None:
        """Distil the student from a round's consensus, or resume it at `start`; enter the result in the outcome."""
        rows, found = self.transfer.slice(server_round, self.config.slices), received.consensus
        weights = found.weights.sum(axis=0)
        self.folder.save_pooled(server_round, found.pooled, weights)
        check_texts_teach(found, self.config.weights)
        left_out = int((weights == 0).sum())
        if left_out:
            logger.info("round %d: %d of %d transfer texts are left out", server_round, left_out, len(weights))
        if self._initial is not None:
            load_trained_state(self.student, self._initial)
        if self.loss is None:
            self.loss = make_loss(self.config, ground_cost=self._learnt_cost(found.pooled, rows))

        def on_epoch(state: FitState) -> None:
            supervision = self.supervision.state if self.supervision is not None else None
            Checkpoint(server_round, received, outcome, supervision, state).save(self.folder)
            held_out = [-score for score in state.facts["scores"]]
            track_losses(self.folder.trackers, outcome, state.facts["losses"], held_out)

        with phase(f"distillation of round {server_round}"):
            distillation = distil_student(
                self.student, self.transfer.texts[rows.start : rows.stop], found.targets, found.weights, self.loss,
                self.config.distill, seed=round_seed(self.config.seed, server_round), supervision=self.supervision,
                start=start, on_epoch=on_epoch,
            )  # fmt: skip
        if distillation.unmoved:
            logger.warning(
                "round %d: the student kept its start, no epoch of %d lowered its held-out loss; %.0f %% of the"
                " transfer texts have a top probability above %g: %s",
                server_round, distillation.epochs_run, 100 * distillation.saturated, SATURATED, REMEDY,
            )  # fmt: skip
        track_losses(self.folder.trackers, outcome, distillation.train_losses, distillation.validation_losses)
        outcome.distillations.append(distillation)
        self.folder.append_round(_round_facts(server_round, received, distillation))

    def _learnt_cost(self, pooled: SoftLabels, rows: range) -> GroundCost:
        """Learn the ground cost in the first round and record it; a resumed run reads what it has recorded."""
        file = self.folder.path / GROUND_COST
        if file.is_file():
            return check_ground_cost(read_matrix(file), names=self.student.spec.labels, distinct=False)
        texts = self.transfer.texts[rows.start : rows.stop]
        cost = learnt_ground_cost(self.config, pooled, self.student, texts)
        write_matrix(file, cost.matrix.numpy(), cost.names)
        return cost

    def resume(self, resumed: Checkpoint, outcome: Outcome) -> None:
        """Resume the distillation of a checkpoint."""
        if self.supervision is not None and resumed.supervision is not None:
            self.supervision.state = resumed.supervision
        self.folder.keep_rounds(before=resumed.round)
        logger.info("round %d resumes from epoch %d", resumed.round, len(resumed.fit.facts["losses"]))
        self.learn(resumed.round, resumed.received, outcome, start=resumed.fit)


def round_seed(seed: int, server_round: int) -> int:
    """Derive one round's seed from the run's."""
    return int(np.random.SeedSequence([seed, server_round]).generate_state(1)[0])


def _round_facts(server_round: int, received: Received, distillation: DistillationResult) -> dict[str, object]:
    return {
        "round": server_round,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "teachers": received.teachers,
        "texts_left_out": int((received.consensus.weights.sum(axis=0) == 0).sum()),
        "train_losses": list(distillation.train_losses),
        "validation_losses": list(distillation.validation_losses),
        "best_epoch": distillation.best_epoch,
        "unmoved": distillation.unmoved,
        "saturated": distillation.saturated,
        "seconds": distillation.seconds,
    }
