"""One answer of a client: checked against its policy, entered in its ledger, computed, and only then packed."""

import math
import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from knot_fed.config import NO_MECHANISM
from knot_fed.data.transfer_set import TextKeys, TransferSet, keys_of_values
from knot_fed.errors import PrivacyError
from knot_fed.federation.client.costs import check_cost, estimate_cost
from knot_fed.federation.client.noisy_rows import NoisyRows
from knot_fed.federation.client.settings import Client
from knot_fed.federation.wire import exchange
from knot_fed.mechanisms import TeacherPlan, mechanism_of
from knot_fed.models import build_classifier, check_ready
from knot_fed.privacy import policy_checks
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.privacy.ledger.ledger import digest_of_keys, texts_released
from knot_fed.privacy.ledger.spending import most_sums, of_run, spent_in_life, spent_in_run
from knot_fed.training.kept_teachers import check_kept_release
from knot_fed.types import SoftLabels, SplitExamples, TeacherAnswer, Text, TrainedState

RELEASES, LOGITS, TEACHERS = "releases", "answers", "teachers"


def answer(
    client: Client, request: exchange.TrainRequest, transfer: TransferSet, *, run: str, summed: bool = False
) -> exchange.TrainReply:
    """Label a slice of the transfer set under the run's privacy mechanism; `summed` rows enter a secure sum.

    The ledger holds the release before a teacher is trained. If the request fails before private examples are used,
    e.g. on a full disk, the entry is removed. The same DP-SGD teacher, or the same noisy row of a text, costs nothing
    new. Raises PolicyError, and computes nothing, if the request exceeds the owner's policy.
    """
    started = time.monotonic()
    release = _Release(client, request, transfer, run=run, summed=summed)
    charge = client.ledger.charge(release.decide)
    try:
        answered, reused = release.compute()
    except BaseException:
        if not release.touched:
            client.ledger.take_back(charge)
        raise
    covered = release.privacy.facts.has_guarantee
    return exchange.TrainReply(
        policy_checks.release_answer(answered, policy=client.policy),
        reused=reused,
        seconds=0.0 if covered else time.monotonic() - started,
        claim=release.claim(charge.entries),
    )


def teacher_plan(
    client: Client,
    examples: SplitExamples,
    transfer: TransferSet,
    *,
    seed: int,
    asked: int,
    student: TrainedState | None = None,
) -> TeacherPlan:
    """Return a client's teacher: the run's settings, made as strict as the owner requires, and its noise.

    In a run, examples and seed are the client's own. The noise is solved for all answers of the run: of one teacher, or
    of one in each round, if they start from the `student`. It is accounted for the number asked in one request. Raises
    PolicyError if the run uses none of the mechanisms that the owner requires, and PrivacyError if no noise gives the
    guarantee.
    """
    privacy = policy_checks.tightened_settings(client.run.privacy, client.policy)
    run, texts, trainings = client.run, len(transfer), 1
    if run.rounds_differ:
        texts, trainings = texts * run.rounds // run.slices, run.rounds
    noise = mechanism_of(privacy).noise_event(
        privacy, texts=texts, asked=asked, trainings=trainings, least_noise=client.policy.least_noise
    )
    strict = client.run.model_copy(update={"privacy": privacy})
    if privacy.facts.has_guarantee:
        covered = strict.teacher.model_copy(update={"class_weights": "none"})
        strict = strict.model_copy(update={"teacher": covered})
    return TeacherPlan(strict, client.spec(transfer), examples, transfer.texts, seed, noise, student)


