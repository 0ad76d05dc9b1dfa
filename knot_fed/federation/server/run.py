"""What the server apps share: their data, the student's start and evaluation, and the summary of a run."""

import json
import logging
import platform
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid

from knot_fed.config import RunConfig
from knot_fed.data.partition import client_name
from knot_fed.data.private import Columns, read_labelled_texts, seed_key
from knot_fed.data.reading.files import data_path
from knot_fed.data.transfer_set import TransferSet, check_rounds, read_transfer_set
from knot_fed.errors import KnotError, describe_error, phase
from knot_fed.federation.server.roster import Outcome
from knot_fed.federation.server.tracking import track_files, track_metrics, track_results
from knot_fed.geometry import describe_geometry, evaluation_labels
from knot_fed.labels import LabelSpace
from knot_fed.models import (
    ModelSpec,
    TextClassifier,
    build_classifier,
    merge_adapters,
    placement,
    run_spec,
    save_classifier,
    train_vocabulary,
)
from knot_fed.publishing.card import write_run_card
from knot_fed.reporting.report import write_report
from knot_fed.runs.log import FAILED, LOG_FILE, OPENED, RESULT, log_event, log_to, new_seal, printable
from knot_fed.runs.method import answered_in_words
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.tables import summary_table, table_facts
from knot_fed.runs.trackers.start import start_trackers, tracker_names
from knot_fed.runs.trackers.trackers import NO_TRACKERS
from knot_fed.system.terminal import ascii_lines
from knot_fed.training.calibration import LEAST_TEMPERATURE
from knot_fed.training.evaluation import (
    EvaluationDetails,
    bootstrap_intervals,
    evaluate_classifier,
    evaluation_details,
    mean_metrics,
)
from knot_fed.training.kept_teachers import load_or_train_teacher
from knot_fed.training.teacher import best_temperature, predict_soft_labels
from knot_fed.types import LabelledTexts, Metrics, SoftLabels, SplitExamples

REMEDY = "--verbose shows its traceback, and so does the SuperLink's log"
VERSIONS = ("knot-fed", "flwr", "torch", "transformers", "POT", "numpy")

logger = logging.getLogger("knot_fed")
flower = logging.getLogger("flwr")
"""Flower's log: `flwr run` and `flwr log` show it, and knot_fed's commands leave it out of a run's stream."""


def run_in_folder(grid: Grid, context: Context, federate: Callable[[Grid, RunConfig, RunFolder], None]) -> RunFolder:
    """Create the run folder, or open the one to resume, run `federate` in it, and log a failure in one sentence."""
    seal = new_seal()
    log_to(seal=seal)
    log_event(OPENED, run=context.run_id)
    trackers = NO_TRACKERS
    try:
        config = RunConfig.from_mapping(context.run_config)
        folder = _open_folder(config, config.folder_name(str(context.run_id)), seal=seal)
        trackers = start_trackers(config, folder.path, versions())
        federate(grid, config, replace(folder, trackers=trackers))
        trackers.finish(ok=True)
    except KnotError as error:
        log_event(FAILED, logging.ERROR, text=error)
        raise
    except Exception as error:
        log_event(FAILED, logging.ERROR, text=f"the server app: {describe_error(error)}; {REMEDY}")
        raise
    else:
        summary = folder.read_summary()
        for line in ascii_lines(summary_table(summary)):
            flower.info("%s", printable(line))
        log_event(RESULT, table=json.dumps(table_facts(summary), sort_keys=True))
        folder.checkpoint.unlink(missing_ok=True)
        return folder
    finally:
        trackers.finish(ok=False)  # unless it is finished
        log_to()


def _open_folder(config: RunConfig, name: str, *, seal: str) -> RunFolder:
    tracker_names(config)  # all are installed
    if config.resume:
        folder = RunFolder.resume(Path(config.runs_dir) / name, config.to_mapping())
        log_to(folder.path / LOG_FILE, seal=seal)
        return folder
    folder = RunFolder.create(Path(config.runs_dir), name)
    log_to(folder.path / LOG_FILE, seal=seal)
    folder.write_config(config.to_mapping())
    return folder


