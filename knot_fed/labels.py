"""Label spaces: label names and their coordinates in meaning."""

import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from knot_fed.errors import LabelSpaceError, SoftLabelsError, shown
from knot_fed.types import SoftLabels

MOST_LABELS = 1000
LARGEST_COORDINATE = 1e6
PRESETS: dict[str, dict[str, tuple[float, ...]]] = {
    "sentiment": {
        "very negative": (-2.0,), "negative": (-1.0,), "neutral": (0.0,), "positive": (1.0,), "very positive": (2.0,),
    },
    "emotion": {
        "anger": (-0.4, 0.8), "happiness": (0.9, 0.2), "neutral": (0.0, 0.0), "sadness": (-0.9, -0.4),
        "surprise": (0.4, 0.9),
    },
    "nli": {"contradiction": (-1.0,), "neutral": (0.0,), "entailment": (1.0,)},
}  # fmt: skip
"""Label coordinates of the three tasks: ratings, (valence, arousal), and logical direction (KNOT, COLING 2022)."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelSpace:
    """Names and coordinates of the labels; without coordinates, every two labels are one apart.

    Parameters
    ----------
    names
        2 to 1000 distinct, non-empty label names, in index order.
    coordinates
        One row per label, in any number of dimensions (none if distances are unknown), with values in [-1e6, 1e6].

    Raises
    ------
    LabelSpaceError
        If names or coordinates break these rules.
    """

    names: tuple[str, ...]
    coordinates: Float[np.ndarray, "classes dimensions"]

    def __post_init__(self) -> None:
        if not 2 <= len(self.names) <= MOST_LABELS:
            raise LabelSpaceError(
                f"label space has {len(self.names)} label(s), expected 2 to {MOST_LABELS}; give as many label names"
            )
        if len(set(self.names)) != len(self.names) or not all(self.names):
            raise LabelSpaceError(
                f"label names {shown(', '.join(self.names))} repeat or are empty; give each label its own name"
            )
        if self.coordinates.ndim != 2 or len(self.coordinates) != len(self.names):
            raise LabelSpaceError(
                f"coordinates have shape {self.coordinates.shape} for {len(self.names)} names; give one row for each"
            )
        if not np.isfinite(self.coordinates).all():
            raise LabelSpaceError("label coordinates are not all finite; replace NaN and infinity by numbers")
        if np.abs(self.coordinates).max(initial=0.0) > LARGEST_COORDINATE:
            raise LabelSpaceError(f"a label coordinate is beyond {LARGEST_COORDINATE:g}; scale all of them down")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def ordered(self) -> bool:
        """Whether labels have coordinates."""
        return bool(self.coordinates.shape[1])

    @property
    def distances(self) -> Float[np.ndarray, "classes classes"]:
        """The distance between every two labels."""
        return label_distances(self.coordinates)

    @property
    def diameter(self) -> float:
        """The largest distance between two labels."""
        return float(self.distances.max())

    @classmethod
    def preset(cls, task: str) -> "LabelSpace":
        """Return the label space of `sentiment`, `emotion` or `nli`; raise `LabelSpaceError` for other tasks.

        Examples
        --------
        >>> LabelSpace.preset("nli").names
        ('contradiction', 'neutral', 'entailment')
        """
        if task not in PRESETS:
            raise LabelSpaceError(
                f"no label space for task {shown(task)}; use one of {sorted(PRESETS)} or give labels.names"
            )
        places = PRESETS[task]
        return cls(tuple(places), np.array(list(places.values()), dtype=np.float64))

    @classmethod
    def from_text(cls, names: str, coordinates: str, *, ordered: bool = False) -> "LabelSpace":
        """Parse names separated by commas, and coordinates separated by semicolons, with commas between dimensions.

        Without coordinates, `ordered` labels lie on a line at 0, 1, 2, and others are all one apart.

        Raises
        ------
        LabelSpaceError
            If a coordinate is not a number, or names and coordinates do not fit.

        Examples
        --------
        >>> LabelSpace.from_text("bad, good", "-1; 1").coordinates.tolist()
        [[-1.0], [1.0]]
        """
        parsed_names = tuple(name.strip() for name in names.split(","))
        if not coordinates.strip():
            line = np.arange(len(parsed_names), dtype=np.float64)[:, None]
            return cls(parsed_names, line if ordered else line[:, :0])
        try:
            rows = [[float(value) for value in row.split(",")] for row in coordinates.split(";")]
            places = np.array(rows, dtype=np.float64)
        except ValueError as error:
            raise LabelSpaceError(
                f"labels.coordinates = {shown(coordinates)} is not numbers in rows of one length;"
                " write '-1; 0; 1' or '0.9,0.2; -0.4,0.8'"
            ) from error
        return cls(parsed_names, places)

    def to_json(self) -> str:
        """Return names and coordinates as canonical JSON."""
        return json.dumps({"names": self.names, "coordinates": self.coordinates.tolist()})


def label_distances(coordinates: Float[np.ndarray, "classes dimensions"]) -> Float[np.ndarray, "classes classes"]:
    """Return the Euclidean distance between every two labels, or 1 if they have no coordinates.

    Examples
    --------
    >>> label_distances(np.zeros((2, 0))).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    from scipy.spatial.distance import cdist  # slow to import, and not needed with a matrix of costs

    if not coordinates.shape[1]:
        return 1.0 - np.eye(len(coordinates))
    distances: Float[np.ndarray, "classes classes"] = cdist(coordinates, coordinates)
    return distances


def check_soft_labels(soft_labels: SoftLabels, *, atol: float = 1e-4) -> None:
    """Refuse soft labels with rows that are not distributions.

    Parameters
    ----------
    soft_labels
        Rows to check.
    atol
        Largest allowed distance of a row's sum from 1, and of an entry below 0.

    Raises
    ------
    SoftLabelsError
        If an entry is not finite or is negative, or a row does not sum to 1; the message names such a row.
    """
    finite = np.isfinite(soft_labels).all(axis=1)
    if not finite.all():
        raise SoftLabelsError(
            f"row {int(np.argmin(finite))} has an entry that is not finite"
            f" ({int((~finite).sum())} of {len(finite)} rows do); check the teacher for divergence"
        )
    lowest = soft_labels.min(axis=1, initial=0.0)
    if (lowest < -atol).any():
        row = int(np.argmin(lowest))
        raise SoftLabelsError(f"row {row} has entry {lowest[row]:.4f}, expected >= 0; apply softmax before packing")
    sums = soft_labels.sum(axis=1, dtype=np.float64)
    far = np.abs(sums - 1.0) > atol
    if far.any():
        row = int(np.argmax(far))
        raise SoftLabelsError(f"row {row} sums to {sums[row]:.4f}, expected 1; apply softmax before packing")
