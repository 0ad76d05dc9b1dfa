"""`Federation`: a whole run in this process, for Python programs and notebooks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knot_fed.client_app import app as client_app
from knot_fed.config import RunConfig, flattened
from knot_fed.config.fields import MOST_CLIENTS, kebab
from knot_fed.config.overrides import for_virtual_clients, second_config
from knot_fed.data.private import Columns
from knot_fed.data.reading.files import data_path
from knot_fed.data.transfer_set import read_transfer_set
from knot_fed.errors import ConfigError, shown
from knot_fed.federation.flower.in_process import InProcessGrid, context, new_run_id, virtual_clients
from knot_fed.federation.from_answers import check_question, distil_from_answers
from knot_fed.federation.server.kept_answers import KeptAnswers
from knot_fed.federation.server.run import run_in_folder
from knot_fed.models import TextClassifier, load_classifier
from knot_fed.preflight import check_plugins, check_run, check_run_folder
from knot_fed.preflight.unread import unread_settings
from knot_fed.runs.log import notes_to
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.tables import summary_html, summary_lines
from knot_fed.server_app import federate
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.types import SoftLabels, Text

Echo = Callable[[str], None]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class FederationResult:
    """What a run leaves; it is displayed as the tables of the run.

    Everything but the student is read from the run folder when it is asked for.

    Parameters
    ----------
    summary
        The content of `summary.json`: metrics before and after, clients, bytes, versions.
    student
        The distilled student.
    folder
        The run folder, with `report.html`.
    notes
        Notes on the configuration, such as settings that nothing reads.
    clients
        Number of virtual clients.

    Examples
    --------
    >>> result = Federation().run()  # doctest: +SKIP
    >>> result.predict(["Not bad at all."])  # doctest: +SKIP
    >>> result.answers["phones"].shape  # doctest: +SKIP
    (1947, 5)
    >>> result.distil(distill={"loss": "entropy"}).summary["student"]["after"]["sd"]  # doctest: +SKIP
    """

    summary: dict[str, Any]
    student: TextClassifier
    folder: Path
    notes: tuple[str, ...] = ()
    clients: int = 0

    def __repr__(self) -> str:
        here, folder = Path.cwd(), self.folder
        shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
        return "\n".join([*summary_lines(self.summary), f"run folder: {shown}"])

    def _repr_html_(self) -> str:
        """Return the table of metrics for a notebook."""
        return summary_html(self.summary)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names, in the order of the columns of soft labels."""
        return self.student.spec.labels

    @property
    def config(self) -> RunConfig:
        """The configuration of the run, with absolute paths."""
        return RunConfig.from_mapping(flattened(RunFolder(self.folder).read_config()))

    @property
    def transfer_texts(self) -> tuple[Text, ...]:
        """The texts that the clients labelled, in the order of the rows of `answers` and `pooled`."""
        data = self.config.data
        path = data_path(data.root, data.transfer)
        return tuple(read_transfer_set(path, columns=Columns.from_settings(data), limit=data.limit).texts)

    @property
    def answers(self) -> dict[str, SoftLabels]:
        """The soft labels of each client: rows of `transfer_texts`, NaN in rounds without an answer from it.

        If all texts are asked in every round, they are those of the last.

        Empty after a secure sum. Raises RunFolderError if the answers are not kept, as with `keep_answers=False` and
        after `distil`.
        """
        rounds = [KeptAnswers.load(RunFolder(self.folder), number).answers for number in self._rounds]
        names = sorted({name for answers in rounds for name in answers})
        rows = [len(pooled) for pooled in self._pooled()]
        missing = [np.full((count, len(self.labels)), np.nan, dtype=np.float32) for count in rows]
        return {
            name: np.concatenate(
                [
                    answers[name].soft_labels if name in answers else gap
                    for answers, gap in zip(rounds, missing, strict=True)
                ]
            )
            for name in names
        }

    @property
    def pooled(self) -> SoftLabels:
        """The pooled soft labels: rows of `transfer_texts`."""
        return np.concatenate(self._pooled())

    def predict(self, texts: Sequence[Text]) -> SoftLabels:
        """Return the student's distribution over `labels` for each text, or pair of texts.

        Raises
        ------
        ModelError
            If single texts are given to a student of pairs, or vice versa.
        """
        if isinstance(texts, str):
            raise ConfigError("FederationResult.predict: texts is one string; give a list of texts")
        return predict_soft_labels(self.student, list(texts))

    def distil(self, *, echo: Echo | None = print, **settings: object) -> "FederationResult":
        """Distil another student from the same answers, without asking any client.

        Parameters
        ----------
        echo
            As in `Federation.run`.
        settings
            Sections and settings as in `RunConfig(...)`, e.g. `distill={"loss": "entropy"}`: of `distill`, `transport`,
            `student`, the pooling, and `weights={"scheme": ...}` if the answers have the scores that it reads.

        Raises
        ------
        KnotError
            If a setting would change the clients' answers, or the answers are not kept.
        """
        source = RunFolder(self.folder)
        changed = flattened(_with_aliases(settings))
        config = second_config(source.read_config(), [changed], source=source.path)
        check_run_folder(config)
        check_plugins(config)
        check_question(source, config)
        notes = tuple(unread_settings([config]))
        with notes_to(_told(notes, echo)):
            folder = distil_from_answers(source, config, clients=self.clients)
        return _result(folder, notes, self.clients)

    @property
    def _rounds(self) -> range:
        return self.config.last_pass

    def _pooled(self) -> list[SoftLabels]:
        return [RunFolder(self.folder).read_pooled(number) for number in self._rounds]


