"""What the student is held against: each teacher alone, their ensemble, and a model that no federation may train."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from knot_fed.aggregation import client_weights, pool_soft_labels
from knot_fed.confidence import teacher_scores
from knot_fed.config import NodeConfig, RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.evaluation import evaluate_classifier
from knot_fed.federation.client import Client
from knot_fed.federation.release import private_schedule
from knot_fed.federation.server import read_server_data, start_student, student_spec
from knot_fed.models import TextClassifier, use_threads
from knot_fed.privacy.mechanisms import noise_event
from knot_fed.reporting.statistics import CENTRALISED, ENSEMBLE
from knot_fed.sweep.results import Row, with_mean
from knot_fed.teacher import load_or_train_teacher, predict_soft_labels
from knot_fed.types import LabelledTexts, SoftLabels, SplitExamples


@dataclass(frozen=True, slots=True)
class _Owner:
    """One owner of labelled data with its teacher, as the runs of this seed trained it."""

    name: str
    seed: int
    teacher: TextClassifier
    examples: SplitExamples


def reference_rows(config: RunConfig, *, clients: int, schemes: Sequence[str]) -> list[Row]:
    """Measure the reference lines of one seed on every domain; only a study that holds all data can do so.

    Parameters
    ----------
    config
        Of one run of that seed; teachers are loaded from its state folder, or trained there.
    clients
        Number of virtual clients.
    schemes
        Weightings to form ensembles by.

    Returns
    -------
    rows
        Lines `teacher <name>`, `ensemble` for each scheme, and `centralised`: the student's architecture trained on
        all private and public training examples pooled. Under `dp-sgd` the teachers are the noisy ones of the runs;
        the noise that `pate` and `gaussian` put on soft labels is in no line, and `centralised` has none ever.
    """
    use_threads(config.threads or 1)
    transfer, public = read_server_data(config)
    owners = [_client(config, transfer, index, clients) for index in range(clients)]
    if config.student.pretrain:
        name = config.data.public.rpartition("/")[2]
        owners.append(_Owner(name, config.seed, start_student(config, public, transfer), public))
    centralised = _trained_on_all(config, transfer, [owner.examples for owner in owners])
    lines: dict[tuple[str, str], list[Row]] = {}
    for owner in owners:
        for line, soft_labels in _answers(config, owners, centralised, owner.examples.test, schemes).items():
            measured = evaluate_classifier(soft_labels, owner.examples.test.labels, config.label_space())
            lines.setdefault(line, []).append({"domain": owner.name} | measured.to_mapping())
    return [
        {"seed": config.seed, "line": line, "weights": scheme} | row
        for (line, scheme), rows in lines.items()
        for row in with_mean(rows)
    ]


def _answers(
    config: RunConfig,
    owners: Sequence[_Owner],
    centralised: TextClassifier,
    test: LabelledTexts,
    schemes: Sequence[str],
) -> dict[tuple[str, str], SoftLabels]:
    """Return what each line says of one domain's test texts, by line and weighting."""
    temperature = config.teacher.temperature
    alone = [predict_soft_labels(owner.teacher, test.texts, temperature=temperature) for owner in owners]
    answers = {(f"teacher {owner.name}", ""): answer for owner, answer in zip(owners, alone, strict=True)}
    for scheme in schemes:
        weights = _weights(config, scheme, owners, alone, test)
        answers[ENSEMBLE, scheme] = pool_soft_labels(np.stack(alone).astype(np.float64), weights)
    answers[CENTRALISED, ""] = predict_soft_labels(centralised, test.texts)
    return answers


def _weights(
    config: RunConfig, scheme: str, owners: Sequence[_Owner], answers: Sequence[SoftLabels], test: LabelledTexts
) -> Float[np.ndarray, "clients texts"]:
    scores = [
        teacher_scores(
            scheme, owner.teacher, answer, texts=test.texts, private=owner.examples.train.texts,
            generator=np.random.default_rng(owner.seed),
        )
        for owner, answer in zip(owners, answers, strict=True)
    ]  # fmt: skip
    return client_weights(
        scheme,
        examples=np.array([len(owner.examples.train) for owner in owners]),
        confidences=np.stack(scores).astype(np.float64),
        soft_labels=np.stack(answers).astype(np.float64),
        power=config.weights.power,
    )


def _client(config: RunConfig, transfer: TransferSet, index: int, count: int) -> _Owner:
    client = Client.from_configs(config, NodeConfig.from_mapping({"partition-id": index, "num-partitions": count}))
    examples, _ = client.examples()
    noise = noise_event(config.privacy, texts=len(transfer), asked=len(transfer))
    teacher, _ = load_or_train_teacher(
        client.spec(transfer), examples, config.teacher, seed=client.seed(), folder=client.state / "teachers",
        feature_cache=client.features, private=private_schedule(config.privacy, noise),
    )  # fmt: skip
    return _Owner(client.name, client.seed(), teacher, examples)


def _trained_on_all(config: RunConfig, transfer: TransferSet, owned: Sequence[SplitExamples]) -> TextClassifier:
    pooled = {part: _joined([getattr(examples, part) for examples in owned]) for part in ("train", "val", "test")}
    state = Path(config.state_dir)
    model, _ = load_or_train_teacher(
        student_spec(config, transfer), SplitExamples(**pooled), config.teacher, seed=config.seed,
        folder=state / "centralised" / "teachers", feature_cache=state / "features",
    )  # fmt: skip
    return model


def _joined(parts: Sequence[LabelledTexts]) -> LabelledTexts:
    return LabelledTexts(
        tuple(text for part in parts for text in part.texts), np.concatenate([part.labels for part in parts])
    )
