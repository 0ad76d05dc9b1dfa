"""Transport problems like those of distillation, and their exact solutions."""

from dataclasses import dataclass

import numpy as np
import torch

from knot_fed.transport import GroundCost, check_ground_cost

SHAPES = ((64, 5, 4), (1024, 3, 3), (1024, 5, 4), (2048, 7, 5), (1024, 28, 4), (1024, 64, 4), (256, 1000, 1))
LINES = ((1024, 5, 4), (2048, 7, 5), (1024, 64, 4))
CIRCUMPLEX = [(-0.4, 0.8), (0.9, 0.2), (0, 0), (-0.9, -0.4), (0.4, 0.9), (-0.7, 0.5), (-0.1, 0.8)]
"""Valence and arousal of anger, happiness, neutral, sadness, surprise, disgust and fear (the paper's code)."""
CHECKED_ROWS = 24


@dataclass
class Problem:
    """One batch: logits (B, L), soft labels (B, K, L), weights (B, K), label coordinates (L, D) and ground cost."""

    name: str
    logits: torch.Tensor
    soft_labels: torch.Tensor
    weights: torch.Tensor
    places: torch.Tensor
    ground_cost: GroundCost

    def to(self, device):
        moved = (part.detach().to(device) for part in (self.logits, self.soft_labels, self.weights, self.places))
        logits, *rest = moved
        return Problem(self.name, logits.requires_grad_(), *rest, self.ground_cost)


def make_problem(batch, labels, teachers, *, line=False, seed=1):
    """Draw soft labels like those of classifiers: standard normal logits, plus 3 at one label."""
    generator = np.random.default_rng(seed)
    label = generator.integers(labels, size=batch)

    def bumped(*shape):
        logits = generator.normal(size=shape)
        logits[np.arange(batch), ..., label] += 3
        return torch.from_numpy(logits).float()

    if line:
        places = np.arange(labels, dtype=float)[:, None]
    elif labels == 5:
        places = np.concatenate([np.eye(5), np.arange(-2.0, 3)[:, None]], axis=1)
    elif labels == 7:
        places = np.array(CIRCUMPLEX, dtype=float)
    else:
        places = generator.normal(size=(labels, 8))
    matrix = np.linalg.norm(places[:, None] - places[None], axis=2)
    return Problem(
        name=f"({batch}, {labels}, {teachers})" + (" on a line" if line else ""),
        logits=bumped(batch, labels).requires_grad_(),
        soft_labels=torch.softmax(bumped(batch, teachers, labels), dim=-1),
        weights=torch.from_numpy(np.repeat(generator.dirichlet(np.ones(teachers))[None], batch, axis=0)).float(),
        places=torch.from_numpy(places).float(),
        ground_cost=check_ground_cost(matrix),
    )


def exact_answer(problem):
    """Return the first rows' losses and their gradients to the logits, by POT's linear program in float64."""
    import ot  # slow to import, and needed only here

    rows = problem.logits[:CHECKED_ROWS].detach().double()
    a = torch.softmax(rows, dim=1)
    matrix = problem.ground_cost.matrix.numpy()
    losses, potentials = torch.zeros(len(rows)).double(), torch.zeros_like(rows)
    for row in range(len(rows)):
        for teacher, weight in enumerate(problem.weights[row].tolist()):
            q = problem.soft_labels[row, teacher].double()
            p = a[row] / a[row].sum()
            value, log = ot.emd2(p.numpy(), (q / q.sum()).numpy(), matrix, log=True, numItermax=10**7)
            losses[row] += weight * value
            potentials[row] += weight * torch.from_numpy(log["u"])
    return losses, a * (potentials - (a * potentials).sum(dim=1, keepdim=True))
