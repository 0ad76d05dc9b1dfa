from pathlib import Path

import pytest

from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from knot_fed.sweep.references import reference_rows
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
    rows = reference_rows(config, clients=3, weightings=[config.weights])
    trained = set(Path(config.state_dir).glob("*/teachers/*")) - set(before)
    assert [path.parts[-3] for path in trained] == ["centralised"]
    assert {row["line"] for row in rows} >= {"teacher phones", "ensemble", "centralised"}
    measured = {*folder.read_summary()["domains"], "mean"}
    for line in {row["line"] for row in rows}:
        assert {row["domain"] for row in rows if row["line"] == line} == measured
