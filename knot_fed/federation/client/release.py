"""One answer of a client: asked of its policy, written in its ledger, then computed, and only then packed."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from knot_fed.config import NO_MECHANISM, PrivacyConfig
from knot_fed.data.transfer_set import TextKeys, TransferSet, keys_of_values
from knot_fed.errors import PrivacyError
from knot_fed.federation.client.costs import check_cost, estimate_cost
from knot_fed.federation.client.noisy_rows import NoisyRows
from knot_fed.federation.client.settings import Client
from knot_fed.federation.wire import exchange
from knot_fed.mechanisms import Mechanism, TeacherPlan, mechanism_of
from knot_fed.models import build_classifier, check_ready
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.privacy.ledger.ledger import digest_of_keys, texts_released
from knot_fed.privacy.ledger.spending import most_sums, of_run, spent_in_life, spent_in_run
from knot_fed.privacy.policy_checks import (
    check_epsilon,
    check_limits,
    check_sums,
    life_epsilon,
    release_answer,
    stricter_settings,
)
from knot_fed.training.kept_teachers import check_kept_release
from knot_fed.types import SoftLabels, SplitExamples, TeacherAnswer, Text

RELEASES, LOGITS, TEACHERS = "releases", "answers", "teachers"


def answer(
    client: Client, request: exchange.TrainRequest, transfer: TransferSet, *, run: str, summed: bool = False
) -> exchange.TrainReply:
    """Label a slice of the transfer set as far as the policy allows, under the run's privacy mechanism.

    The ledger holds the release before a teacher is trained; if nothing of the owner's was touched by then, such as on
    a full disk, it is taken back. The same DP-SGD teacher, or a text's very same noisy row, costs nothing new.

    Parameters
    ----------
    client, request, transfer
        Who is asked, what for, and all texts of the run.
    run
        Of the federation that asks.
    summed
        Whether the rows enter a secure sum.

    Raises
    ------
    PolicyError
        If the request goes beyond the owner's policy; nothing is computed then.
    PrivacyError
        If the mechanism cannot run, or a noisy release that was kept is damaged.
    """
    started = time.monotonic()
    release = _Release.plan(client, request, transfer, run=run, summed=summed)
    charge = client.ledger.charge(release.decide)
    try:
        answered, reused = release.compute()
    except BaseException:
        if not release.touched:
            client.ledger.take_back(charge)
        raise
    covered = release.privacy.facts.has_guarantee
    return exchange.TrainReply(
        release_answer(answered, policy=client.policy),
        reused=reused,
        seconds=0.0 if covered else time.monotonic() - started,
        claim=release.claim(charge.entries),
    )


def teacher_plan(
    client: Client, examples: SplitExamples, transfer: TransferSet, *, seed: int, asked: int
) -> TeacherPlan:
    """Work out a client's teacher: the run's settings, made as strict as the owner wants, and the noise they need.

    Parameters
    ----------
    client
        Whose teacher it is.
    examples
        What it would be trained on; a run takes the client's own.
    transfer
        All texts of the run, for which the noise is solved.
    seed
        Of the training; a run takes the client's own.
    asked
        Texts that the noise of one request is accounted for.

    Raises
    ------
    PolicyError
        If the run uses none of the mechanisms that the owner requires.
    PrivacyError
        If no noise gives the guarantee.
    """
    privacy = stricter_settings(client.run.privacy, client.policy)
    noise = mechanism_of(privacy).noise_event(
        privacy, texts=len(transfer), asked=asked, least_noise=client.policy.least_noise
    )
    strict = client.run.model_copy(update={"privacy": privacy})
    if privacy.facts.has_guarantee:
        covered = strict.teacher.model_copy(update={"class_weights": "none"})
        strict = strict.model_copy(update={"teacher": covered})
    return TeacherPlan(strict, client.spec(transfer), examples, seed, noise)


@dataclass(slots=True)
class _Release:
    """What one answer is made of, and what it costs.

    `fresh` is how many texts were charged as new, and `touched` whether anything was computed from private examples.
    """

    client: Client
    request: exchange.TrainRequest
    plan_of_teacher: TeacherPlan
    texts: tuple[Text, ...]
    run: str
    summed: bool
    keys: str
    transfer_keys: TextKeys
    readings: UInt8[np.ndarray, "asked bytes"]
    fresh: int = field(default=0, init=False)
    touched: bool = field(default=False, init=False)

    @classmethod
    def plan(
        cls, client: Client, request: exchange.TrainRequest, transfer: TransferSet, *, run: str, summed: bool
    ) -> "_Release":
        """Work out what would be computed; all that can fail without private examples fails here."""
        texts, keys = transfer.texts[request.start : request.stop], transfer.keys
        plan = teacher_plan(client, client.examples()[0], transfer, seed=client.seed(), asked=len(texts))
        readings = _readings(plan, texts) if summed else keys[:0]
        release = cls(client, request, plan, texts, run, summed, digest_of_keys(keys), keys, readings)
        release._check_feasible()
        return release

    @property
    def privacy(self) -> PrivacyConfig:
        """The run's settings, made as strict as the owner wants."""
        return self.plan_of_teacher.run.privacy

    @property
    def mechanism(self) -> Mechanism:
        """What answers."""
        return mechanism_of(self.privacy)

    @property
    def noise(self) -> NoiseEvent | None:
        """What accounting reads for this request."""
        return self.plan_of_teacher.noise

    def _check_feasible(self) -> None:
        """Refuse what the teacher's model, its kept files or the owner's machine would not bear."""
        plan, policy = self.plan_of_teacher, self.client.policy
        if self._kept_teacher.is_dir():
            if self._noisy_teacher:
                check_kept_release(self._kept_teacher)
            return
        model = build_classifier(plan.spec, seed=0)
        self.mechanism.check_model(model, self.texts)
        if not plan.run.teacher.epochs:
            check_ready(plan.spec.name, ready=model.starts_ready)
        if policy.limits_cost:
            check_cost(estimate_cost(plan, model, self.texts, key=self.client.secret()), policy=policy)

    def decide(self, before: Sequence[LedgerEntry]) -> LedgerEntry:
        """Return the ledger's entry, or refuse."""
        policy, texts, in_run = self.client.policy, len(self.texts), of_run(before, self.run)
        check_limits(
            texts, policy=policy, released_in_run=texts_released(in_run), released_in_life=texts_released(before)
        )
        if self.summed:
            self._check_sums(before)
        claim, mechanism, self.fresh = self._claimed([self.noise]), self.privacy.mechanism, self._count_fresh(before)
        entry = LedgerEntry(
            run=self.run, round=self.request.round, texts=texts, fresh=self.fresh, mechanism=mechanism,
            unit=self.privacy.facts.guarantee.unit, epsilon=claim.epsilon, delta=claim.delta,
            answer=self._release_digest, noise=self.noise, keys=self.keys, start=self.request.start,
            stop=self.request.stop, summed=self.summed,
            readings=digest_of_keys(self.readings) if self.summed else "",
        )  # fmt: skip
        if entry.fresh:
            spent, then = (spent_in_life(entries, policy.unit) for entries in (before, [*before, entry]))
            check_epsilon(spent, then, policy=policy, limit="max-epsilon")
        spent, then = (self._spent_in_run(entries, policy.unit) for entries in (in_run, [*in_run, entry]))
        check_epsilon(spent, then, policy=policy, limit="max-epsilon-per-run")
        for kept in (self.transfer_keys, *([self.readings] if self.summed else [])):
            self.client.ledger.keep_keys(kept)
        return entry

    def _check_sums(self, before: Sequence[LedgerEntry]) -> None:
        """Refuse texts that were summed before: by their words, or by what the teacher reads of them."""
        kept, words = self.client.ledger.kept_keys, self.transfer_keys[self.request.start : self.request.stop]
        for keys, keys_of in ((words, self._keys_of), (self.readings, lambda entry: kept(entry.readings))):
            check_sums(*most_sums(keys, before, run=self.run, keys_of=keys_of), policy=self.client.policy)

    def compute(self) -> tuple[TeacherAnswer, bool]:
        """Return the answer as it may leave, and whether it was kept before."""
        noisy, mechanism = self._noisy, self.mechanism
        if noisy is not None and not noisy.count_new(self.texts):
            rows = noisy.rows(self.texts, _never, most_new=0)
            return TeacherAnswer(rows, np.zeros(len(rows), dtype=np.float32), 0), True
        if self._noisy_teacher and not self.fresh and not self._kept_teacher.is_dir():
            raise PrivacyError("the kept teacher was removed while it was asked for; ask again")
        self.touched = True
        teacher, loaded = mechanism.train(
            self.plan_of_teacher, folder=self.client.state / TEACHERS, features=self.client.features,
            logits=self.client.state / LOGITS,
        )  # fmt: skip
        if noisy is None:
            return mechanism.answer(teacher, self.texts), loaded
        draw = partial(noisy.rows, draw=partial(mechanism.rows, teacher), most_new=self.fresh)
        return mechanism.answer(teacher, self.texts, rows=draw), False

    def claim(self, entries: Sequence[LedgerEntry]) -> exchange.Claim:
        """Return what this run's answers guarantee together, as the mechanism's own unit counts."""
        return self._claimed(self._spent_in_run(of_run(entries, self.run), self.privacy.facts.guarantee.unit))

    def _claimed(self, noise: Sequence[NoiseEvent | None]) -> exchange.Claim:
        epsilon, privacy = life_epsilon(noise, self.privacy.delta), self.privacy
        if math.isinf(epsilon):
            return exchange.Claim(NO_MECHANISM if privacy.facts.has_guarantee else privacy.mechanism, math.inf, 0.0)
        return exchange.Claim(privacy.mechanism, epsilon, privacy.delta)

    def _spent_in_run(self, entries: Sequence[LedgerEntry], unit: str) -> list[NoiseEvent | None]:
        return spent_in_run(entries, unit, keys_of=self._keys_of)

    def _keys_of(self, entry: LedgerEntry) -> TextKeys:
        """Return the keys of an entry's texts; those of this request's transfer set are at hand."""
        keys = self.transfer_keys if entry.keys == self.keys else self.client.ledger.kept_keys(entry.keys)
        return keys[entry.start : entry.stop]

    def _count_fresh(self, before: Sequence[LedgerEntry]) -> int:
        """Count the texts of this request that cost something new."""
        digest = self._release_digest
        given = any(entry.answer == digest for entry in before)
        if self._noisy is not None:
            return self._noisy.count_new(self.texts) if given else len(self.texts)
        return 0 if given and self._noisy_teacher and self._kept_teacher.is_dir() else len(self.texts)

    @property
    def _noisy_teacher(self) -> bool:
        """Whether the teacher itself is what costs, so that it costs nothing new while it is kept."""
        return self.privacy.facts.noise_on == "teacher"

    @property
    def _kept_teacher(self) -> Path:
        return self.client.state / TEACHERS / self.mechanism.teacher_digest(self.plan_of_teacher)

    @property
    def _release_digest(self) -> str:
        return self.mechanism.release_digest(self.plan_of_teacher)

    @property
    def _noisy(self) -> NoisyRows | None:
        if self.privacy.facts.noise_on != "rows":
            return None
        return NoisyRows(self.client.state / RELEASES / self._release_digest)


def _readings(plan: TeacherPlan, texts: Sequence[Text]) -> TextKeys:
    """Return a key of what the teacher reads of each text: it may cut texts, and drop signs that it does not know."""
    return keys_of_values(build_classifier(plan.spec, seed=0).readings(texts))


def _never(texts: Sequence[Text]) -> SoftLabels:
    raise AssertionError(f"{len(texts)} rows are not kept")
