"""Random transport problems, with reference solutions by POT's linear program."""

import numpy as np
import ot
import torch

from knot_fed.transport import check_ground_cost

LABELS_OF_KNOT = np.array([[-0.4, 0.8], [0.9, 0.2], [0.0, 0.0], [-0.9, -0.4], [0.4, 0.9]])


def distances(places):
    return np.linalg.norm(places[:, None] - places[None], axis=2)


def random_metric(generator, classes):
    """Draw points in space, a grid, a line, equal distances, or a graph's shortest paths."""
    kind = generator.integers(5)
    if kind == 0:
        return distances(generator.normal(size=(classes, int(generator.integers(2, 9)))))
    if kind == 1:
        return distances(np.argwhere(np.ones((2, 2, 2)))[generator.permutation(8)[:classes]].astype(float))
    if kind == 2:
        return distances(generator.permutation(classes * 2)[:classes, None].astype(float))
    if kind == 3:
        return generator.uniform(0.1, 5) * (1 - np.eye(classes))
    ways = np.triu(generator.integers(1, 5, size=(classes, classes)), 1).astype(float)
    ways += ways.T
    for label in range(classes):
        ways = np.minimum(ways, ways[:, [label]] + ways[[label]])
    return ways


def random_rows(generator, rows, classes):
    """Draw smooth, sparse, one-hot and tied distributions."""
    smooth = generator.dirichlet(np.full(classes, generator.choice([0.1, 1.0, 5.0])), size=rows)
    ties = generator.integers(0, 3, size=(rows, classes)) + 1e-12
    hot = np.eye(classes)[generator.integers(classes, size=rows)]
    sparse = np.where(smooth < 1 / classes, 0.0, smooth)
    kinds = np.stack([smooth, ties / ties.sum(1, keepdims=True), hot, sparse / sparse.sum(1, keepdims=True)])
    return torch.from_numpy(kinds[generator.integers(4, size=rows), np.arange(rows)])


def confident_rows(generator, rows, classes, label=None):
    """Draw predictions of classifiers: softmax of standard normal logits with 3 added at one label."""
    logits = generator.normal(size=(rows, classes))
    label = generator.integers(classes, size=rows) if label is None else label
    logits[np.arange(rows), label] += 3
    return torch.softmax(torch.from_numpy(logits), dim=1)


def program(a, b, matrix):
    """Return costs and potentials of the rows by the network simplex."""
    costs, potentials = [], []
    for p, q in zip(a.numpy().astype(float), b.numpy().astype(float), strict=True):
        value, log = ot.emd2(p / p.sum(), q / q.sum(), matrix, log=True)
        costs.append(value)
        potentials.append(log["u"])
    return np.array(costs), np.array(potentials)


def logit_gradient(a, potentials):
    """Return the gradient with respect to the logits that made `a`."""
    return a * (potentials - (a * potentials).sum(dim=1, keepdim=True))


def prepared(generator, classes):
    matrix = random_metric(generator, classes)
    return check_ground_cost(matrix), matrix
