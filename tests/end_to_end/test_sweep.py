import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMAND = [Path(sys.executable).parent / "knot-fed", "sweep"]
SMALL = "teacher.epochs=2 distill.epochs=2 student.pretrain=false"
OPTIONS = ["--app", ROOT, "--seeds", "1", "--grid", "distill.loss=ot,entropy", "--no-fedavg", "--jobs", "1"]


def sweep(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_sweep_that_is_killed_goes_on_and_repeats_no_finished_cell(tmp_path):
    first = sweep(tmp_path, SMALL, *OPTIONS)
    assert any("1 of 2" in line for line in first.stdout)
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == 128 + signal.SIGTERM
    summary = next((tmp_path / "sweeps/builtin/cells").glob("*/summary.json"))
    written = summary.stat().st_mtime_ns

    second = sweep(tmp_path, SMALL, *OPTIONS)
    out, err = second.communicate()
    assert second.returncode == 0, out + err
    assert "1 of 1" in out
    assert summary.stat().st_mtime_ns == written
    results = pd.read_csv(tmp_path / "sweeps/builtin/results.csv")
    lines = {"student before", "student after", "ensemble", "centralised"}
    assert lines < set(results["line"])
    assert set(results["domain"]) == {"books", "phones", "restaurants", "hotels", "mean"}
    assert (tmp_path / "sweeps/builtin/report.html").is_file()

    other = sweep(tmp_path, SMALL + " rounds=2", *OPTIONS)
    _, err = other.communicate()
    assert other.returncode == 1
    assert "another sweep's folder (config differs in rounds)" in " ".join(err.split())


def test_a_row_of_the_results_equals_that_of_a_separate_run(tmp_path):
    grid = "distill.loss=ot,entropy weights.scheme=uniform,confidence"
    swept = sweep(tmp_path, SMALL, *OPTIONS[:4], "--grid", grid, "--no-fedavg")
    out, err = swept.communicate()
    assert swept.returncode == 0, out + err
    assert "1 federation(s) and 3 student(s)" in " ".join(out.split())
    results = pd.read_csv(tmp_path / "sweeps/builtin/results.csv")
    cells = tmp_path / "sweeps/builtin/cells"
    for cell in ("seed1-entropy-uniform", "seed1-ot-uniform"):
        elsewhere = f'name="{cell}" runs-dir="{tmp_path / "alone"}" state-dir="{tmp_path / "state"}" keep-answers=true'
        alone = subprocess.run(
            [COMMAND[0].with_name("flower-simulation"), cells / cell / "config.toml", elsewhere, "--app", ROOT],
            cwd=tmp_path, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert alone.returncode == 0, alone.stdout + alone.stderr
        summary = json.loads((tmp_path / "alone" / cell / "summary.json").read_text())
        rows = results[(results["cell"] == cell) & (results["line"] == "student after")].set_index("domain")
        for domain, measured in summary["domains"].items():
            assert {name: rows.loc[domain, name] for name in measured["after"]} == measured["after"]
        for way in ("bytes_up", "bytes_down"):
            assert rows.loc["mean", way] == sum(client[way] for client in summary["clients"]) / 3
        student = "student/parameters.safetensors"
        assert (cells / cell / student).read_bytes() == (tmp_path / "alone" / cell / student).read_bytes()
