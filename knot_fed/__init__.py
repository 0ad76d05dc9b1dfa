"""Federated distillation with optimal transport: clients return only soft labels, the server distils a student."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knot_fed.models import TextClassifier


def load_student(folder: str | Path) -> "TextClassifier":
    """Load a run's distilled student, whatever its kind.

    Parameters
    ----------
    folder
        A run folder, or its `student` folder.

    Raises
    ------
    ModelError
        If there is no student.
    """
    from knot_fed.models import load_classifier

    path = Path(folder)
    return load_classifier(path / "student" if (path / "student").is_dir() else path)
