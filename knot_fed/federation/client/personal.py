"""A client's personal model: made from its own examples and the consensus, and kept; only metrics may leave."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from flwr.app import Context, Message

from knot_fed.config import NO_MECHANISM, PROMPT, TeacherConfig
from knot_fed.config.plugins import is_plugin
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import PolicyError, WireError
from knot_fed.federation.client.costs import check_cost, personal_cost
from knot_fed.federation.client.guard import guard_handler
from knot_fed.federation.client.held_texts import requested_texts
from knot_fed.federation.client.release import TEACHERS
from knot_fed.federation.client.settings import Client
from knot_fed.federation.wire import personal_wire
from knot_fed.geometry.matrix_file import SUFFIXES
from knot_fed.labels import LabelSpace
from knot_fed.losses import loss_content, make_loss, reads_cost
from knot_fed.mechanisms import TeacherPlan
from knot_fed.models import (
    ModelSpec,
    TextClassifier,
    build_classifier,
    load_classifier,
    load_trained_state,
    trained_state,
    use_device,
    use_threads,
)
from knot_fed.models.constant import ConstantClassifier
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.privacy.policy_checks import (
    check_consensus_is_accepted,
    check_evaluations,
    check_own_metrics,
    check_test_size,
    rounded_metrics,
)
from knot_fed.training.calibration import LEAST_VALIDATION
from knot_fed.training.evaluation import evaluate_classifier
from knot_fed.training.kept_teachers import (
    digest_of_training,
    load_or_train,
    load_or_train_teacher,
    teacher_digest,
)
from knot_fed.training.personal.distilling import selects_epoch, train_personal
from knot_fed.training.personal.kept import PersonalModels, personal_digest
from knot_fed.training.teacher import best_temperature, predict_soft_labels, train_teacher
from knot_fed.types import Metrics, SplitExamples, Text

MEASURED = 2
"""Models whose metrics leave: the teacher alone, and the personal model."""
UNTRAINED = "a prompted teacher is never trained, so there is no personal model"

logger = logging.getLogger("knot_fed")


@guard_handler(personal_wire.DONE, personal_wire.BEFORE, personal_wire.AFTER)
def answer_consensus(message: Message, context: Context) -> Message:
    """Distil the server's consensus beside the own examples, keep the model, and reply with metrics if they may leave.

    A server may send any distributions: they shape a model that stays here, and whose metrics count as evaluations.
    """
    started = time.monotonic()
    client, run = Client.from_context(context), str(context.run_id)
    check_consensus_is_accepted(client.policy)
    check_own_loss(client)
    use_threads(client.run.threads)
    use_device(client.run)
    request = personal_wire.unpack_consensus(message.content, labels=client.run.label_space())
    labels = client.evaluation_labels(message.content)
    client.check_model(client.model)
    client.bind(run, request.slice.fingerprint)
    transfer = requested_texts(request.slice, context, client)
    if client.model.startswith(PROMPT):
        reply = personal_wire.PersonalReply(withheld=UNTRAINED)
    else:
        making = PersonalMaking(client, client.examples()[0], transfer, request, run)
        alone = making.alone()
        models = Both(alone, making.personal(alone))
        reply = measured(client, making.examples, models, labels, run=run, round_number=request.slice.round)
    if not client.run.privacy.facts.has_guarantee:
        reply = replace(reply, seconds=time.monotonic() - started)
    return Message(personal_wire.pack_reply(reply, round_number=request.slice.round), reply_to=message)


def check_own_loss(client: Client) -> None:
    """Refuse a consensus that the run does not announce, and a loss for which a real client would run or read a file.

    Virtual clients have no owner, and read the files of the run.
    """
    run, policy = client.run, client.policy
    if run.personal.consensus == "none":
        raise WireError("the run has personal.consensus = 'none', and a consensus was sent; start a run with another")
    loss = run.personal.loss
    if not client.node.data:
        return
    if is_plugin(loss) and loss not in policy.models:
        raise PolicyError("personal.loss is a function that only the server names; add it to models in the policy")
    if reads_cost(run, key="personal.loss") and run.ground_cost.endswith(SUFFIXES):
        raise PolicyError(
            "transport.cost is a file, which only the server has; use a named cost, or another personal.loss"
        )


@dataclass(frozen=True, slots=True, eq=False)
class PersonalMaking:
    """How one request makes a personal model; the same request, also of a resumed run, makes the same.

    It starts from the run's model of an earlier round, or else from the client's teacher alone: trained on the own
    examples without noise, since neither leaves. Where that teacher is a constant, it starts from a new model. Where
    teachers start from personal models, the model of an earlier round first has the same epochs on the own examples.
    """

    client: Client
    examples: SplitExamples
    transfer: TransferSet
    request: personal_wire.ConsensusRequest
    run: str

    @property
    def settings(self) -> TeacherConfig:
        """The settings of the teacher alone: those of the teacher that answers, so that a kept one is used again."""
        teacher = self.client.run.teacher
        guaranteed = self.client.run.privacy.facts.has_guarantee
        return teacher.model_copy(update={"class_weights": "none"}) if guaranteed else teacher

    @property
    def spec(self) -> ModelSpec:
        """The client's own model."""
        return self.client.spec(self.transfer)

    @property
    def texts(self) -> Sequence[Text]:
        """The texts of the consensus that teach."""
        texts, kept = self.transfer.texts[self.request.slice.start : self.request.slice.stop], self.request.kept
        return texts if kept is None else [texts[position] for position in kept]

    def alone(self) -> TextClassifier:
        """Load or train the client's teacher alone; refuse a request that would cost more than the policy allows."""
        client, seed = self.client, self.client.seed()
        kept = (client.state / TEACHERS / teacher_digest(self.spec, self.examples, self.settings, seed)).is_dir()
        if client.policy.limits_cost:
            cost = personal_cost(
                self._plain_plan(), build_classifier(self.spec, seed=0), self.texts, key=client.secret(),
                teachers=self._epochs_of_teachers(alone=not kept),
            )  # fmt: skip
            check_cost(cost, policy=client.policy)
        return load_or_train_teacher(
            self.spec, self.examples, self.settings, seed=seed, folder=client.state / TEACHERS,
            feature_cache=client.features,
        )[0]  # fmt: skip

    def personal(self, alone: TextClassifier) -> TextClassifier:
        """Load or train the personal model, and enter it as the run's newest one."""
        client, number = self.client, self.request.slice.round
        models = PersonalModels(client.state, client=client.name)
        before = ""
        if client.run.personal.when == "rounds":
            with client.ledger.locked():
                before = models.before(self.run, number, resumed=client.run.resume)
        digest = self._digest(before)
        model, _ = load_or_train(
            models.folder(digest), partial(self._train, alone, models.folder(before) if before else None),
            feature_cache=client.features, what="personal model",
        )  # fmt: skip
        with client.ledger.locked():
            models.enter(self.run, number, digest, folder=client.run.folder_name(self.run))
        return model

    def _train(self, alone: TextClassifier, before: Path | None) -> TextClassifier:
        client, seed = self.client, self.client.seed()
        if not selects_epoch(self.examples.val):
            logger.info(
                "%s: its validation split has fewer than %d examples or one label, so its personal model is that of the"
                " last epoch, and may be worse than its teacher", client.name, LEAST_VALIDATION,
            )  # fmt: skip
        if before is not None:
            model = self._started_from(before)
        else:
            model = build_classifier(self.spec, seed=seed, feature_cache=client.features)
            if not isinstance(alone, ConstantClassifier):
                load_trained_state(model, trained_state(alone))
        train_personal(
            model, self.examples, self.texts, self.request.soft_labels, make_loss(client.run, key="personal.loss"),
            client.run.personal, self.settings, seed=seed + self.request.slice.round,
        )  # fmt: skip
        return model

    def _started_from(self, before: Path) -> TextClassifier:
        """Return the model of an earlier round; if this round's teacher starts from it, trained as that is."""
        model = load_classifier(before, feature_cache=self.client.features)
        if not self._teacher_starts_from_it:
            return model
        return train_teacher(
            model.spec, self.examples, self.settings, seed=self.client.seed(), feature_cache=self.client.features,
            start=trained_state(model),
        )  # fmt: skip

    @property
    def _teacher_starts_from_it(self) -> bool:
        """Whether teachers start from the personal model of an earlier round."""
        return self.settings.start == "personal" and self.settings.epochs > 0

    def _epochs_of_teachers(self, *, alone: bool) -> list[int]:
        """Return the epochs of the teachers that are trained before the model: the one alone, and this round's."""
        again = self._teacher_starts_from_it and self.request.slice.round > 1
        return [self.settings.epochs] * alone + [self.settings.epochs_from_student] * again

    def _digest(self, before: str) -> str:
        client, asked, kept = self.client, self.request.slice, self.request.kept
        parts = [self.examples.train, self.examples.val]
        training = digest_of_training(self.spec, parts, self.settings.model_dump(), client.seed())
        return personal_digest(
            [before, training], self.request.soft_labels,
            client.run.personal.model_dump(exclude={"consensus", "when"}), client.run.transport.model_dump(),
            client.run.label_space().to_json(), self.transfer.fingerprint, asked.start, asked.stop, asked.round,
            client.seed(), None if kept is None else kept.tolist(), *loss_content(client.run, key="personal.loss"),
        )  # fmt: skip

    def _plain_plan(self) -> TeacherPlan:
        run = self.client.run
        privacy = run.privacy.model_copy(update={"mechanism": NO_MECHANISM})
        plain = run.model_copy(update={"privacy": privacy, "teacher": self.settings})
        return TeacherPlan(plain, self.spec, self.examples, self.transfer.texts, self.client.seed(), None)


