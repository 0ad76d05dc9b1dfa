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
