"""Settings of distillation compared on validation splits, so that a choice sees no test figure.

python -m benchmarks.choose runs/seed16 runs/seed18 --try distill.objective=pooled --try "distill.epochs=16"

Each run is of another seed, with the answers that it kept; each --try is distilled from them anew. Figures are means
over the validation splits of the clients and of the public set, and over the runs; SD is a share of the start's.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from knot_fed import load_student
from knot_fed.config import RunConfig
from knot_fed.config.overrides import second_config
from knot_fed.data.partition import client_shard
from knot_fed.errors import ConfigError, KnotError
from knot_fed.federation.from_answers import distil_from_answers
from knot_fed.federation.server.kept_answers import KeptAnswers
from knot_fed.federation.server.run import read_server_data, start_student
from knot_fed.geometry import evaluation_labels
from knot_fed.models import TextClassifier, use_device, use_threads
from knot_fed.runs.log import notes_to
from knot_fed.runs.run_folder import RunFolder
from knot_fed.sweep.references import open_client
from knot_fed.training.evaluation import evaluate_classifier, mean_metrics
from knot_fed.training.teacher import best_temperature, predict_soft_labels
from knot_fed.types import Metrics


def compare(runs: Sequence[Path], variants: Sequence[str]) -> pd.DataFrame:
    """Return one row for each variant: its figures on the validation splits, means over the runs.

    Parameters
    ----------
    runs
        Folders of finished simulations with `keep-answers = true`.
    variants
        Settings that change no answer, as `knot-fed distil` takes them.

    Raises
    ------
    KnotError
        If a run has no answers or is no simulation, or a setting changes what clients answer.
    """
    rows = []
    for run in runs:
        source = RunFolder.open(run)
        config = second_config(source.read_config(), [], source=source.path)
        clients = count_clients(source, config)
        start = _measure_start(config, clients)
        for variant in variants:
            found = _measure_variant(source, variant, clients)
            rows.append(
                {"settings": variant, "SD ↓": found.sd / start.sd, "SD cal. ↓": found.sd_calibrated / start.sd}
                | {"accuracy ↑": found.accuracy, "macro-F1 ↑": found.macro_f1, "W1 ↓": found.w1}
            )
    return pd.DataFrame(rows).groupby("settings", sort=False).mean()


def count_clients(source: RunFolder, config: RunConfig) -> int:
    """Return the number of virtual clients of a run; ConfigError if its clients were others."""
    names = {*KeptAnswers.load(source, 1).clients}
    if names != {client_shard(index, len(names), config.data.client_names).name for index in range(len(names))}:
        raise ConfigError(
            f"{source.path}: its clients were {', '.join(sorted(names)[:5])}, whose validation splits are not here;"
            " give the folder of a simulation"
        )
    return len(names)


def measure(student: TextClassifier, config: RunConfig, *, clients: int) -> Metrics:
    """Evaluate a student on the validation splits of all virtual clients and of the public set; a plain mean."""
    public = read_server_data(config)[1].val
    splits = [open_client(config, index, clients).examples()[0].val for index in range(clients)]
    temperature, labels = best_temperature(student, public), evaluation_labels(config)
    return mean_metrics(
        [
            evaluate_classifier(
                predict_soft_labels(student, split.texts), split.labels, labels, temperature=temperature
            )
            for split in (*splits, public)
        ]
    )


def _measure_start(config: RunConfig, clients: int) -> Metrics:
    use_threads(config.threads or 1)
    use_device(config)
    transfer, public = read_server_data(config)
    return measure(start_student(config, public, transfer), config, clients=clients)


def _measure_variant(source: RunFolder, variant: str, clients: int) -> Metrics:
    with tempfile.TemporaryDirectory() as folder:
        config = second_config(source.read_config(), [variant, {"runs-dir": folder}], source=source.path)
        made = distil_from_answers(source, config, report=False)
        return measure(load_student(made.path), config, clients=clients)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, one for each seed")
    parser.add_argument("--try", dest="variants", action="append", required=True, metavar="SETTINGS")
    given = parser.parse_args()
    try:
        with notes_to(lambda _: None):  # a run's own tables are of test splits
            table = compare(given.runs, given.variants)
    except KnotError as error:
        parser.error(f"{error}")
    with pd.option_context("display.width", 160, "display.float_format", "{:.3f}".format):
        print(table.to_string())


if __name__ == "__main__":
    main()
