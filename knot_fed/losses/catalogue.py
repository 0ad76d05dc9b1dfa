"""The losses by name, a user's own among them, built for one run."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from knot_fed.config import RunConfig
from knot_fed.config.plugins import resolve_own
from knot_fed.errors import GroundCostError
from knot_fed.losses.entropy import SymmetrisedKL
from knot_fed.losses.interface import Loss
from knot_fed.losses.jensen_shannon import JensenShannon
from knot_fed.losses.kl import ForwardKL
from knot_fed.losses.mse import MeanSquaredError
from knot_fed.losses.own import checked_loss
from knot_fed.losses.reverse_kl import ReverseKL
from knot_fed.losses.sinkhorn_divergence import SinkhornDivergence
from knot_fed.transport import Accuracy, GroundCost, OTLoss, check_ground_cost, make_ground_cost


def configured_ground_cost(config: RunConfig) -> GroundCost:
    """Prepare the ground cost that `transport.cost` names, or that its file holds.

    Raises
    ------
    GroundCostError
        If it is not a metric on the run's labels, or its file cannot be read.
    """
    path, labels = Path(config.transport.cost), config.label_space()
    if path.suffix not in (".npy", ".csv"):
        return make_ground_cost(config.transport.cost, labels)
    try:
        matrix = (
            np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",", ndmin=2)
        )
    except (OSError, ValueError):
        raise GroundCostError(
            f"{path.name}: cannot be read as a matrix; give a .npy or a .csv file of numbers"
        ) from None
    return check_ground_cost(matrix, names=labels.names)


def _optimal_transport(config: RunConfig) -> Loss:
    accuracy = Accuracy(config.transport.entropic_epsilon, config.transport.marginal_error)
    return OTLoss(configured_ground_cost(config), solver=config.transport.solver, accuracy=accuracy)


BUILDERS: Mapping[str, Callable[[RunConfig], Loss]] = {
    "ot": _optimal_transport,
    "sinkhorn-divergence": lambda config: SinkhornDivergence(
        configured_ground_cost(config), entropic_epsilon=config.transport.divergence_epsilon
    ),
    "entropy": lambda _: SymmetrisedKL(),
    "kl": lambda _: ForwardKL(),
    "reverse-kl": lambda _: ReverseKL(),
    "jensen-shannon": lambda _: JensenShannon(),
    "mse": lambda _: MeanSquaredError(),
}
TRANSPORT_KEYS: Mapping[str, frozenset[str]] = {
    "ot": frozenset(f"transport.{key}" for key in ("cost", "solver", "entropic-epsilon", "marginal-error")),
    "sinkhorn-divergence": frozenset({"transport.cost", "transport.divergence-epsilon"}),
}
"""What a loss reads of `transport`; those not listed, a user's own among them, are built from nothing of it."""


def make_loss(config: RunConfig) -> Loss:
    """Build the loss that `distill.loss` names, or import the user's own.

    Raises
    ------
    ConfigError
        If the user's own cannot be imported or is not callable.
    GroundCostError
        If the ground cost is not a metric on the run's labels, its file cannot be read, or the solver does not apply.
    """
    name = config.distill.loss
    if name in BUILDERS:
        return BUILDERS[name](config)
    return checked_loss(resolve_own(name, key="distill.loss", known=tuple(BUILDERS)), name=name)
