"""`knot-fed distil`: another student from the answers that a run has kept."""

from pathlib import Path
from typing import Annotated

import typer

from knot_fed.cli.options import Configs, RunConfig, given
from knot_fed.system.terminal import echo_line, make_console

console = make_console()


def distil(
    run: Annotated[Path, typer.Argument(help="Run folder, with the answers of its clients.")],
    configs: Configs = None,
    run_config: RunConfig = None,
    num_supernodes: Annotated[
        int,
        typer.Option(
            min=0, help="Virtual clients of the run, to measure the student on their private test splits too."
        ),
    ] = 0,
) -> None:
    """Distil another student from a run's answers, without asking any client; the run folder is written beside it.

    Settings are the run's, except those given: of `distill`, `transport`, `student`, the pooling, and `weights.scheme`
    if the answers have the scores that it reads.
    """
    from knot_fed.config.overrides import second_config
    from knot_fed.federation.from_answers import check_question, check_transfer_set, distil_from_answers
    from knot_fed.federation.server.kept_answers import KeptAnswers
    from knot_fed.federation.server.run import read_server_data
    from knot_fed.models import use_threads
    from knot_fed.preflight import check_deployed_run, check_plugins, check_run_folder
    from knot_fed.preflight.unread import unread_settings
    from knot_fed.runs.log import notes_to
    from knot_fed.runs.run_folder import RunFolder
    from knot_fed.runs.tables import summary_table

    source = RunFolder.open(run)
    config = second_config(source.read_config(), given(configs, run_config), source=source.path)
    use_threads(config.threads)
    check_run_folder(config)
    notes = check_deployed_run(config)
    check_plugins(config)
    check_question(source, config)
    check_transfer_set(KeptAnswers.load(source, 1), read_server_data(config)[0])
    for note in [*unread_settings([config]), *notes]:
        echo_line(console, f"note: {note}")
    with notes_to(lambda line: echo_line(console, line)):
        folder = distil_from_answers(source, config, clients=num_supernodes)
    console.print(summary_table(folder.read_summary()))
    echo_line(console, f"run folder: {folder.path}")
