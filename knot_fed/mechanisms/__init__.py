"""Privacy mechanisms: from private examples to the answer that leaves a client, shared by runs, audits and baselines.

Each mechanism is one file in this package and one entry of the registry `knot_fed.config.MECHANISMS`.
"""

import pkgutil
from collections.abc import Sequence

import numpy as np

from knot_fed.config import MECHANISMS, PrivacyConfig
from knot_fed.mechanisms.base import Mechanism, Rows
from knot_fed.mechanisms.noisy_rows import RowMechanism
from knot_fed.mechanisms.teachers import OwnTeacher, TeacherPlan, public_teacher
from knot_fed.privacy.compression import compress, decompress
from knot_fed.types import TeacherAnswer, Text

__all__ = [
    "Mechanism",
    "OwnTeacher",
    "RowMechanism",
    "Rows",
    "TeacherPlan",
    "mechanism_of",
    "noise_in_rows",
    "public_teacher",
    "received_answer",
]


def mechanism_of(privacy: PrivacyConfig) -> Mechanism:
    """Return the mechanism of a configuration, an instance of the class that the registry names.

    Examples
    --------
    >>> mechanism_of(PrivacyConfig(mechanism="pate", shards=7)).teachers(PrivacyConfig(shards=7))
    7
    """
    kind: type[Mechanism] = pkgutil.resolve_name(privacy.facts.implementation)
    return kind(privacy.mechanism)


def received_answer(teacher: OwnTeacher, texts: Sequence[Text], *, rows: Rows | None = None) -> TeacherAnswer:
    """Return `Mechanism.answer` as the server reads it: soft labels after compression, scores in float32."""
    privacy = teacher.run.privacy
    answer = mechanism_of(privacy).answer(teacher, texts, rows=rows)
    sent = compress(answer.soft_labels, privacy.compression, top_k=privacy.top_k)
    received = decompress(sent, privacy.compression, classes=answer.soft_labels.shape[1])
    return TeacherAnswer(received, answer.scores.astype(np.float32), answer.examples)


def noise_in_rows(noise_multiplier: float, *, shards: int) -> list[tuple[str, str, float]]:
    """Return label, unit and standard deviation for each mechanism that adds noise to soft labels, most noise first."""
    found = []
    for name, facts in MECHANISMS.items():
        privacy = PrivacyConfig(mechanism=name, shards=shards)
        mechanism = mechanism_of(privacy)
        if isinstance(mechanism, RowMechanism) and facts.has_guarantee:
            spread = mechanism.sensitivity(privacy) * noise_multiplier
            found.append((mechanism.label(privacy), facts.guarantee.unit, spread))
    return sorted(found, key=lambda row: row[2], reverse=True)
