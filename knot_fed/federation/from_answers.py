"""Another student from the answers that a run has kept; no client is asked for soft labels."""

import logging
import time
from collections.abc import Mapping

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from knot_fed.config import RunConfig, Scalar, flattened
from knot_fed.config.choices import reports_scores
from knot_fed.data.partition import client_shard
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import ConfigError, RunFolderError
from knot_fed.federation.client.handlers import answer_evaluation
from knot_fed.federation.flower.in_process import InProcessGrid, context, new_run_id, virtual_clients
from knot_fed.federation.server.kept_answers import KeptAnswers, KeptCollector
from knot_fed.federation.server.roster import ClientRecord
from knot_fed.federation.server.run import run_in_folder
from knot_fed.federation.strategy import KnotStrategy, MakeCollector
from knot_fed.runs.run_folder import RunFolder
from knot_fed.types import TeacherAnswer

logger = logging.getLogger("knot_fed")

NOT_ASKED = (
    "name", "resume", "runs-dir", "state-dir", "threads", "timeout", "wait-for", "keep-answers", "trackers",
    "fedavg.", "personal.", "labels.geometry",
)  # fmt: skip
"""Keys that change no answer; those of `personal` do if teachers start from personal models."""
WITH_A_START = (
    *NOT_ASKED, "distill.", "transport.", "weights.power", "weights.pooling", "weights.trim",
    "weights.era-temperature", "weights.most-entropy",
)  # fmt: skip
"""Keys, and prefixes of keys, that clients do not read to answer if the pretrained student is sent to them."""
SERVER_ONLY = (*WITH_A_START, "student.", "data.public")
"""The same if no student is sent."""
AFTER_A_SUM = (*NOT_ASKED, "distill.", "transport.")
"""The same after a secure sum, which is weighted already and contains the pretrained student's answers."""
SCHEME = "weights.scheme"
HERE = ("data.root", "device", "compile", "min-teachers")
"""Keys that may be others where only the student is trained: folders, the device, the answers that suffice."""
UNMEASURED = "its private test split is not here; the run that asked it has measured it"

evaluation_app = ClientApp()
evaluation_app.evaluate()(answer_evaluation)


def question(config: RunConfig) -> dict[str, Scalar]:
    """Return the settings that determine the clients' answers; the scheme is among them if it reads their scores."""
    summed, mapping = config.privacy.secure_sum, config.to_mapping()
    untold = tuple(key for key in NOT_ASKED if key != "personal." or config.teacher.start != "personal")
    unread: tuple[str, ...] = WITH_A_START if config.sends_student else SERVER_ONLY
    if summed:
        unread = AFTER_A_SUM
    if config.answers_follow_students:
        unread = untold
    asked = {key: value for key, value in mapping.items() if not key.startswith(unread)}
    if not summed and not config.answers_follow_students and not reports_scores(config.weights.scheme):
        del asked[SCHEME]
    return asked


def unserved(answered: Mapping[str, Scalar], asked: Mapping[str, Scalar]) -> list[str]:
    """Return the keys in which one question differs from another that was answered; empty if its answers serve it.

    Scores that are not asked for do no harm.
    """
    keys = {*answered, *asked} - (set() if SCHEME in asked else {SCHEME})
    return sorted(key for key in keys if answered.get(key) != asked.get(key))


def distil_from_answers(source: RunFolder, config: RunConfig, *, clients: int = 0, report: bool = True) -> RunFolder:
    """Distil another student from a run's answers, and write a run folder as a federation with this `config` would.

    Parameters
    ----------
    source
        The run that asked the clients.
    config
        As the source's, except for keys that clients do not read; `data.root` may have moved.
    clients
        Virtual clients of the run, whose private test splits are in this process's reach; 0: only the server's test
        split is measured.
    report
        Whether to write the page of the run too.

    Raises
    ------
    KnotError
        If another question was asked, answers are missing or damaged, the transfer set is another one, the clients are
        others, or the run fails.
    """
    check_question(source, config)
    kept = {number: KeptAnswers.load(source, number) for number in range(1, config.rounds + 1)}
    run_id, files = new_run_id(), config.data.client_names
    nodes = virtual_clients(config, clients, run_id=run_id)
    names = [client_shard(index, clients, files).name for index in range(clients)]
    records = _records(kept, dict(zip(names, nodes, strict=True)))

    def federate(grid: Grid, config: RunConfig, folder: RunFolder) -> None:
        started = time.monotonic()
        strategy = KnotStrategy.from_config(config, folder, make_collector=collector_of(kept))
        strategy.summary()
        if config.personal.consensus != "none":
            logger.info("personal.consensus = %r has no effect: no client is asked here", config.personal.consensus)
        strategy.roster.outcome.clients |= records
        strategy.record(lambda: strategy.run_rounds(grid), started=started, answers=source.path.name, report=report)

    grid = InProcessGrid(nodes, evaluation_app)
    return run_in_folder(grid, context(config, node={}, node_id=1, run_id=run_id), federate)


def check_question(source: RunFolder, config: RunConfig) -> None:
    """Raise ConfigError if the answers of a run do not serve this configuration."""
    name = source.path.resolve().name
    answered = RunConfig.from_mapping(flattened(source.read_config()))
    differing = [key for key in unserved(question(answered), question(config)) if key not in HERE]
    if differing:
        model = "; another student is student.model" if "model" in differing else ""
        raise ConfigError(
            f"{name}: its clients were asked under another {', '.join(differing)}, which changes their answers; leave"
            f" it as it was, or run a new federation{model}"
        )
    if config.resume:
        raise ConfigError(
            f"resume = {config.resume!r}: a student from answers is not resumed; leave it out, start again"
        )


def check_transfer_set(kept: KeptAnswers, transfer: TransferSet) -> None:
    """Raise RunFolderError if the answers label another transfer set."""
    if kept.fingerprint != transfer.fingerprint:
        raise RunFolderError(
            f"the transfer set has fingerprint {transfer.fingerprint[:12]}, and the kept answers label another one"
            f" ({kept.fingerprint[:12]}); give data.root the folder with the file of that run"
        )


def _records(kept: Mapping[int, KeptAnswers], nodes: Mapping[str, int]) -> dict[str, ClientRecord]:
    """Return a record of each client that joined the run; those of `nodes` are there for the evaluation.

    A virtual client that the run could not reach is left out, as it was there.
    """
    entries = {name: client.joined for answers in kept.values() for name, client in answers.clients.items()}
    joined = sorted(name for name, has_joined in entries.items() if has_joined)
    if nodes and (len(nodes) != len(entries) or not {*joined} <= {*nodes}):
        raise ConfigError(
            f"--num-supernodes {len(nodes)}: the run had {len(entries)} client(s), {', '.join(joined[:5])}"
            f"{', ...' if len(joined) > 5 else ''}; give their number if they were virtual clients, or 0"
        )
    return {
        name: ClientRecord(name, nodes.get(name, 0), unmeasured="" if name in nodes else UNMEASURED) for name in joined
    }


def collector_of(kept: Mapping[int, KeptAnswers]) -> MakeCollector:
    """Return the constructor of a collector of these answers, which refuses another transfer set."""

    def make(config: RunConfig, transfer: TransferSet, public_teacher: TeacherAnswer | None) -> KeptCollector:
        for answers in kept.values():
            check_transfer_set(answers, transfer)
        return KeptCollector(config, transfer, public_teacher, kept)

    return make
