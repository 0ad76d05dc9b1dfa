"""The examples run unchanged."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from knot_fed import Federation, RunConfig, load_student
from knot_fed.errors import ConfigError
from knot_fed.launch.simulation import superlink

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = {"threads": 1, "teacher.epochs": 2, "distill.epochs": 2}


def test_the_example_in_python_runs_a_federation_and_leaves_a_run_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "federation_in_python.py"))["main"](
        "name=example", *(f"{key}={value}" for key, value in QUICK.items())
    )
    told = capsys.readouterr().out
    folder = tmp_path / "runs" / "example"
    summary = json.loads((folder / "summary.json").read_text())
    assert f"accuracy {summary['student']['before']['accuracy']:.3f} -> " in told
    assert f"run folder: {folder}" in told
    assert [client["name"] for client in summary["clients"]] == ["hotels", "phones", "restaurants"]
    assert load_student(folder).spec.labels == tuple(summary["labels"])


@pytest.mark.slow
def test_an_app_of_ones_own_runs_the_strategy_under_flower(tmp_path):
    settings = {"name": '"own"', "runs-dir": f'"{tmp_path / "runs"}"', "state-dir": f'"{tmp_path / "state"}"', **QUICK}
    pairs = " ".join(f"{key}={value}" for key, value in settings.items())
    command = [Path(sys.executable).parent / "flwr", "run", EXAMPLES / "own_server_app", "knot-fed", "--stream"]
    home = tmp_path / "home"
    home.mkdir()
    with superlink(home) as environment:
        run = subprocess.run(
            [*command, "--run-config", pairs, "--federation-config", "num-supernodes=3"],
            env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    lines = (tmp_path / "runs" / "own" / "accuracy.csv").read_text().splitlines()
    assert sorted(line.partition(",")[0] for line in lines[1:]) == ["hotels", "phones", "restaurants"], run.stdout
    assert len(load_student(tmp_path / "runs" / "own").spec.labels) == 5


@pytest.mark.slow
def test_each_run_in_python_is_a_run_of_its_own_for_the_clients_ledgers(run_config):
    for limit in (120, 90):  # another transfer set: within one run, a client refuses it
        summary = Federation(run_config(keys={"data.limit": limit, "distill.epochs": 1})).run(clients=3).summary
        assert [client["status"] for client in summary["clients"]] == ["ok"] * 3


@pytest.mark.slow
def test_a_run_in_python_returns_the_notes_that_the_commands_print(run_config):
    config = run_config(keys={"distill.loss": "entropy", "transport.cost": "zero-one"})
    notes = Federation(config).run(clients=3).notes
    assert any("transport.cost" in note for note in notes)


def test_importing_the_package_loads_neither_torch_nor_flower():
    heavy = "{'torch', 'flwr', 'numpy', 'pydantic'} & set(sys.modules)"
    check = f"import sys, knot_fed; dir(knot_fed); sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: RunConfig(rounds=0), "run configuration: rounds = 0: input should be greater than or equal to 1"),
        (lambda: RunConfig(weights={"pooling": "median"}), "use distill.objective = 'pooled'"),
        (lambda: Federation().run(clients=-1), "clients = -1; use a whole number from 0 to"),
        (lambda: Federation().run(clients=1), "min-teachers"),
    ],
)
def test_wrong_use_is_told_in_one_sentence(wrong, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        wrong()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("Federation({'rounds': 2})", "Federation: config is a dict; give it a RunConfig"),
        ("Federation().run(clients='3')", "Federation.run: clients = '3'; use a whole number from 0 to 1000000"),
    ],
)
def test_a_value_of_another_type_is_told_where_no_test_checks_types(wrong, sentence, tmp_path):
    program = f"from knot_fed import Federation; {wrong}"
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1] == f"knot_fed.errors.ConfigError: {sentence}"
