"""The few values that several rooms share: texts, labelled examples, soft labels and metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

Text: TypeAlias = str | tuple[str, str]
"""One text, or a pair such as premise and hypothesis."""

MEAN = "mean"
"""The row beside the domains that holds their mean; no client may be called so."""

SAME = 1e-6
"""Largest difference of probabilities that one classifier may give for one input in different batches."""

TrainedState: TypeAlias = Mapping[str, np.ndarray]
"""The parameters of a classifier that training changes, by name."""

SoftLabels: TypeAlias = Float[np.ndarray, "examples classes"]
"""Rows on the probability simplex, one for each text."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledTexts:
    """Texts and their labels, in file order.

    Parameters
    ----------
    texts
        One text or one pair of texts for each example.
    labels
        Indices into the label space's names, one for each text.
    ids
        Whom each text is of, where virtual clients share a file by such a column; else empty.
    """

    texts: tuple[Text, ...]
    labels: Int[np.ndarray, "examples"]
    ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, rows: Sequence[int] | Int[np.ndarray, "rows"]) -> "LabelledTexts":
        """Take the examples at the given positions, in the order given."""
        ids = tuple(self.ids[row] for row in rows) if self.ids else ()
        return LabelledTexts(tuple(self.texts[row] for row in rows), self.labels[np.asarray(rows, dtype=np.int64)], ids)


@dataclass(frozen=True, slots=True)
class SplitExamples:
    """One owner's private examples: what it trains on, stops early by, and is judged on.

    `cut` says that the file gave no splits, so that all of them were cut here.
    """

    train: LabelledTexts
    val: LabelledTexts
    test: LabelledTexts
    cut: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Metrics:
    """How well soft labels fit the true labels of a test set.

    Parameters
    ----------
    sd
        Semantic Distance, 0 is best, in units of the label coordinates.
    sd_calibrated
        The same at the temperature that fits the public validation split best: how much of `sd` is mere sharpness.
    w1
        Transport cost from the prediction to the true label, in the same units; never below `sd`.
    accuracy
        Share of arg-max predictions that are right, in [0, 1].
    macro_f1
        Mean F1 over the labels of the test set, in [0, 1].
    ece
        Expected calibration error, in [0, 1].
    examples
        Size of the test set.
    """

    sd: float
    sd_calibrated: float
    w1: float
    accuracy: float
    macro_f1: float
    ece: float
    examples: int

    def to_mapping(self) -> dict[str, float | int]:
        """Return the metrics as `summary.json` holds them."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class TeacherAnswer:
    """What one teacher's owner answers for some texts.

    Parameters
    ----------
    soft_labels
        One distribution for each text, as it leaves: with the mechanism's noise.
    scores
        One number for each text that the run weighs by; 0 where none is asked for, or no mechanism covers it.
    examples
        How many examples the teacher was trained on; 0 under a mechanism.
    """

    soft_labels: SoftLabels
    scores: Float[np.ndarray, "examples"]
    examples: int

    @property
    def alike(self) -> bool:
        """Whether several texts all have the same soft label, as a constant's have."""
        return len(self.soft_labels) > 1 and bool(np.ptp(self.soft_labels, axis=0).max() < SAME)

    def select(self, rows: range) -> "TeacherAnswer":
        """Return the answer for some of the texts."""
        return TeacherAnswer(
            self.soft_labels[rows.start : rows.stop], self.scores[rows.start : rows.stop], self.examples
        )