class _Release:
    """One answer, and what it costs.

    `fresh` is the number of texts charged as new, and `touched` states whether private examples were used.
    """

    def __init__(
        self, client: Client, request: exchange.TrainRequest, transfer: TransferSet, *, run: str, summed: bool
    ) -> None:
        """Plan the answer; everything that can fail without private examples fails here."""
        self.client, self.request, self.run, self.summed = client, request, run, summed
        self.texts = transfer.texts[request.start : request.stop]
        student = client.teacher_start(request, client.spec(transfer), run=run)
        self.plan = teacher_plan(
            client, client.examples()[0], transfer, seed=client.seed(), asked=len(self.texts), student=student
        )
        self.privacy = self.plan.run.privacy
        self.mechanism = mechanism_of(self.privacy)
        self.transfer_keys, self.keys = transfer.keys, digest_of_keys(transfer.keys)
        # What the teacher reads of each text: it may cut texts, and drop characters that it does not know.
        readings = build_classifier(self.plan.spec, seed=0).readings(self.texts) if summed else None
        self.readings = self.transfer_keys[:0] if readings is None else keys_of_values(readings)
        self._digest = self.mechanism.release_digest(self.plan)
        self._kept_teacher = client.state / TEACHERS / self.mechanism.teacher_digest(self.plan)
        noise_on = self.privacy.facts.noise_on
        self._noisy_teacher = noise_on == "teacher"  # it costs nothing new while it is kept
        self._noisy = NoisyRows(client.state / RELEASES / self._digest) if noise_on == "rows" else None
        self.fresh, self.touched = 0, False
        self._check_feasible()

    def _check_feasible(self) -> None:
        """Refuse what the teacher's model, its kept files or the limits on cost do not allow."""
        plan, policy = self.plan, self.client.policy
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
        policy_checks.check_limits(
            texts, policy=policy, released_in_run=texts_released(in_run), released_in_life=texts_released(before)
        )
        if self.summed:
            self._check_sums(before)
        claim, mechanism = self._claimed([self.plan.noise]), self.privacy.mechanism
        self.fresh = self._count_fresh(before)
        entry = LedgerEntry(
            run=self.run, round=self.request.round, texts=texts, fresh=self.fresh, mechanism=mechanism,
            unit=self.privacy.facts.guarantee.unit, epsilon=claim.epsilon, delta=claim.delta,
            answer=self._digest, noise=self.plan.noise, keys=self.keys, start=self.request.start,
            stop=self.request.stop, summed=self.summed,
            readings=digest_of_keys(self.readings) if self.summed else "",
        )  # fmt: skip
        if entry.fresh:
            spent, then = (spent_in_life(entries, policy.unit) for entries in (before, [*before, entry]))
            policy_checks.check_epsilon(spent, then, policy=policy, limit="max-epsilon")
        spent, then = (self._spent_in_run(entries, policy.unit) for entries in (in_run, [*in_run, entry]))
        policy_checks.check_epsilon(spent, then, policy=policy, limit="max-epsilon-per-run")
        for kept in (self.transfer_keys, *([self.readings] if self.summed else [])):
            self.client.ledger.keep_keys(kept)
        return entry

    def _check_sums(self, before: Sequence[LedgerEntry]) -> None:
        """Refuse texts that were summed before: by their words, or by what the teacher reads of them."""
        kept, words = self.client.ledger.kept_keys, self.transfer_keys[self.request.start : self.request.stop]
        for keys, keys_of in ((words, self._keys_of), (self.readings, lambda entry: kept(entry.readings))):
            policy_checks.check_sums(*most_sums(keys, before, run=self.run, keys_of=keys_of), policy=self.client.policy)

    def compute(self) -> tuple[TeacherAnswer, bool]:
        """Return the answer as it may be sent, and whether it was kept."""
        noisy, mechanism = self._noisy, self.mechanism
        if noisy is not None and not noisy.count_new(self.texts):
            rows = noisy.rows(self.texts, _never, most_new=0)
            return TeacherAnswer(rows, np.zeros(len(rows), dtype=np.float32), 0), True
        if self._noisy_teacher and not self.fresh and not self._kept_teacher.is_dir():
            raise PrivacyError("the kept teacher was removed while it was asked for; ask again")
        self.touched = True
        teacher, loaded = mechanism.train(
            self.plan, folder=self.client.state / TEACHERS, features=self.client.features,
            logits=self.client.state / LOGITS,
        )  # fmt: skip
        if noisy is None:
            return mechanism.answer(teacher, self.texts), loaded
        draw = partial(noisy.rows, draw=partial(mechanism.rows, teacher), most_new=self.fresh)
        return mechanism.answer(teacher, self.texts, rows=draw), False

    def claim(self, entries: Sequence[LedgerEntry]) -> exchange.Claim:
        """Return the joint guarantee of this run's answers, in the mechanism's unit."""
        return self._claimed(self._spent_in_run(of_run(entries, self.run), self.privacy.facts.guarantee.unit))

    def _claimed(self, noise: Sequence[NoiseEvent | None]) -> exchange.Claim:
        epsilon, privacy = policy_checks.total_epsilon(noise, self.privacy.delta), self.privacy
        if math.isinf(epsilon):
            return exchange.Claim(NO_MECHANISM if privacy.facts.has_guarantee else privacy.mechanism, math.inf, 0.0)
        return exchange.Claim(privacy.mechanism, epsilon, privacy.delta)

    def _spent_in_run(self, entries: Sequence[LedgerEntry], unit: str) -> list[NoiseEvent | None]:
        return spent_in_run(entries, unit, keys_of=self._keys_of)

    def _keys_of(self, entry: LedgerEntry) -> TextKeys:
        """Return the keys of an entry's texts; those of this request's transfer set are in memory."""
        keys = self.transfer_keys if entry.keys == self.keys else self.client.ledger.kept_keys(entry.keys)
        return keys[entry.start : entry.stop]

    def _count_fresh(self, before: Sequence[LedgerEntry]) -> int:
        """Count the texts of this request that cost something new."""
        given = any(entry.answer == self._digest for entry in before)
        if self._noisy is not None:
            return self._noisy.count_new(self.texts) if given else len(self.texts)
        return 0 if given and self._noisy_teacher and self._kept_teacher.is_dir() else len(self.texts)


def _never(texts: Sequence[Text]) -> SoftLabels:
    raise AssertionError(f"{len(texts)} rows are not kept")
