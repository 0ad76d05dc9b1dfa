"""The server's side that every app shares: its data, the student's start and judge, and the summary of a run."""

import json
import logging
from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid

from knot_fed.config import RunConfig
from knot_fed.data.partition import client_name
from knot_fed.data.private import Columns, read_labelled_texts, seed_key
from knot_fed.data.reading.files import data_path
from knot_fed.data.transfer_set import TransferSet, check_rounds, read_transfer_set
from knot_fed.errors import KnotError, told_error
from knot_fed.federation.server.roster import ClientRecord, Outcome
from knot_fed.models import ModelSpec, TextClassifier, build_classifier, train_vocabulary
from knot_fed.runs.log import FAILED, LOG_FILE, OPENED, RESULT, log_event, log_to, new_seal, printable
from knot_fed.runs.method import answered_in_words
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.tables import summary_table, table_facts
from knot_fed.system.terminal import ascii_lines
from knot_fed.training.calibration import LEAST_TEMPERATURE
from knot_fed.training.evaluation import EvaluationDetails, evaluate_classifier, evaluation_details, mean_metrics
from knot_fed.training.kept_teachers import load_or_train_teacher
from knot_fed.training.teacher import best_temperature, predict_soft_labels
from knot_fed.types import LabelledTexts, Metrics, SplitExamples

REMEDY = "--verbose shows its traceback, and so does the SuperLink's log"
VERSIONS = ("knot-fed", "flwr", "torch", "transformers", "POT", "numpy")

logger = logging.getLogger("knot_fed")
flower = logging.getLogger("flwr")
"""Flower's own log: what knot_fed's commands leave out of a run's stream, and `flwr run` and `flwr log` show."""


def run_in_folder(grid: Grid, context: Context, federate: Callable[[Grid, RunConfig, RunFolder], None]) -> RunFolder:
    """Make the run folder, or open the one to resume, federate, and return it; a failure is one sentence.

    An unexpected error is told by its phase, its class and where it was raised.
    """
    seal = new_seal()
    log_to(seal=seal)
    log_event(OPENED, run=context.run_id)
    try:
        config = RunConfig.from_mapping(context.run_config)
        folder = _open_folder(config, default=f"{config.task}-{context.run_id}", seal=seal)
        federate(grid, config, folder)
    except KnotError as error:
        log_event(FAILED, logging.ERROR, text=error)
        raise
    except Exception as error:
        log_event(FAILED, logging.ERROR, text=f"the server app: {told_error(error)}; {REMEDY}")
        raise
    else:
        summary = folder.read_summary()
        for line in ascii_lines(summary_table(summary)):
            flower.info("%s", printable(line))
        log_event(RESULT, table=json.dumps(table_facts(summary), sort_keys=True))
        folder.checkpoint.unlink(missing_ok=True)
        return folder
    finally:
        log_to()


def _open_folder(config: RunConfig, *, default: str, seal: str) -> RunFolder:
    if config.resume:
        folder = RunFolder.resume(Path(config.runs_dir) / config.resume, config.to_mapping())
        log_to(folder.path / LOG_FILE, seal=seal)
        return folder
    folder = RunFolder.create(Path(config.runs_dir), config.name or default)
    log_to(folder.path / LOG_FILE, seal=seal)
    folder.write_config(config.to_mapping())
    return folder


def read_server_data(config: RunConfig) -> tuple[TransferSet, SplitExamples]:
    """Read the transfer set and the public labelled set.

    Raises
    ------
    DataError
        If a file breaks a rule.
    ConfigError
        If there are too few transfer texts for the rounds.
    """
    data = config.data
    columns = Columns.from_settings(data)

    def tell(name: str, sentence: str) -> None:
        logger.info("%s: %s", name, sentence)

    transfer = read_transfer_set(data_path(data.root, data.transfer), columns=columns, limit=data.limit, tell=tell)
    check_rounds(len(transfer), config.rounds, name=client_name(data.transfer))
    public = read_labelled_texts(
        data_path(data.root, data.public),
        columns=columns,
        labels=config.label_space(),
        key=seed_key(config.seed),
        limit=data.limit,
        least_classes=2,
        tell=tell,
    )
    if transfer.repeated:
        logger.info("%d transfer texts; %d rows repeat one of them and are left out", len(transfer), transfer.repeated)
    return transfer, public


def start_student(config: RunConfig, public: SplitExamples, transfer: TransferSet) -> TextClassifier:
    """Build the student as distillation starts from it: pretrained and calibrated on the public set, if asked."""
    student = pretrained_student(config, public, transfer)
    calibrate_start(config, student, public.val)
    return student


