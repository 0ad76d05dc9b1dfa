"""Privacy mechanisms: from an owner's examples to what leaves, by the same code in runs, audits and baselines.

A mechanism is one file here, and one entry of the registry `knot_fed.config.MECHANISMS`, which names its class.
"""

import pkgutil

from knot_fed.config import MECHANISMS, PrivacyConfig
from knot_fed.mechanisms.base import Mechanism, Rows
from knot_fed.mechanisms.noisy_rows import RowMechanism
from knot_fed.mechanisms.teachers import OwnTeacher, TeacherPlan, public_teacher

__all__ = [
    "Mechanism",
    "OwnTeacher",
    "RowMechanism",
    "Rows",
    "TeacherPlan",
    "mechanism_of",
    "noise_in_rows",
    "public_teacher",
]


def mechanism_of(privacy: PrivacyConfig) -> Mechanism:
    """Return the mechanism that a configuration names, from the class that the registry names.

    Examples
    --------
    >>> mechanism_of(PrivacyConfig(mechanism="pate", shards=7)).teachers(PrivacyConfig(shards=7))
    7
    """
    kind: type[Mechanism] = pkgutil.resolve_name(privacy.facts.implementation)
    return kind(privacy.mechanism)


def noise_in_rows(noise_multiplier: float, *, shards: int) -> list[tuple[str, str, float]]:
    """Return label, unit and standard deviation in a soft label of each mechanism on rows; most noise first.

    Mechanisms that guarantee nothing are left out.
    """
    found = []
    for name, facts in MECHANISMS.items():
        privacy = PrivacyConfig(mechanism=name, shards=shards)
        mechanism = mechanism_of(privacy)
        if isinstance(mechanism, RowMechanism) and facts.has_guarantee:
            spread = mechanism.sensitivity(privacy) * noise_multiplier
            found.append((mechanism.label(privacy), facts.guarantee.unit, spread))
    return sorted(found, key=lambda row: row[2], reverse=True)
