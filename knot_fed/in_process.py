"""`Federation`: a whole run in this process, for Python programs and notebooks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knot_fed.client_app import app as client_app
from knot_fed.config import RunConfig
from knot_fed.config.fields import MOST_CLIENTS
from knot_fed.config.overrides import for_virtual_clients
from knot_fed.errors import ConfigError, shown
from knot_fed.federation.flower.in_process import InProcessGrid, context, new_run_id, virtual_clients
from knot_fed.federation.server.run import run_in_folder
from knot_fed.models import TextClassifier, load_classifier
from knot_fed.preflight import check_run, check_run_folder
from knot_fed.preflight.unread import unread_settings
from knot_fed.server_app import federate


@dataclass(frozen=True, slots=True)
class FederationResult:
    """The content of `summary.json`, the student, the run folder, and notes on the configuration."""

    summary: dict[str, Any]
    student: TextClassifier
    folder: Path
    notes: tuple[str, ...]


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
    >>> result = Federation(RunConfig(seed=2)).run(clients=3)  # doctest: +SKIP
    >>> result.summary["student"]["after"]["accuracy"]  # doctest: +SKIP
    """

    def __init__(self, config: RunConfig | None = None) -> None:
        if not isinstance(config, RunConfig | None):
            raise ConfigError(f"Federation: config is a {type(config).__name__}; give it a RunConfig")
        self.config = config or RunConfig()

    def run(self, clients: int = 0) -> FederationResult:
        """Run the federation, and log its progress to standard output.

        Without a configured name, the run is named after its task and the time.

        Parameters
        ----------
        clients
            Virtual clients; 0: one for each private file.

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
        notes = (*unread_settings([config]), *check_run(config, clients=count))
        run_id = new_run_id()
        grid = InProcessGrid(virtual_clients(config, count, run_id=run_id), client_app)
        folder = run_in_folder(grid, context(config, node={}, node_id=1, run_id=run_id), federate)
        return FederationResult(folder.read_summary(), load_classifier(folder.student), folder.path, notes)