def pretrained_student(config: RunConfig, public: SplitExamples, transfer: TransferSet) -> TextClassifier:
    """Build the student and, if asked, pretrain it: the public teacher, as sure as early stopping left the others."""
    state, spec = Path(config.state_dir), student_spec(config, transfer)
    if not config.student.pretrain:
        return build_classifier(spec, seed=config.seed, feature_cache=state / "features")
    student, _ = load_or_train_teacher(
        spec,
        public,
        config.teacher,
        seed=config.seed,
        folder=state / "server" / "teachers",
        feature_cache=state / "features",
    )
    logger.info("student pretrained on %d public examples", len(public.train))
    return student


def calibrate_start(config: RunConfig, student: TextClassifier, validation: LabelledTexts) -> None:
    """Divide the logits of a pretrained student by the temperature that fits the public validation split best.

    Early stopping by macro-F1 leaves a classifier far too sure, and one that is too sure cannot learn: the gradient of
    transport, `p (f - <p, f>)`, dies with the softmax. Where it is right on all of the split, no temperature fits best.
    """
    if not (config.student.pretrain and config.student.calibrate):
        return
    temperature = best_temperature(student, validation)
    if temperature < 1.01 * LEAST_TEMPERATURE:
        logger.warning(
            "the surer the student, the better it fits the %d public validation rows, so its start is not calibrated",
            len(validation),
        )
    elif student.divide_logits(temperature):
        logger.info(
            "the student's logits are divided by %.3g, which fits the public validation split best", temperature
        )
    else:
        logger.warning("%s: its output layer is not known, so its start is not calibrated", student.spec.name)


def student_spec(config: RunConfig, transfer: TransferSet) -> ModelSpec:
    """Describe the student; a vocabulary is trained on the public transfer texts only."""
    return ModelSpec(
        name=config.student_model,
        trainable=config.trainable,
        labels=config.label_space().names,
        paired=transfer.paired,
        max_length=config.teacher.max_length,
        vocabulary=train_vocabulary(transfer.texts) if config.student_model == "tiny-bert" else (),
    )


class Judge:
    """Measures the student on the public test split, in detail, with the temperature of the public validation split."""

    def __init__(self, config: RunConfig, public: SplitExamples) -> None:
        self.name = public_domain(config, [client_name(config.data.public)])
        self._labels = config.label_space()
        self._public = public

    def __call__(self, student: TextClassifier) -> tuple[Metrics, EvaluationDetails]:
        """Return the student's metrics and what lies behind them."""
        test, temperature = self._public.test, best_temperature(student, self._public.val)
        answers = predict_soft_labels(student, test.texts), test.labels, self._labels
        return evaluate_classifier(*answers, temperature=temperature), evaluation_details(*answers)


def run_between_measurements(
    run: Callable[[], None], student: TextClassifier, judge: Judge, outcome: Outcome
) -> KnotError | None:
    """Judge the student, run, judge it again, and return the failure if the run had one."""
    outcome.before[judge.name], outcome.details["before"] = judge(student)
    try:
        run()
    except KnotError as error:
        return error
    finally:
        logger.info("%s", answered_in_words(outcome.answered, len(outcome.clients)))
    outcome.after[judge.name], outcome.details["after"] = judge(student)
    return None


def summarise(
    config: RunConfig, outcome: Outcome, facts: dict[str, object], *, seconds: float, failure: KnotError | None
) -> dict[str, object]:
    """Collect what `summary.json` holds; its keys are the outside interface in README.md.

    Parameters
    ----------
    config, outcome
        What was asked, and what came of it.
    facts
        What only this kind of run has to say; it joins the rest.
    seconds
        Wall time.
    failure
        Why the run failed, if it did.
    """
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
    labels = config.label_space()
    return {
        "status": "ok" if failure is None else "failed",
        "error": None if failure is None else str(failure),
        "task": config.task,
        "seed": config.seed,
        "labels": list(labels.names),
        "coordinates": labels.coordinates.tolist(),
        "clients_answered": outcome.answered,
        "clients_total": len(outcome.clients),
        "resumed": bool(config.resume),
        "clients": [_client_facts(record, names, failure) for _, record in sorted(outcome.clients.items())],
        "student": student,
        "domains": domains,
        "details": {"domain": public, **details},
        "versions": {name: version(name) for name in VERSIONS},
        "wall_seconds": seconds,
        **facts,
    }


def _client_facts(record: ClientRecord, measured: list[str], failure: KnotError | None) -> dict[str, str | int | float]:
    """Tell of one client; why it has no metrics too, where the run went on to its end."""
    facts = record.to_mapping()
    if record.node_id and record.name not in measured and failure is None:
        facts["unmeasured"] = record.unmeasured or "it was not there for the first measurement"
    return facts


def public_domain(config: RunConfig, clients: Collection[str]) -> str:
    """Return what the server's own test set is called: as its file, and with `(public)` where a client bears that name.

    No client can be called so, since it has a space.
    """
    name = client_name(config.data.public)
    return f"{name} (public)" if name in clients else name
