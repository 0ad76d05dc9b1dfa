"""The sections of `summary.json` on data, distillation and privacy."""

import math
from dataclasses import asdict

from knot_fed.config import PrivacyConfig, RunConfig
from knot_fed.data.reading.files import content_digest, data_path, short_name
from knot_fed.data.transfer_set import TransferSet
from knot_fed.federation.server.roster import Outcome
from knot_fed.federation.wire.exchange import Claim
from knot_fed.training.distillation import DistillationResult, distillation_settings

UNCOVERED = "; not the metrics of personal models, which are trained without noise"


def data_facts(config: RunConfig, transfer: TransferSet) -> dict[str, dict[str, str | int]]:
    """Return the section `data` of `summary.json`: digests of the server's own two files, and of no client's.

    `sha256` is of the file; the transfer set's `fingerprint`, which clients compare, is of its distinct texts in order.
    """
    root, roles = config.data.root, {"public": config.data.public, "transfer": config.data.transfer}
    paths = {role: data_path(root, name) for role, name in roles.items()}
    facts: dict[str, dict[str, str | int]] = {
        role: {"file": short_name(path), "sha256": content_digest(path)} for role, path in paths.items()
    }
    facts["transfer"] |= {"fingerprint": transfer.fingerprint, "texts": len(transfer), "repeated": transfer.repeated}
    return facts


def distillation_facts(config: RunConfig, distillations: list[DistillationResult]) -> dict[str, str | int | float]:
    """Return the section `distillation` of `summary.json`."""
    return {
        **distillation_settings(config),
        "unmoved": sum(distillation.unmoved for distillation in distillations),
        "saturated": distillations[-1].saturated if distillations else 0.0,
        "epochs": sum(distillation.epochs_run for distillation in distillations),
        "seconds": sum(distillation.seconds for distillation in distillations),
        "seconds_in_loss": sum(distillation.seconds_in_loss for distillation in distillations),
    }


def privacy_facts(config: RunConfig, outcome: Outcome) -> dict[str, object]:
    """Return mechanism, unit, neighbouring relation, sensitivity, accountant, and epsilon of each client and of all.

    Clients hold disjoint records, so that each is exposed to one client's noise only: the joint epsilon is the largest
    of the clients' (parallel composition), not their sum. The server cannot verify what they report. A resumed run has
    another identifier, and clients compose only their answers under it, so it states at least the epsilon and delta
    requested.
    """
    privacy = config.privacy
    described = privacy.facts.guarantee
    claims = {
        name: stated_claim(config, record.claim) for name, record in sorted(outcome.clients.items()) if record.claim
    }
    epsilon = max((claim.epsilon for claim in claims.values()), default=math.inf)
    delta = max((claim.delta for claim in claims.values()), default=0.0)
    guarantee = described.covers
    if math.isfinite(epsilon):
        guarantee = f"epsilon {epsilon:.3g} at delta {delta:g} for each {described.unit}; covers {described.covers}"
        guarantee += UNCOVERED if config.personal.consensus != "none" else ""
    return {
        "mechanism": privacy.mechanism,
        "guarantee": guarantee,
        **asdict(described),
        "epsilon": epsilon if math.isfinite(epsilon) else None,
        "delta": delta,
        "clients": {
            name: {"epsilon": claim.epsilon if math.isfinite(claim.epsilon) else None, "delta": claim.delta}
            for name, claim in claims.items()
        },
        "settings": {name: getattr(privacy, name) for name in privacy.facts.reads},
        **(_of_secure_sum(privacy, guarantee) if privacy.secure_sum else {}),
        "compression": privacy.compression,
        "compression_guarantee": "no guarantee",
    }


def stated_claim(config: RunConfig, claim: Claim) -> Claim:
    """Return what a run states of a client's guarantee: after a restart at least what was requested."""
    if not config.resume or math.isinf(claim.epsilon):
        return claim
    privacy = config.privacy
    return Claim(claim.mechanism, max(claim.epsilon, privacy.epsilon), max(claim.delta, privacy.delta))


def _of_secure_sum(privacy: PrivacyConfig, guarantee: str) -> dict[str, object]:
    """Return what a secure sum adds; it is not differential privacy, and weakens no mechanism's guarantee."""
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