def read_server_data(config: RunConfig) -> tuple[TransferSet, SplitExamples]:
    """Read the transfer set and the public labelled set; raises DataError, or ConfigError if texts are too few."""
    data = config.data
    columns, on_note = Columns.from_settings(data), partial(logger.info, "%s: %s")
    transfer = read_transfer_set(
        data_path(data.root, data.transfer), columns=columns, limit=data.limit, on_note=on_note
    )
    check_rounds(len(transfer), config.slices, name=client_name(data.transfer))
    public = read_labelled_texts(
        data_path(data.root, data.public), columns=columns, labels=config.label_space(), key=seed_key(config.seed),
        limit=data.limit, least_classes=2, on_note=on_note,
    )  # fmt: skip
    if transfer.repeated:
        logger.info("%d transfer texts; %d rows repeat one of them and are left out", len(transfer), transfer.repeated)
    return transfer, public


def start_student(config: RunConfig, public: SplitExamples, transfer: TransferSet) -> TextClassifier:
    """Build the student as distillation starts from it: pretrained and calibrated on the public set, if configured."""
    student = pretrained_student(config, public, transfer)
    calibrate_start(config, student, public.val)
    return student


def pretrained_student(config: RunConfig, public: SplitExamples, transfer: TransferSet) -> TextClassifier:
    """Build the student and, if configured, pretrain it on the public set, with early stopping as for a teacher."""
    state, spec = Path(config.state_dir), student_spec(config, transfer)
    if not config.student.pretrain:
        return build_classifier(spec, seed=config.seed, feature_cache=state / "features")
    settings = config.teacher.model_copy(update={"calibrate": False})  # `student.calibrate` decides on its start
    student, _ = load_or_train_teacher(
        spec, public, settings, seed=config.seed, folder=state / "server" / "teachers",
        feature_cache=state / "features",
    )  # fmt: skip
    logger.info("student pretrained on %d public examples", len(public.train))
    return student


def calibrate_start(config: RunConfig, student: TextClassifier, validation: LabelledTexts) -> None:
    """Divide the logits of a pretrained student by the temperature that fits the public validation split best.

    Early stopping by macro-F1 leaves a classifier far too confident, and such a classifier cannot learn: the gradient
    of transport, `p (f - <p, f>)`, vanishes with the softmax. If it is right on the whole split, no temperature fits
    best.
    """
    if not (config.student.pretrain and config.student.calibrate):
        return
    temperature = best_temperature(student, validation)
    if temperature < 1.01 * LEAST_TEMPERATURE:
        logger.warning(
            "the student fits the %d public validation rows ever better with more confidence, so it is not calibrated",
            len(validation),
        )
    elif student.divide_logits(temperature):
        logger.info(
            "the student's logits are divided by %.3g, the best fit to the public validation split", temperature
        )
    else:
        logger.warning("%s: its output layer is not known, so its start is not calibrated", student.spec.name)


def student_spec(config: RunConfig, transfer: TransferSet) -> ModelSpec:
    """Describe the student; a vocabulary is trained on the public transfer texts only."""
    vocabulary = train_vocabulary(transfer.texts) if config.student_model == "tiny-bert" else ()
    return run_spec(config, config.student_model, paired=transfer.paired, teacher=False, vocabulary=vocabulary)


def run_between_measurements(
    run: Callable[[], object],
    student: TextClassifier,
    config: RunConfig,
    public: SplitExamples,
    outcome: Outcome,
    folder: RunFolder,
) -> KnotError | None:
    """Evaluate the student on the public test split, run, evaluate it again, and return the failure, if any."""
    name, labels = public_domain(config, [client_name(config.data.public)]), evaluation_labels(config)
    started_from = predict_soft_labels(student, public.test.texts)
    outcome.before[name], outcome.details["before"] = _evaluate(started_from, student, public, labels)
    track_metrics(folder.trackers, outcome.before, step=0)
    try:
        run()
    except KnotError as error:
        return error
    finally:
        logger.info("%s", answered_in_words(outcome.answered, len(outcome.clients)))
    ended_at = predict_soft_labels(student, public.test.texts)
    outcome.after[name], outcome.details["after"] = _evaluate(ended_at, student, public, labels)
    outcome.intervals = bootstrap_intervals(started_from, ended_at, public.test.labels, labels, seed=config.seed)
    return None


