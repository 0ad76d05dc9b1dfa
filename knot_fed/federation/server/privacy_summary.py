"""What a run's `summary.json` says of privacy: for each client, and for all of them."""

import math
from dataclasses import asdict

from knot_fed.config import PrivacyConfig, RunConfig
from knot_fed.federation.server.roster import Outcome
from knot_fed.federation.wire.exchange import Claim


def privacy_facts(config: RunConfig, outcome: Outcome) -> dict[str, object]:
    """Return mechanism, unit, neighbouring relation, sensitivity, accountant, and epsilon of each client and of all.

    Clients hold disjoint records, so that one record, or one client, meets one client's noise only: epsilon of all is
    the largest of the clients' (parallel composition), never their sum. What is claimed is the clients' word.

    A resumed run has another number, and clients compose only what they answered under it. For such a run the epsilon
    and delta that it asked for are told, for which the noise on all of its texts was solved.
    """
    privacy = config.privacy
    described = privacy.facts.guarantee
    claims = {
        name: _of_whole_run(record.claim, config) for name, record in sorted(outcome.clients.items()) if record.claim
    }
    epsilon = max((claim.epsilon for claim in claims.values()), default=math.inf)
    delta = max((claim.delta for claim in claims.values()), default=0.0)
    guarantee = described.covers
    if math.isfinite(epsilon):
        guarantee = f"epsilon {epsilon:.3g} at delta {delta:g} for each {described.unit}; covers {described.covers}"
    return {
        "mechanism": privacy.mechanism,
        "guarantee": guarantee,
        **asdict(described),
        "epsilon": _finite(epsilon),
        "delta": delta,
        "clients": {name: {"epsilon": _finite(claim.epsilon), "delta": claim.delta} for name, claim in claims.items()},
        "settings": {name: getattr(privacy, name) for name in privacy.facts.reads},
        **(_of_secure_sum(privacy, guarantee) if privacy.secure_sum else {}),
        "compression": privacy.compression,
        "compression_guarantee": "no guarantee",
    }


def _of_whole_run(claim: Claim, config: RunConfig) -> Claim:
    asked = config.privacy
    if not config.resume or math.isinf(claim.epsilon):
        return claim
    return Claim(claim.mechanism, max(claim.epsilon, asked.epsilon), max(claim.delta, asked.delta))


def _of_secure_sum(privacy: PrivacyConfig, guarantee: str) -> dict[str, object]:
    """Return what a secure sum adds; it is no differential privacy, and takes nothing from a mechanism's guarantee."""
    noisy = privacy.facts.has_guarantee
    return {
        "mechanism": f"secure sum of {privacy.mechanism}" if noisy else "secure sum",
        "guarantee": (
            "single soft labels were not seen: the server learnt their weighted sum, unless it deviated from the"
            f" protocol; {guarantee if noisy else 'no differential privacy'}"
        ),
        "single_soft_labels_seen": False,
        "threshold": privacy.threshold or "more than two thirds of the clients",
        "sum_bits": privacy.sum_bits,
    }


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None
