"""The server's own labelled examples as one more owner, whose answers need no message."""

import copy
from pathlib import Path

from knot_fed.config import RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.mechanisms import mechanism_of, public_teacher
from knot_fed.models import TextClassifier, trained_state
from knot_fed.training.teacher import calibrate, train_teacher
from knot_fed.types import SplitExamples, TeacherAnswer


def as_teacher(config: RunConfig, pretrained: TextClassifier, public: SplitExamples) -> TextClassifier:
    """Return the pretrained student as a teacher: itself, or a calibrated copy if `teacher.calibrate` says so."""
    if not config.teacher.calibrate:
        return pretrained
    teacher = copy.deepcopy(pretrained)
    calibrate(teacher, public.val)
    return teacher


class PublicOwner:
    """Answers as a client would without a privacy mechanism: by a teacher of the public examples.

    That is the pretrained student; as `teacher.start` says, also or instead one that starts from the round's student.

    Parameters
    ----------
    pretrained
        The student as trained on the public examples, not calibrated yet; a copy is, if `teacher.calibrate` says so. It
        may answer itself under `scratch`, so that must be asked before it changes.
    """

    def __init__(
        self, config: RunConfig, pretrained: TextClassifier, public: SplitExamples, transfer: TransferSet
    ) -> None:
        self._config = config
        teacher = as_teacher(config, pretrained, public)
        again = teacher is pretrained and config.teacher.start == "both"
        self._pretrained = copy.deepcopy(teacher) if again else teacher
        self._public = public
        self._texts = transfer.texts

    def answer(self, student: TextClassifier) -> TeacherAnswer:
        """Answer for all transfer texts; the student is not changed."""
        start = self._config.teacher.start
        models = [self._pretrained] if start != "student" else []
        if self._config.sends_student:
            teacher = train_teacher(
                student.spec, self._public, self._config.teacher, seed=self._config.seed,
                feature_cache=Path(self._config.state_dir) / "features", start=trained_state(student),
            )  # fmt: skip
            models.append(teacher)
        own = public_teacher(self._config, models, self._public, self._texts)
        return mechanism_of(own.run.privacy).answer(own, self._texts)
