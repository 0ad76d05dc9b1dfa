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
from knot_fed.labels import LabelSpace
from knot_fed.models import TextClassifier, use_device, use_threads
from knot_fed.runs.log import notes_to
from knot_fed.runs.run_folder import RunFolder
from knot_fed.sweep.references import open_client
from knot_fed.training.evaluation import evaluate_classifier, mean_metrics
from knot_fed.training.teacher import best_temperature, predict_soft_labels
from knot_fed.types import LabelledTexts, Metrics


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
        splits = validation_splits(config, clients=count_clients(source, config))
        start = _measure_start(config, splits)
        for variant in variants:
            found = _measure_variant(source, variant, splits)
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


def validation_splits(config: RunConfig, *, clients: int) -> list[LabelledTexts]:
    """Return the validation splits of all virtual clients, and of the public set, which is the last."""
    splits = [open_client(config, index, clients).examples()[0].val for index in range(clients)]
    return [*splits, read_server_data(config)[1].val]


def measure(student: TextClassifier, splits: Sequence[LabelledTexts], labels: LabelSpace) -> Metrics:
    """Return the plain mean of a student's metrics over `splits`; the last fits the temperature of `sd_calibrated`."""
    temperature = best_temperature(student, splits[-1])
    return mean_metrics(
        [
            evaluate_classifier(
                predict_soft_labels(student, split.texts), split.labels, labels, temperature=temperature
            )
            for split in splits
        ]
    )


def _measure_start(config: RunConfig, splits: Sequence[LabelledTexts]) -> Metrics:
    use_threads(config.threads or 1)
    use_device(config)
    transfer, public = read_server_data(config)
    return measure(start_student(config, public, transfer), splits, evaluation_labels(config))


def _measure_variant(source: RunFolder, variant: str, splits: Sequence[LabelledTexts]) -> Metrics:
    with tempfile.TemporaryDirectory() as folder:
        config = second_config(source.read_config(), [variant, {"runs-dir": folder}], source=source.path)
        made = distil_from_answers(source, config, report=False)
        return measure(load_student(made.path), splits, evaluation_labels(config))


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
