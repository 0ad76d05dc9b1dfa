"""What the student is held against: each teacher alone, their ensemble, and a model that no federation may train."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from knot_fed.aggregation import find_consensus
from knot_fed.config import NodeConfig, RunConfig, WeightsConfig
from knot_fed.data.private import join_examples
from knot_fed.data.transfer_set import TransferSet
from knot_fed.federation.client.release import TEACHERS, teacher_plan
from knot_fed.federation.client.settings import Client
from knot_fed.federation.server.run import pretrained_student, public_domain, read_server_data, student_spec
from knot_fed.mechanisms import OwnTeacher, mechanism_of, public_teacher
from knot_fed.models import TextClassifier, use_threads
from knot_fed.privacy.compression import as_received
from knot_fed.runs.statistics import CENTRALISED, ENSEMBLE
from knot_fed.sweep.results import Row, with_mean
from knot_fed.training.calibration import fit_temperature
from knot_fed.training.evaluation import evaluate_classifier
from knot_fed.training.kept_teachers import load_or_train_teacher
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.types import LabelledTexts, SoftLabels, SplitExamples, TeacherAnswer, Text


@dataclass(frozen=True, slots=True)
class _Owner:
    """One owner of labelled data with its teacher, as the runs of this seed trained it."""

    name: str
    teacher: OwnTeacher
    examples: SplitExamples

    def answer(self, texts: Sequence[Text], *, weights: WeightsConfig) -> TeacherAnswer:
        """Answer for texts as the server would read it in a run of a weighting."""
        teacher = replace(self.teacher, run=self.teacher.run.model_copy(update={"weights": weights}))
        privacy = teacher.run.privacy
        return as_received(mechanism_of(privacy).answer(teacher, texts), privacy)


def reference_rows(config: RunConfig, *, clients: int, weightings: Sequence[WeightsConfig]) -> list[Row]:
    """Measure the reference lines of one seed on every domain; only a study that holds all data can do so.

    Parameters
    ----------
    config
        Of one run of that seed; teachers are loaded from its state folder, or trained there.
    clients
        Number of virtual clients.
    weightings
        What to form ensembles by.

    Returns
    -------
    rows
        Lines `teacher <name>`, `ensemble` for each weighting, and `centralised`: the student's architecture trained on
        all private training examples pooled, and the public ones where the student is pretrained on them. All are
        measured on the domains that a run's student is measured on, the public one among them. Teachers answer for the
        test texts as they answer a server: trained by the run's mechanism, with noise under `pate` and `gaussian`,
        compressed. `centralised` has no noise, and is left out where `teacher.epochs = 0` trains nothing.
    """
    use_threads(config.threads or 1)
    transfer, public = read_server_data(config)
    owners = [_client(config, transfer, index, clients) for index in range(clients)]
    tests = {owner.name: owner.examples.test for owner in owners}
    own_domain = public_domain(config, tests)
    tests[own_domain] = public.test
    if config.student.pretrain:
        student = pretrained_student(config, public, transfer)
        owners.append(_Owner(own_domain, public_teacher(config, student, public.train.texts), public))
    pooled = [owner.examples for owner in owners]
    centralised = _trained_on_all(config, transfer, pooled) if config.teacher.epochs else None
    told = _answers(owners, centralised, public.val, weightings)
    temperatures = {line: fit_temperature(soft_labels, public.val.labels) for line, soft_labels in told.items()}
    lines: dict[tuple[str, str], list[Row]] = {}
    for domain, test in tests.items():
        for line, soft_labels in _answers(owners, centralised, test, weightings).items():
            measured = evaluate_classifier(
                soft_labels, test.labels, config.label_space(), temperature=temperatures[line]
            )
            lines.setdefault(line, []).append({"domain": domain} | measured.to_mapping())
    return [
        {"seed": config.seed, "line": line, "weights": weighting} | row
        for (line, weighting), rows in lines.items()
        for row in with_mean(rows)
    ]


def _answers(
    owners: Sequence[_Owner],
    centralised: TextClassifier | None,
    test: LabelledTexts,
    weightings: Sequence[WeightsConfig],
) -> dict[tuple[str, str], SoftLabels]:
    """Return what each line says of one domain's test texts, by line and weighting."""
    first = [owner.answer(test.texts, weights=owner.teacher.run.weights) for owner in owners]
    answers = {(f"teacher {owner.name}", ""): answer.soft_labels for owner, answer in zip(owners, first, strict=True)}
    for chosen in weightings:
        alone = [owner.answer(test.texts, weights=chosen) for owner in owners]
        settings = owners[0].teacher.run.distill
        answers[ENSEMBLE, chosen.weighting] = find_consensus(alone, chosen, settings).pooled
    if centralised is not None:
        answers[CENTRALISED, ""] = predict_soft_labels(centralised, test.texts)
    return answers


def _client(config: RunConfig, transfer: TransferSet, index: int, count: int) -> _Owner:
    client = Client.from_configs(config, NodeConfig.from_mapping({"partition-id": index, "num-partitions": count}))
    examples, _ = client.examples()
    plan = teacher_plan(client, examples, transfer, seed=client.seed(), asked=len(transfer))
    mechanism = mechanism_of(plan.run.privacy)
    teacher, _ = mechanism.train(plan, folder=client.state / TEACHERS, features=client.features)
    return _Owner(client.name, teacher, examples)


def _trained_on_all(config: RunConfig, transfer: TransferSet, owned: Sequence[SplitExamples]) -> TextClassifier:
    state = Path(config.state_dir)
    model, _ = load_or_train_teacher(
        student_spec(config, transfer), join_examples(owned), config.teacher, seed=config.seed,
        folder=state / "centralised" / "teachers", feature_cache=state / "features",
    )  # fmt: skip
    return model
