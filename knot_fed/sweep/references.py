"""Baselines of a sweep: each teacher alone, their ensemble, and a model trained on everybody's private examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from knot_fed.aggregation import find_consensus
from knot_fed.config import NodeConfig, RunConfig, Scalar, WeightsConfig
from knot_fed.data.private import join_examples
from knot_fed.data.transfer_set import TransferSet
from knot_fed.federation.client.release import TEACHERS, teacher_plan
from knot_fed.federation.client.settings import Client
from knot_fed.federation.server.public_owner import as_teacher
from knot_fed.federation.server.run import pretrained_student, public_domain, read_server_data, student_spec
from knot_fed.geometry import evaluation_labels
from knot_fed.mechanisms import OwnTeacher, mechanism_of, public_teacher, received_answer
from knot_fed.models import TextClassifier, use_device, use_threads
from knot_fed.runs.statistics import CENTRALISED, ENSEMBLE
from knot_fed.sweep.results import Row, with_mean
from knot_fed.training.calibration import fit_temperature
from knot_fed.training.evaluation import evaluate_classifier
from knot_fed.training.kept_teachers import load_or_train_teacher
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.types import SoftLabels, SplitExamples, TeacherAnswer, Text


class Ensemble(NamedTuple):
    """A weighting of the teachers' answers, and the grid values that tell it from others of its scheme and pooling."""

    weights: WeightsConfig
    values: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class DataOwner:
    """A client, or the server with its public examples, with its teacher as one training from nothing makes it."""

    name: str
    teacher: OwnTeacher
    examples: SplitExamples
    is_server: bool = False

    def answer(self, texts: Sequence[Text], weights: WeightsConfig) -> TeacherAnswer:
        """Answer as the server reads it in a run with these weights."""
        run = self.teacher.run.model_copy(update={"weights": weights})
        return received_answer(replace(self.teacher, run=run), texts)


def reference_rows(config: RunConfig, *, clients: int, weightings: Sequence[Ensemble]) -> list[Row]:
    """Measure the baselines of one seed on every domain; needs the private data of all clients.

    Teachers, from the state folder or trained there, answer for the test texts as they answer a server: with the noise
    and the compression of the run.

    Returns
    -------
    rows
        Lines `teacher <name>`, `ensemble` for each of `weightings`, and `centralised`: the student's architecture
        trained without noise on all private training examples, and on the public ones if the student is pretrained on
        them; left out if `teacher.epochs = 0`. The domains are those of a run's student, including the public one.
    """
    use_threads(config.threads or 1)
    use_device(config)
    transfer, public = read_server_data(config)
    owners = open_owners(config, transfer, public, clients)
    tests = {owner.name: owner.examples.test for owner in owners[:clients]}
    tests[public_domain(config, tests)] = public.test
    central = _trained_on_all(config, transfer, owners) if config.teacher.epochs else None

    texts = [*public.val.texts, *(text for test in tests.values() for text in test.texts)]
    answers = reference_answers(owners, texts, weightings)
    if central is not None:
        answers.append(({"line": CENTRALISED, "weights": ""}, predict_soft_labels(central, texts)))
    ends = np.cumsum([len(public.val), *map(len, tests.values())])[:-1]
    rows = []
    for named, soft_labels in answers:
        of_validation, *of_tests = np.split(soft_labels, ends)
        temperature = fit_temperature(of_validation, public.val.labels)
        measured = [
            {"domain": domain}
            | evaluate_classifier(
                answered, test.labels, evaluation_labels(config), temperature=temperature
            ).to_mapping()
            for (domain, test), answered in zip(tests.items(), of_tests, strict=True)
        ]
        rows += [{"seed": config.seed} | named | row for row in with_mean(measured)]
    return rows


def reference_answers(
    owners: Sequence[DataOwner], texts: Sequence[Text], weightings: Sequence[Ensemble]
) -> list[tuple[Row, SoftLabels]]:
    """Return the soft labels of each teacher, and of their ensemble by weighting, with the columns that name them."""
    answers: list[tuple[Row, SoftLabels]] = [
        ({"line": f"teacher {owner.name}", "weights": ""}, owner.answer(texts, owner.teacher.run.weights).soft_labels)
        for owner in owners
    ]
    ordered = sorted(owners, key=lambda owner: (owner.is_server, owner.name))  # as a run does, since sums round
    for weights, values in weightings:
        answered = [owner.answer(texts, weights) for owner in ordered]
        pooled = find_consensus(answered, weights, owners[0].teacher.run.distill).pooled
        answers.append(({"line": ENSEMBLE, "weights": weights.weighting} | dict(values), pooled))
    return answers


def open_client(config: RunConfig, index: int, count: int) -> Client:
    """Return one of `count` virtual clients."""
    return Client.from_configs(config, NodeConfig.from_mapping({"partition-id": index, "num-partitions": count}))


def train_as_run(
    client: Client, examples: SplitExamples, transfer: TransferSet, *, seed: int, folder: Path | None
) -> OwnTeacher:
    """Train a client's teacher as a run does in one training from nothing, or load it from the folder."""
    settings = client.run.teacher.model_copy(update={"start": "scratch"})
    client = replace(client, run=client.run.model_copy(update={"teacher": settings}))
    plan = teacher_plan(client, examples, transfer, seed=seed, asked=len(transfer))
    return mechanism_of(plan.run.privacy).train(plan, folder=folder, features=client.features)[0]


def open_owners(config: RunConfig, transfer: TransferSet, public: SplitExamples, clients: int) -> list[DataOwner]:
    """Return all virtual clients, and the server if its student is pretrained, with their teachers."""
    owners = []
    for client in (open_client(config, index, clients) for index in range(clients)):
        examples, _ = client.examples()
        teacher = train_as_run(client, examples, transfer, seed=client.seed(), folder=client.state / TEACHERS)
        owners.append(DataOwner(client.name, teacher, examples))
    if config.student.pretrain:
        pretrained = as_teacher(config, pretrained_student(config, public, transfer), public)
        name = public_domain(config, [owner.name for owner in owners])
        teacher = public_teacher(config, [pretrained], public, transfer.texts)
        owners.append(DataOwner(name, teacher, public, is_server=True))
    return owners


def _trained_on_all(config: RunConfig, transfer: TransferSet, owners: Sequence[DataOwner]) -> TextClassifier:
    state = Path(config.state_dir)
    model, _ = load_or_train_teacher(
        student_spec(config, transfer), join_examples([owner.examples for owner in owners]), config.teacher,
        seed=config.seed, folder=state / "centralised" / "teachers", feature_cache=state / "features",
    )  # fmt: skip
    return model