class Both(NamedTuple):
    """The models whose metrics leave."""

    alone: TextClassifier
    personal: TextClassifier


def measured(
    client: Client,
    examples: SplitExamples,
    models: Both,
    labels: LabelSpace,
    *,
    run: str,
    round_number: int,
) -> personal_wire.PersonalReply:
    """Return both models' metrics on the private test split after the last round, or the reason why they stay.

    They follow the rules of evaluation: limits, the size of the split, rounding, and the ledger, which counts two.
    Beside answers with a guarantee they stay, since both models are trained without noise. `labels` are in the geometry
    of the run's metrics.
    """
    if round_number < client.run.rounds:
        return personal_wire.PersonalReply(withheld="metrics leave after the last round only")
    policy, ledger = client.policy, client.ledger
    try:
        check_own_metrics(guaranteed=client.run.privacy.facts.has_guarantee, policy=policy)
        check_test_size(len(examples.test), policy=policy)
        with ledger.locked():
            check_evaluations(*ledger.evaluated(run), policy=policy, models=MEASURED)
            ledger.record(LedgerEntry(run=run, evaluations=MEASURED))
    except PolicyError as error:
        return personal_wire.PersonalReply(withheld=error.refusal)

    def metrics(model: TextClassifier) -> Metrics:
        temperature = best_temperature(model, examples.val)  # it stays here
        soft_labels = predict_soft_labels(model, examples.test.texts)
        found = evaluate_classifier(soft_labels, examples.test.labels, labels, temperature=temperature)
        return rounded_metrics(found, diameter=labels.diameter, policy=policy)

    return personal_wire.PersonalReply(metrics(models.alone), metrics(models.personal))
