"""Checks of shapes, types and devices, in microseconds and without synchronising a device.

Errors are those of `torch.nn.functional.cross_entropy`: ValueError for a shape or a device, TypeError for a type,
IndexError for a label. No values are read except hard labels on a CPU.
"""

import torch
from jaxtyping import Float, Int

from knot_fed.transport.ground_cost import DeviceGroundCost, GroundCost

FLOATING = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
INTEGER = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


class Batch:
    """The validated arguments of one call of a loss; compiled kernels take arrays and sizes only from here.

    Parameters
    ----------
    logits
        (examples, classes), of any floating type.
    soft_labels
        (examples, classes) or (examples, teachers, classes), of any floating type; or integer hard labels (examples,),
        which become one teacher's one-hot rows. On a GPU an out-of-range hard label triggers a device assertion, as in
        `cross_entropy`.
    weights
        (teachers,) or (examples, teachers), of any floating type; None: equal weights that sum to 1.
    classes
        Number of labels; None: any.
    dtype
        Type to convert to; None: float64 for float64 logits, else float32.

    Raises
    ------
    ValueError
        If a shape does not fit, there are no teachers or labels, or devices differ.
    TypeError
        If an argument is not a tensor or has the wrong type.
    IndexError
        If a hard label on a CPU is out of range.
    """

    __slots__ = ("classes", "examples", "logits", "soft_labels", "teachers", "weights")

    def __init__(
        self,
        logits: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples *teachers classes"] | Int[torch.Tensor, "examples"],
        weights: torch.Tensor | None = None,
        *,
        classes: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.examples, self.classes = _check_rows("logits", logits, classes)
        kind = dtype or (torch.float64 if logits.dtype == torch.float64 else torch.float32)
        if isinstance(soft_labels, torch.Tensor) and soft_labels.ndim == 1 and soft_labels.dtype in INTEGER:
            soft_labels = _one_hot(soft_labels, logits, self.classes, kind)
        self.teachers = _check_targets("soft_labels", soft_labels, "logits", logits)
        self.logits, rows = logits.to(kind), soft_labels.to(kind)
        self.soft_labels = rows if rows.ndim == 3 else rows[:, None]
        if weights is None:
            self.weights = self.logits.new_full((self.examples, self.teachers), 1 / self.teachers)
            return
        _check_floating("weights", weights)
        if weights.shape not in ((self.examples, self.teachers), (self.teachers,)):
            raise ValueError(
                f"Expected weights of shape ({self.teachers},) or ({self.examples}, {self.teachers}) for soft_labels of"
                f" {self.teachers} teachers, found {tuple(weights.shape)}"
            )
        _check_device("weights", weights, "logits", self.logits)
        shares = weights.to(kind)  # of a 2-D array no operation runs here, not even an expand
        self.weights = shares if shares.ndim == 2 else shares.expand(self.examples, self.teachers)

    def table_shape(self, on_device: DeviceGroundCost) -> tuple[int, int]:
        """Return candidates and classes of the table of vertices; raise ValueError if a kernel cannot index it."""
        patterns, candidates, places = on_device.vertices.shape
        device = on_device.vertices.device
        fits = places == self.classes and patterns == 1 << places
        if not fits or on_device.merge is not None or device != self.logits.device:
            raise ValueError(
                f"Expected a table of {1 << self.classes} patterns of {self.classes} labels, none merged, on"
                f" {self.logits.device}, found one of shape {tuple(on_device.vertices.shape)} on {device}"
            )
        return candidates, places


def check_pairs(a: torch.Tensor, b: torch.Tensor, classes: int) -> None:
    """Raise ValueError or TypeError unless `a` is (examples, classes) and `b` the same, or one per teacher."""
    _check_rows("a", a, classes)
    _check_targets("b", b, "a", a)


def check_marginals(a: torch.Tensor, b: torch.Tensor, matrix: torch.Tensor) -> None:
    """Raise ValueError unless both are (pairs, classes), in float32 or float64, on the device of the costs."""
    fits = a.ndim == 2 and a.shape == b.shape and matrix.shape == (a.shape[1], a.shape[1])
    if not (fits and a.device == b.device == matrix.device and a.dtype == b.dtype in (torch.float32, torch.float64)):
        found = " and ".join(f"{tuple(part.shape)} of {part.dtype} on {part.device}" for part in (a, b, matrix))
        raise ValueError(f"Expected marginals of one shape, type and device, and costs of their labels, found {found}")


def check_prepared(ground_cost: object) -> None:
    """Raise TypeError unless the ground cost is prepared."""
    if not isinstance(ground_cost, GroundCost):
        raise TypeError(
            f"ground_cost must be a GroundCost, not {type(ground_cost).__name__}; make it with make_ground_cost, or"
            " with check_ground_cost(matrix)"
        )


def _check_rows(name: str, rows: torch.Tensor, classes: int | None) -> tuple[int, int]:
    """Return the sizes of a matrix of numbers."""
    _check_floating(name, rows)
    shape = rows.shape
    if len(shape) != 2 or not shape[1] or (classes is not None and shape[1] != classes):
        labels = "" if classes is None else f" for a ground cost of {classes} labels"
        raise ValueError(f"Expected {name} of shape (B, {classes or 'L'}){labels}, found {tuple(shape)}")
    return shape[0], shape[1]


def _check_targets(name: str, targets: torch.Tensor, other: str, rows: torch.Tensor) -> int:
    """Return the number of teachers of targets that fit the checked `rows`."""
    _check_floating(name, targets)
    shape, (examples, classes) = targets.shape, rows.shape
    several = len(shape) == 3 and shape[1] > 0
    if not (several or len(shape) == 2) or shape[0] != examples or shape[-1] != classes:
        raise ValueError(
            f"Expected {name} of shape ({examples}, {classes}) or ({examples}, K, {classes}) with K >= 1, to match"
            f" {other} of shape {tuple(rows.shape)}, found {tuple(shape)}"
        )
    _check_device(name, targets, other, rows)
    return shape[1] if several else 1


def _check_floating(name: str, tensor: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} must be Tensor, not {type(tensor).__name__}")
    if tensor.dtype not in FLOATING:
        raise TypeError(f"Expected {name} of float16, bfloat16, float32 or float64, found {tensor.dtype}")


def _check_device(name: str, tensor: torch.Tensor, other: str, rows: torch.Tensor) -> None:
    if tensor.device != rows.device:
        raise ValueError(f"Expected {name} on the device of {other}, {rows.device}, found {tensor.device}")


def _one_hot(
    labels: Int[torch.Tensor, "examples"], logits: torch.Tensor, classes: int, dtype: torch.dtype
) -> Float[torch.Tensor, "examples classes"]:
    if labels.shape[0] != logits.shape[0]:
        raise ValueError(
            f"Expected hard labels of shape ({logits.shape[0]},) to match logits of shape {tuple(logits.shape)}, found"
            f" {tuple(labels.shape)}"
        )
    _check_device("hard labels", labels, "logits", logits)
    if labels.device.type == "cpu" and labels.shape[0]:
        for label in map(int, torch.aminmax(labels)):
            if not 0 <= label < classes:
                raise IndexError(f"Target {label} is out of bounds for {classes} labels")
    rows = torch.zeros(labels.shape[0], classes, dtype=dtype, device=labels.device)
    return rows.scatter_(1, labels.long()[:, None], 1.0)
