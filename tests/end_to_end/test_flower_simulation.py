import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SMALL = 'teacher.epochs=1 distill.epochs=1 student.pretrain=false name="real"'


def command(name, *arguments, folder):
    return subprocess.run(
        [BIN / name, *arguments], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True
    )


def processes_below(folder):
    listed = subprocess.run(["ps", "-eo", "args"], text=True, capture_output=True, check=True).stdout
    return [line for line in listed.splitlines() if "knot-fed-" in line and str(folder) in line]


def test_three_virtual_clients_on_ray_give_a_run_folder_that_the_commands_read(tmp_path):
    run = command("flower-simulation", "--app", ROOT, "--num-supernodes", "3", "--run-config", SMALL, folder=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "before → after" in run.stdout
    folder = tmp_path / "runs" / "real"
    summary = json.loads((folder / "summary.json").read_text())
    assert [client["status"] for client in summary["clients"]] == ["ok"] * 3
    assert np.load(folder / "pooled-soft-labels-1.npy").shape == (2000, 5)
    assert not processes_below(tmp_path)
    assert "restaurants" in command("knot-fed", "show", folder, folder=tmp_path).stdout
    assert "very positive" in command("knot-fed", "predict", folder, "--text", "it is fine", folder=tmp_path).stdout


def test_a_run_that_fails_exits_non_zero_and_says_why(tmp_path):
    run = command(
        "flower-simulation", "--app", ROOT, "--num-supernodes", "3", "--run-config", SMALL + ' data.public="opera"',
        folder=tmp_path,
    )  # fmt: skip
    assert run.returncode == 1
    assert "no such domain" in run.stderr
    assert "Traceback" not in run.stderr
