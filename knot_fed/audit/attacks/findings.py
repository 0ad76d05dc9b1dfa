"""What an attack leaves: tidy rows, and the scores behind a ROC curve."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from knot_fed.audit.attacks.membership import leave_one_out
from knot_fed.audit.attacks.metrics import Estimate, area_under_curve, true_positive_rate

COLUMNS = ("seed", "client", "attack", "case", "measure", "value", "low", "high", "count")
FALSE_POSITIVE_RATES = {"tpr_at_0.1%": 0.001, "tpr_at_1%": 0.01}


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard the attacker tries.

    Parameters
    ----------
    shadows
        Teachers that are trained for membership inference; each is attacked with the others as its shadows.
    candidates
        Private training texts whose membership is guessed, at most half of all.
    nearest
        Transfer texts read for each candidate where its own row is not seen.
    canaries
        Canaries of the one-run audit, at most as many as there are test texts.
    references
        Further teachers with canaries, from which the auditor learns what to expect.
    delta
        At which the lower bound on epsilon holds.
    """

    shadows: int
    candidates: int
    nearest: int
    canaries: int
    references: int
    delta: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One measured value: of which client, in which case, on how many trials."""

    client: str
    case: str
    measure: str
    estimate: Estimate
    count: int


Scores = tuple[Float[np.ndarray, "models candidates"], Bool[np.ndarray, "models candidates"]]


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """All that one attack found in one run; scores with the truth by case, where there are any."""

    found: tuple[Finding, ...]
    scores: Mapping[str, Scores] = field(default_factory=dict)


def membership_findings(
    client: str,
    observations: Mapping[str, Float[np.ndarray, "models candidates features"]],
    members: Bool[np.ndarray, "models candidates"],
    *,
    generator: np.random.Generator,
) -> Findings:
    """Run LiRA, online and offline, on what is seen in each case, and measure it."""
    scores: dict[str, Scores] = {}
    for case, seen in observations.items():
        for kind in ("online", "offline"):
            scores[f"{case}, {kind}"] = leave_one_out(seen, members, online=kind == "online"), members
    found = [
        Finding(client, case, measure, estimate, members.size)
        for case, (scored, truth) in scores.items()
        for measure, estimate in measured(scored, truth, generator=generator).items()
    ]
    return Findings(tuple(found), scores)


def measured(
    scores: Float[np.ndarray, "models candidates"],
    members: Bool[np.ndarray, "models candidates"],
    *,
    generator: np.random.Generator,
) -> dict[str, Estimate]:
    """Return the rates at few false positives, and the area under the curve, by measure."""
    rates = {
        measure: true_positive_rate(scores, members, false_positive_rate=rate)
        for measure, rate in FALSE_POSITIVE_RATES.items()
    }
    return rates | {"auc": area_under_curve(scores, members, generator=generator)}


def exact(value: float) -> Estimate:
    """Return a value that has no interval of its own."""
    return Estimate(value, float("nan"), float("nan"))
