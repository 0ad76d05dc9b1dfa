from pathlib import Path

import pytest

from knot_fed.federation.server.run import read_server_data
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from knot_fed.sweep.references import Ensemble, open_client, reference_rows, train_as_run
from tests.fakes import InProcessGrid, virtual_clients

pytestmark = pytest.mark.slow

QUICK = {
    "data.limit": 60, "distill.epochs": 1, "teacher.epochs": 1, "privacy.epochs": 2, "privacy.sampling-rate": 0.2,
    "weights.scheme": "uniform", "student.pretrain": False,
}  # fmt: skip


@pytest.mark.parametrize("mechanism", ["none", "dp-sgd"])
def test_reference_lines_are_of_the_teachers_of_the_runs(run_config, mechanism):
    config = run_config(keys=QUICK | {"privacy.mechanism": mechanism})
    folder = RunFolder.create(Path(config.runs_dir), "run")
    federate(InProcessGrid(virtual_clients(config, 3)), config, folder)
    before = sorted(Path(config.state_dir).glob("*/teachers/*"))
    rows = reference_rows(config, clients=3, weightings=[Ensemble(config.weights, {})])
    trained = set(Path(config.state_dir).glob("*/teachers/*")) - set(before)
    assert [path.parts[-3] for path in trained] == ["centralised"]
    assert {row["line"] for row in rows} >= {"teacher phones", "ensemble", "centralised"}
    measured = {*folder.read_summary()["domains"], "mean"}
    for line in {row["line"] for row in rows}:
        assert {row["domain"] for row in rows if row["line"] == line} == measured


def test_noise_of_a_baseline_is_of_one_training_however_many_a_run_has(run_config):
    """Cells that differ in where their teachers start share their baselines, whichever comes first."""
    found = []
    for start in ("scratch", "student"):
        keys = QUICK | {"privacy.mechanism": "dp-sgd", "rounds": 4, "round-texts": "all", "teacher.start": start}
        config = run_config(keys=keys)
        transfer, _ = read_server_data(config)
        client = open_client(config, 0, 3)
        found.append(train_as_run(client, client.examples()[0], transfer, seed=1, folder=None).noise_multiplier)
    assert found[0] == found[1] > 0
