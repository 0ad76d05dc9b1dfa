"""Running an audit: each attack on the run of each seed; finished parts are kept."""

import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass

import numpy as np

from knot_fed.audit.attacks.findings import Effort
from knot_fed.audit.attacks.registry import ATTACKS
from knot_fed.audit.folder import AuditFolder
from knot_fed.audit.subject import OpenedRun
from knot_fed.config import RunConfig
from knot_fed.errors import ConfigError
from knot_fed.models import use_device, use_threads
from knot_fed.system.processes import worker_pool

Progress = Callable[[str, int, int], None]
"""Called with the name of what has just finished, the number of finished parts, and the total."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What to attack, and how hard."""

    folder: AuditFolder
    config: RunConfig  # of the run; its seed is replaced by each of `seeds`
    clients: int  # number of virtual clients
    client: str  # name of the attacked one
    attacks: Sequence[str]  # names of `ATTACKS`
    seeds: Sequence[int]
    effort: Effort
    jobs: int  # attacks at a time, each on one CPU


def run_audit(audit: Audit, *, progress: Progress) -> None:
    """Run what is not finished; each part is stored as it ends, so that a second call resumes.

    Raises KnotError if the run trains no teacher or cannot be opened, e.g. because of invalid data.
    """
    if not audit.config.teacher.epochs:
        raise ConfigError(
            "run configuration: teacher.epochs = 0 trains no teacher, and an audit compares teachers trained with and"
            " without an example; use teacher.epochs = 1 or more"
        )
    waiting = [
        (attack, seed) for seed in audit.seeds for attack in audit.attacks if not audit.folder.finished(attack, seed)
    ]
    with worker_pool(audit.jobs) as pool:
        parts = {pool.submit(run_part, audit, attack, seed): (attack, seed) for attack, seed in waiting}
        for done, part in enumerate(as_completed(parts), start=1):
            part.result()
            attack, seed = parts[part]
            progress(f"{attack}, seed {seed}", done, len(waiting))


def run_part(audit: Audit, attack: str, seed: int) -> None:
    """Attack the run of one seed in one way, and store the findings."""
    use_threads(1)
    config = RunConfig.from_mapping(audit.config.to_mapping() | {"seed": seed})
    use_device(config)
    run = OpenedRun.open(config, clients=audit.clients)
    subject = next(subject for subject in run.subjects if subject.client.name == audit.client)
    draws = "membership" if attack == "student" else attack  # both use the same shadows
    generator = np.random.default_rng([seed, zlib.crc32(draws.encode())])
    audit.folder.keep(attack, seed, ATTACKS[attack](run, subject, audit.effort, generator))


def parse_attacks(text: str) -> list[str]:
    """Parse comma-separated names of attacks, and deduplicate them; raises ConfigError for unknown names.

    Examples
    --------
    >>> parse_attacks("canaries, membership")
    ['canaries', 'membership']
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in ATTACKS]
    if unknown or not names:
        raise ConfigError(f"--attacks {text!r}: no attack {', '.join(unknown)}; use {', '.join(ATTACKS)}")
    return names
