"""Federated distillation with optimal transport: clients return only soft labels, the server distils a student."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knot_fed.config import RunConfig
    from knot_fed.federation.strategy import KnotStrategy
    from knot_fed.in_process import Federation, FederationResult
    from knot_fed.models import TextClassifier
    from knot_fed.training.distillation import distil_student
    from knot_fed.transport import OTLoss

__all__ = [
    "Federation",
    "FederationResult",
    "KnotStrategy",
    "OTLoss",
    "RunConfig",
    "distil_student",
    "load_student",
]

_PLACES = {
    "Federation": "knot_fed.in_process",
    "FederationResult": "knot_fed.in_process",
    "KnotStrategy": "knot_fed.federation.strategy",
    "OTLoss": "knot_fed.transport",
    "RunConfig": "knot_fed.config",
    "distil_student": "knot_fed.training.distillation",
}
"""Where each name is defined; it is imported when it is asked for, so that `import knot_fed` loads neither torch nor
Flower."""


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