class Federation:
    """A federation of virtual clients in this process, with the handlers and messages of a deployed one.

    Clients answer one after another. `flower-simulation` runs the same configuration on all cores, or on a Ray cluster.

    Parameters
    ----------
    config
        The run's configuration; by default the demo's.

    Raises
    ------
    ConfigError
        If `config` is not a `RunConfig`.

    Examples
    --------
    >>> from knot_fed import Federation, RunConfig
    >>> Federation(RunConfig(seed=2, distill={"loss": "entropy"}))
    Federation(sentiment: entropy loss, clients phones, restaurants, hotels)
    >>> result = Federation(RunConfig(seed=2)).run(clients=3)  # doctest: +SKIP
    >>> result.summary["student"]["after"]["accuracy"]  # doctest: +SKIP
    """

    def __init__(self, config: RunConfig | None = None) -> None:
        if not isinstance(config, RunConfig | None):
            raise ConfigError(f"Federation: config is a {type(config).__name__}; give it a RunConfig")
        self.config = config or RunConfig()

    def __repr__(self) -> str:
        names = ", ".join(self.config.data.client_names)
        return f"Federation({self.config.task}: {self.config.distill.loss} loss, clients {names})"

    def run(self, clients: int = 0, *, echo: Echo | None = print) -> FederationResult:
        """Run the federation.

        Without a configured name, the run is named after its task and the time.

        Parameters
        ----------
        clients
            Virtual clients; 0: one for each private file.
        echo
            Gets each note on the configuration and the progress, as one line; None: nobody does. `run.log` in the run
            folder has all lines.

        Raises
        ------
        KnotError
            If the run failed, or would fail and was refused before it started.
        """
        if isinstance(clients, bool) or not isinstance(clients, int) or not 0 <= clients <= MOST_CLIENTS:
            raise ConfigError(
                f"Federation.run: clients = {shown(clients)}; use a whole number from 0 to {MOST_CLIENTS}"
            )
        config = for_virtual_clients(self.config, clients)
        count = clients or len(config.data.client_names)
        check_run_folder(config)
        notes = (*unread_settings([config], averages=False), *check_run(config, clients=count))
        run_id = new_run_id()
        grid = InProcessGrid(virtual_clients(config, count, run_id=run_id), client_app)
        with notes_to(_told(notes, echo)):
            folder = run_in_folder(grid, context(config, node={}, node_id=1, run_id=run_id), federate)
        return _result(folder, notes, count)


def _told(notes: Sequence[str], echo: Echo | None) -> Echo:
    """Pass the notes on the configuration on, and return what gets those of the run."""
    told = echo or (lambda _: None)
    for note in notes:
        told(f"note: {note}")
    return told


def _result(folder: RunFolder, notes: tuple[str, ...], clients: int) -> FederationResult:
    return FederationResult(folder.read_summary(), load_classifier(folder.student), folder.path, notes, clients)


def _with_aliases(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings under the names of the run configuration: `batch-size` for `batch_size`."""
    return {
        kebab(key): _with_aliases(value) if isinstance(value, Mapping) else value for key, value in settings.items()
    }
