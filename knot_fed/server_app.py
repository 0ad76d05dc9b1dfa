"""The server: pretrains the student, runs the strategy, and writes the run folder."""

import logging
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from knot_fed.confidence import teacher_scores
from knot_fed.config import RunConfig
from knot_fed.data.files import data_path
from knot_fed.data.private import Columns, read_labelled_texts
from knot_fed.data.transfer_set import TransferSet, read_transfer_set
from knot_fed.errors import KnotError
from knot_fed.evaluation import evaluate_classifier, mean_metrics
from knot_fed.federation.strategy import KnotStrategy, Outcome, PublicTeacher
from knot_fed.models import (
    ModelSpec,
    TextClassifier,
    build_classifier,
    save_classifier,
    train_vocabulary,
    use_threads,
)
from knot_fed.reporting import RunFolder, write_report
from knot_fed.teacher import load_or_train_teacher, predict_soft_labels
from knot_fed.types import LabelledTexts, Metrics, SplitExamples

VERSIONS = ("knot-fed", "flwr", "torch", "transformers", "POT", "numpy")

app = ServerApp()
logger = logging.getLogger("knot_fed")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation; a failure leaves what was computed in the run folder and ends non-zero."""
    _log_to_stdout()
    config = RunConfig.from_mapping(context.run_config)
    folder = RunFolder.create(Path(config.runs_dir), config.name or f"{config.task}-{context.run_id}")
    folder.write_config(config.to_mapping())
    try:
        federate(grid, config, folder)
    except KnotError as error:
        logger.error("the run failed: %s", error)
        raise


def federate(grid: Grid, config: RunConfig, folder: RunFolder) -> None:
    """Pretrain, distil and judge the student, and write `summary.json`, `student/` and `report.html`.

    Raises
    ------
    KnotError
        If the federation cannot go on; `summary.json` then holds `status = "failed"` and what was computed.
    """
    started = time.monotonic()
    use_threads(0)
    columns = _columns(config)
    data = config.data
    transfer = read_transfer_set(data_path(data.root, data.transfer), columns=columns, limit=data.limit)
    public = read_labelled_texts(
        data_path(data.root, data.public),
        columns=columns,
        labels=config.label_space(),
        seed=config.seed,
        limit=data.limit,
    )
    student, public_teacher = start_student(config, public, transfer)
    strategy = KnotStrategy(config, student, transfer, folder, public_teacher, public.train)
    judge = _Judge(config, public.test)
    outcome = strategy.outcome
    outcome.before[judge.name] = judge(student)
    failure: KnotError | None = None
    try:
        strategy.run(grid)
        outcome.after[judge.name] = judge(student)
    except KnotError as error:
        failure = error
    save_classifier(student, folder.student)
    folder.write_summary(summarise(config, outcome, seconds=time.monotonic() - started, failure=failure))
    if failure is not None:
        raise failure
    write_report(folder)


def start_student(
    config: RunConfig, public: SplitExamples, transfer: TransferSet
) -> tuple[TextClassifier, PublicTeacher | None]:
    """Build the student and, if asked, pretrain it on the public labelled set, where it becomes one more teacher."""
    state = Path(config.state_dir)
    spec = ModelSpec(
        name=config.student_model,
        trainable=config.trainable,
        labels=config.label_space().names,
        paired=transfer.paired,
        max_length=config.teacher.max_length,
        vocabulary=train_vocabulary(transfer.texts) if config.student_model == "tiny-bert" else (),
    )
    if not config.student.pretrain:
        return build_classifier(spec, seed=config.seed, feature_cache=state / "features"), None
    student, _ = load_or_train_teacher(
        spec,
        public,
        config.teacher,
        seed=config.seed,
        folder=state / "server" / "teachers",
        feature_cache=state / "features",
    )
    soft_labels = predict_soft_labels(student, transfer.texts, temperature=config.teacher.temperature)
    scores = teacher_scores(
        config.weights.scheme, student, soft_labels, texts=transfer.texts, private=public.train.texts,
        generator=np.random.default_rng(config.seed),
    )  # fmt: skip
    logger.info("student pretrained on %d public examples", len(public.train))
    return student, PublicTeacher(soft_labels, scores, len(public.train))


def summarise(config: RunConfig, outcome: Outcome, *, seconds: float, failure: KnotError | None) -> dict[str, object]:
    """Collect what `summary.json` holds; its keys are the outside interface in README.md."""
    names = [name for name in outcome.before if name in outcome.after]
    domains = {
        name: {"before": outcome.before[name].to_mapping(), "after": outcome.after[name].to_mapping()} for name in names
    }
    student = {
        when: mean_metrics([measured[name] for name in names]).to_mapping() if names else None
        for when, measured in (("before", outcome.before), ("after", outcome.after))
    }
    distillations = outcome.distillations
    return {
        "status": "ok" if failure is None else "failed",
        "error": None if failure is None else str(failure),
        "task": config.task,
        "seed": config.seed,
        "labels": list(config.label_space().names),
        "clients": [record.to_mapping() for _, record in sorted(outcome.clients.items())],
        "student": student,
        "domains": domains,
        "distillation": {
            "loss": config.distill.loss,
            "objective": config.distill.objective,
            "weights": config.weights.scheme,
            "cost": config.transport.cost,
            "epochs": sum(distillation.epochs_run for distillation in distillations),
            "seconds": sum(distillation.seconds for distillation in distillations),
            "seconds_in_loss": sum(distillation.seconds_in_loss for distillation in distillations),
        },
        "privacy": {"mechanism": "none", "guarantee": "no guarantee: soft labels leave each client without noise"},
        "versions": {name: version(name) for name in VERSIONS},
        "wall_seconds": seconds,
    }


def _log_to_stdout() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("knot_fed: %(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Judge:
    """Measures the student on the server's labelled test set."""

    def __init__(self, config: RunConfig, test: LabelledTexts) -> None:
        self.name = config.data.public.rpartition("/")[2]
        self._labels = config.label_space()
        self._test = test

    def __call__(self, student: TextClassifier) -> Metrics:
        return evaluate_classifier(predict_soft_labels(student, self._test.texts), self._test.labels, self._labels)


def _columns(config: RunConfig) -> Columns:
    data = config.data
    names = ("text", "text_a", "text_b", "label", "split", "separator")
    return Columns(**{name: getattr(data, name) for name in names})
