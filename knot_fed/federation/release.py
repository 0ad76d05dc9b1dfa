"""One answer of a client: asked of its policy, written in its ledger, then computed, and only then packed."""

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from knot_fed.config import PrivacyConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import PrivacyError
from knot_fed.federation import wire
from knot_fed.federation.client import Client
from knot_fed.federation.ledger import Ledger, LedgerEntry
from knot_fed.folders import make_folder
from knot_fed.models import ModelSpec, PrivateSchedule, TextClassifier, check_opacus
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.privacy.mechanisms import DESCRIPTIONS, noise_event, noisy_soft_labels, noisy_votes
from knot_fed.privacy.policy import (
    check_epsilon,
    check_limits,
    life_epsilon,
    release_soft_labels,
    stricter_settings,
)
from knot_fed.shards import ShardTeachers, train_shards
from knot_fed.teacher import load_or_train_teacher, predict_soft_labels, teacher_digest
from knot_fed.types import LabelledTexts, SoftLabels, SplitExamples, Text

NOISY = "releases"
LOGITS = "answers"


def answer(client: Client, request: wire.TrainRequest, transfer: TransferSet, *, run: str) -> wire.TrainReply:
    """Label a slice of the transfer set as far as the policy allows, under the run's privacy mechanism.

    The ledger holds the release before a teacher is trained. The same DP-SGD teacher, or the very same noisy answer,
    costs nothing new.

    Raises
    ------
    PolicyError
        If the request goes beyond the owner's policy; nothing is computed then.
    PrivacyError
        If the mechanism cannot run.
    """
    started = time.monotonic()
    release = _Release.plan(client, request, transfer)
    entries = release.charge(client.ledger, run=run, round_number=request.round)
    soft_labels, confidence, reused = release.compute()
    covered = release.privacy.mechanism != "none"
    released = release_soft_labels(
        soft_labels, confidence=confidence, examples=len(release.examples.train), policy=client.policy
    )
    return wire.TrainReply(
        soft_labels=released.soft_labels,
        confidence=np.zeros(len(soft_labels), np.float32) if released.confidence is None else released.confidence,
        examples=0 if covered else released.examples or 0,
        reused=reused,
        seconds=0.0 if covered else time.monotonic() - started,
        claim=release.claim(entries, run),
    )


