"""The compared methods: each takes a problem and returns the loss of each row, differentiable in the logits."""

import ot
import ot.batch
import torch
from geomloss import SamplesLoss

from knot_fed.transport import Accuracy, OTLoss

FAST = Accuracy(entropic_epsilon=1 / 110, marginal_error=0.03)


def ours(*, fused=True, solver="auto", accuracy=None):
    losses = {}

    def rows(problem):
        if problem.name not in losses:
            options = {} if accuracy is None else {"accuracy": accuracy}
            losses[problem.name] = OTLoss(problem.ground_cost, solver=solver, reduction="none", **options)
            losses[problem.name].fused &= fused
        return losses[problem.name](problem.logits, problem.soft_labels, problem.weights)

    return rows


def geomloss_loop(*, scaling=0.5):
    """The loss of the paper's code (declare-lab/KNOT): one call for each teacher."""
    loss = SamplesLoss("sinkhorn", p=1, blur=1e-3, scaling=scaling, debias=False, backend="tensorized")

    def rows(problem):
        places = problem.places[None].expand(len(problem.logits), -1, -1).contiguous()
        a = torch.softmax(problem.logits, dim=1)
        costs = [loss(a, places, q.contiguous(), places) for q in problem.soft_labels.unbind(1)]
        return sum(weight * cost for weight, cost in zip(problem.weights.unbind(1), costs, strict=True))

    return rows


def geomloss_batched(problem):
    """The same loss, with all teachers in one call."""
    loss = SamplesLoss("sinkhorn", p=1, blur=1e-3, debias=False, backend="tensorized")
    batch, teachers, labels = problem.soft_labels.shape
    places = problem.places[None].expand(batch * teachers, -1, -1).contiguous()
    a = torch.softmax(problem.logits, dim=1)[:, None].expand(-1, teachers, -1).reshape(-1, labels)
    costs = loss(a, places, problem.soft_labels.reshape(-1, labels), places)
    return (problem.weights * costs.view(batch, teachers)).sum(dim=1)


def pot_solve_batch(*, share, iterations):
    """POT's batched Sinkhorn, with autodiff through its iterations; the entropy is `share` of the largest cost."""

    def rows(problem):
        batch, teachers, labels = problem.soft_labels.shape
        matrix = problem.ground_cost.matrix.to(problem.logits)
        a = torch.softmax(problem.logits, dim=1)[:, None].expand(-1, teachers, -1).reshape(-1, labels)
        result = ot.batch.solve_batch(
            matrix[None].expand(batch * teachers, -1, -1), reg=float(share * matrix.max()), a=a,
            b=problem.soft_labels.reshape(-1, labels), max_iter=iterations, method="log_sinkhorn", grad="autodiff",
        )  # fmt: skip
        return (problem.weights * result.value_linear.view(batch, teachers)).sum(dim=1)

    return rows


def pot_emd2(problem):
    """POT's linear program, one pair at a time, with its own gradient."""
    batch, teachers, _ = problem.soft_labels.shape
    matrix = problem.ground_cost.matrix.to(problem.logits.device)
    a = torch.softmax(problem.logits.double(), dim=1)
    b = problem.soft_labels.double()
    b = b / b.sum(dim=-1, keepdim=True)
    costs = [ot.emd2(a[row], b[row, teacher], matrix) for row in range(batch) for teacher in range(teachers)]
    return (problem.weights * torch.stack(costs).view(batch, teachers)).sum(dim=1)


def methods_for(problem):
    """Return the methods that run on a problem within minutes; ratios are relative to the first."""
    batch, teachers, labels = problem.soft_labels.shape
    entries = batch * teachers * labels**2
    known = {"geomloss, loop (the paper's code)": geomloss_loop()}
    if labels <= 64:
        known["geomloss, batched"] = geomloss_batched
    if entries <= 1 << 19:
        known["geomloss, loop, scaling 0.99"] = geomloss_loop(scaling=0.99)
    if entries <= 1 << 20:
        known["POT solve_batch, eps 0.05, 50"] = pot_solve_batch(share=0.05, iterations=50)
        known["POT solve_batch, eps 0.01, 100"] = pot_solve_batch(share=0.01, iterations=100)
    elif entries <= 1 << 24:
        known["POT solve_batch, eps 0.05, 20"] = pot_solve_batch(share=0.05, iterations=20)
    if batch * teachers <= 10240:
        known["POT emd2, loop"] = pot_emd2
    loss = OTLoss(problem.ground_cost)
    if loss.fused:
        known["ours, eager torch"] = ours(fused=False)
    known["ours"] = ours()
    if labels > 8:
        known["ours, sinkhorn"] = ours(solver="sinkhorn")
        known["ours, sinkhorn, fast mode"] = ours(solver="sinkhorn", accuracy=FAST)
    return known