def _evaluate(
    soft_labels: SoftLabels, student: TextClassifier, public: SplitExamples, labels: LabelSpace
) -> tuple[Metrics, EvaluationDetails]:
    temperature = best_temperature(student, public.val)
    answers = soft_labels, public.test.labels, labels
    return evaluate_classifier(*answers, temperature=temperature), evaluation_details(*answers)


def finish_run(
    config: RunConfig,
    outcome: Outcome,
    student: TextClassifier,
    folder: RunFolder,
    facts: dict[str, object],
    *,
    rounds: int,
    started: float,
    failure: KnotError | None,
    report: bool = True,
) -> None:
    """Save student and `summary.json`; then raise the failure, or write model card and `report`, and tell trackers."""
    try:
        save_classifier(merge_adapters(student), folder.student)
        summary = summarise(config, outcome, facts, seconds=time.monotonic() - started, failure=failure)
        summary |= {"config_sha256": folder.config_digest()}
        folder.write_summary(summary)
    except KnotError as error:
        failure = failure or error
    if failure is not None:
        raise failure
    with phase("the model card"):
        write_run_card(folder)
    if report:
        with phase("the report"):
            write_report(folder)
    track_results(folder.trackers, outcome, summary, step=rounds)
    track_files(folder, config)


def summarise(
    config: RunConfig, outcome: Outcome, facts: dict[str, object], *, seconds: float, failure: KnotError | None
) -> dict[str, object]:
    """Return `summary.json`, as in docs/reference/run-folder.md; `facts` are those of this kind of run."""
    names = [name for name in outcome.before if name in outcome.after]
    public = public_domain(config, [record.name for record in outcome.clients.values()])
    called = {public_domain(config, [client_name(config.data.public)]): public}
    domains = {
        called.get(name, name): {"before": outcome.before[name].to_mapping(), "after": outcome.after[name].to_mapping()}
        for name in names
    }
    student = {
        when: mean_metrics([measured[name] for name in names]).to_mapping() if names else None
        for when, measured in (("before", outcome.before), ("after", outcome.after))
    }
    details = {when: behind.to_mapping() for when, behind in outcome.details.items()}
    records = sorted(outcome.clients.items())
    clients = [record.to_mapping() for _, record in records]
    for facts_of_client, (name, record) in zip(clients, records, strict=True):
        if record.node_id and name not in names and failure is None:
            facts_of_client["unmeasured"] = record.unmeasured or "it was not there for the first measurement"
    labels = evaluation_labels(config)
    return {
        "status": "ok" if failure is None else "failed",
        "error": None if failure is None else str(failure),
        "task": config.task,
        "seed": config.seed,
        "labels": list(labels.names),
        "coordinates": labels.coordinates.tolist(),
        "geometry": describe_geometry(config),
        "clients_answered": outcome.answered,
        "clients_total": len(outcome.clients),
        "resumed": bool(config.resume),
        "clients": clients,
        "student": student,
        "domains": domains,
        "details": {"domain": public, **details, "intervals": outcome.intervals},
        "versions": versions(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds)),
        "device": placement().described,
        "wall_seconds": seconds,
        **facts,
    }


def versions() -> dict[str, str]:
    """Return the versions of what computes a run."""
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}


def public_domain(config: RunConfig, clients: Collection[str]) -> str:
    """Return the name of the server's test set: that of its file, with ` (public)` if a client has that name.

    No client can have this name, since it contains a space.
    """
    name = client_name(config.data.public)
    return f"{name} (public)" if name in clients else name
