"""Running an audit: each attack on the run of each seed, what is finished being kept."""

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
from knot_fed.models import use_threads
from knot_fed.system.processes import worker_pool

Progress = Callable[[str, int, int], None]
"""Called with what has just finished, how many are done, and how many there are."""
SAME_SHADOWS = "membership"


@dataclass(frozen=True, slots=True)
class Audit:
    """What is to be attacked, and how hard.

    Parameters
    ----------
    folder
        Where findings go.
    config
        Of the run; its seed is replaced by each of `seeds`.
    clients
        Number of virtual clients.
    client
        Name of the one that is attacked.
    attacks
        Names of `ATTACKS`.
    seeds
        Seeds of the runs.
    effort
        How hard the attacker tries.
    jobs
        Attacks at a time, each on one CPU.
    """

    folder: AuditFolder
    config: RunConfig
    clients: int
    client: str
    attacks: Sequence[str]
    seeds: Sequence[int]
    effort: Effort
    jobs: int


def run_audit(audit: Audit, *, progress: Progress) -> None:
    """Run what is not finished; every part is kept as it ends, so that a second call goes on.

    Raises
    ------
    KnotError
        If the run trains no teacher, or that of a seed could not be set up, such as for data that breaks a rule.
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
    """Attack the run of one seed in one way, and keep what was found."""
    use_threads(1)
    config = RunConfig.from_mapping(audit.config.to_mapping() | {"seed": seed})
    federation = OpenedRun.open(config, clients=audit.clients)
    subject = next(subject for subject in federation.subjects if subject.client.name == audit.client)
    draws = SAME_SHADOWS if attack == "student" else attack
    generator = np.random.default_rng([seed, zlib.crc32(draws.encode())])
    audit.folder.keep(attack, seed, ATTACKS[attack](federation, subject, audit.effort, generator))


def parse_attacks(text: str) -> list[str]:
    """Read names with commas, each attack once.

    Raises
    ------
    ConfigError
        If there is no attack of a name.

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