@dataclass(frozen=True, slots=True)
class _Release:
    """What one answer is made of, and what it costs."""

    client: Client
    privacy: PrivacyConfig
    spec: ModelSpec
    examples: SplitExamples
    texts: tuple[Text, ...]
    noise: NoiseEvent | None
    teacher: str
    name: str

    @classmethod
    def plan(cls, client: Client, request: wire.TrainRequest, transfer: TransferSet) -> "_Release":
        privacy = stricter_settings(client.run.privacy, client.policy)
        if privacy.mechanism == "dp-sgd":
            check_opacus()
        texts = transfer.texts[request.start : request.stop]
        noise = noise_event(privacy, texts=len(transfer), asked=len(texts), least_noise=client.policy.least_noise)
        examples, _ = client.examples()
        spec, settings = client.spec(transfer), client.run.teacher
        teacher = teacher_digest(spec, examples, settings, client.seed(), private_schedule(privacy, noise))
        name = teacher
        if privacy.mechanism in ("pate", "gaussian"):
            shape = [teacher, asdict(noise) if noise else None, privacy.model_dump(), settings.temperature, texts]
            name = hashlib.sha256(json.dumps(shape).encode()).hexdigest()
        return cls(client, privacy, spec, examples, texts, noise, teacher, name)

    def charge(self, ledger: Ledger, *, run: str, round_number: int) -> list[LedgerEntry]:
        """Write the release down, unless the policy refuses it; returns all entries up to this one."""
        mechanism, policy, texts = self.privacy.mechanism, self.client.policy, len(self.texts)
        claim = self._claimed([self.noise])
        kept = self.client.state / ("teachers" if mechanism == "dp-sgd" else NOISY) / self.name

        def decide(before: Sequence[LedgerEntry]) -> LedgerEntry:
            in_run = [entry for entry in before if entry.run == run]
            told, told_in_run = (sum(entry.texts for entry in entries) for entries in (before, in_run))
            check_limits(texts, policy=policy, released_in_run=told_in_run, released_in_life=told)
            given = any(entry.answer == self.name for entry in before)
            new = self.noise is None or not (given and kept.exists())
            entry = LedgerEntry(
                run, round_number, texts, mechanism, DESCRIPTIONS[mechanism].unit, claim.epsilon, claim.delta,
                self.name, self.noise, new,
            )  # fmt: skip
            if new:
                past = [e.event(policy.unit) for e in before if e.new]
                check_epsilon(past, entry.event(policy.unit), policy=policy, limit="max-epsilon")
            run_so_far = [e.event(policy.unit) for e in once([*in_run, entry])]
            check_epsilon(run_so_far[:-1], run_so_far[-1], policy=policy, limit="max-epsilon-per-run")
            return entry

        return ledger.charge(decide)

    def claim(self, entries: Sequence[LedgerEntry], run: str) -> wire.Claim:
        """Return what this run's answers guarantee together."""
        return self._claimed([entry.noise for entry in once([entry for entry in entries if entry.run == run])])

    def _claimed(self, noise: Sequence[NoiseEvent | None]) -> wire.Claim:
        epsilon = life_epsilon(noise, self.privacy.delta)
        if math.isinf(epsilon):
            return wire.Claim("none", math.inf, 0.0)
        return wire.Claim(self.privacy.mechanism, epsilon, self.privacy.delta)

    def compute(self) -> tuple[SoftLabels, np.ndarray, bool]:
        """Return soft labels as they may leave, the score per text, and whether teacher or answer was kept before."""
        client, settings = self.client, self.client.run.teacher
        if self.privacy.mechanism in ("pate", "gaussian"):
            soft_labels, reused = _kept_answer(client.state / NOISY / self.name, self._noisy)
            return soft_labels, np.zeros(len(soft_labels), dtype=np.float32), reused
        teacher, reused = load_or_train_teacher(
            self.spec, self.examples, settings, seed=client.seed(), folder=client.state / "teachers",
            feature_cache=client.features, private=private_schedule(self.privacy, self.noise),
        )  # fmt: skip
        soft_labels = self._predicted(teacher)
        private = self.examples.train.texts
        return soft_labels, client.confidence(teacher, soft_labels, texts=self.texts, private=private), reused

    def _predicted(self, teacher: TextClassifier) -> SoftLabels:
        temperature = self.client.run.teacher.temperature
        return predict_soft_labels(teacher, self.texts, temperature=temperature, kept=self.client.state / LOGITS)

    def _noisy(self) -> SoftLabels:
        if self.noise is None:
            raise PrivacyError(f"privacy.mechanism = {self.privacy.mechanism!r}: has no noise; nothing leaves")
        client, settings, generator = self.client, self.client.run.teacher, np.random.default_rng()
        seed, folder, features = client.seed(), client.state / "teachers", client.features
        if self.privacy.mechanism == "gaussian":
            teacher, _ = load_or_train_teacher(
                self.spec, self.examples, settings, seed=seed, folder=folder, feature_cache=features
            )
            return noisy_soft_labels(
                self._predicted(teacher), noise_multiplier=self.noise.noise_multiplier, generator=generator
            )
        shards = shard_teachers(client, self.spec, self.examples.train, seed=seed, folder=folder)
        votes = shards(self.texts, temperature=settings.temperature)
        return noisy_votes(
            votes, noise_multiplier=self.noise.noise_multiplier, labels_only=self.privacy.votes == "labels",
            generator=generator,
        )  # fmt: skip


def once(entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """Leave out entries whose answer stands among those before and cost nothing new."""
    names = [entry.answer for entry in entries]
    return [entry for place, entry in enumerate(entries) if entry.new or entry.answer not in names[:place]]


def private_schedule(privacy: PrivacyConfig, noise: NoiseEvent | None) -> PrivateSchedule | None:
    """Return how DP-SGD trains under these settings; None under any other mechanism."""
    if privacy.mechanism != "dp-sgd" or noise is None:
        return None
    return PrivateSchedule(
        privacy.steps, privacy.sampling_rate, privacy.clipping_norm, noise.noise_multiplier, privacy.learning_rate
    )


def shard_teachers(
    client: Client, spec: ModelSpec, train: LabelledTexts, *, seed: int, folder: Path | None
) -> ShardTeachers:
    """Train, or load from the folder, the teachers that `pate` asks at this client."""
    run = client.run
    return train_shards(
        spec, train, run.teacher.model_copy(update={"epochs": run.privacy.epochs}), shards=run.privacy.shards,
        seed=seed, folder=folder, feature_cache=client.features,
    )  # fmt: skip


def _kept_answer(path: Path, compute: Callable[[], SoftLabels]) -> tuple[SoftLabels, bool]:
    """Load a noisy answer given before, since the noise would average out over fresh ones, or compute and keep it."""
    file = path / "soft-labels.npy"
    if file.is_file():
        return np.load(file, allow_pickle=False), True
    soft_labels = compute()
    make_folder(path.parent)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=path.parent))
    np.save(partial / file.name, soft_labels)
    partial.rename(path)
    return soft_labels, False
