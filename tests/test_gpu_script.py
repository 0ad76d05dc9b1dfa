"""The script for a lent GPU: what is missing is told in one sentence, and no part costs another."""

import json
import subprocess
import sys

import pytest

from benchmarks import gpu
from benchmarks.gpu_loss import floor_bytes
from benchmarks.gpu_report import markdown
from benchmarks.gpu_runs import SMALL_RUNS, whole_run
from tests.conftest import ROOT


def test_a_python_without_packages_is_refused_in_one_sentence_that_names_them(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    command = ["sh", ROOT / "benchmarks/gpu.sh", tmp_path, "--cpu"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(bare)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    (last,) = done.stderr.splitlines()
    assert last.startswith(f"gpu.sh: neither this Python nor {tmp_path} has torch triton transformers ")
    assert last.endswith(" pycparser; carry them as wheels, as this script's head says")
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_without_a_gpu_the_times_are_refused_unless_a_cpu_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert (
        capsys.readouterr().err
        == "torch sees no GPU here; check nvidia-smi, or pass --cpu to try the script on a CPU\n"
    )


def test_a_part_that_fails_is_a_line_with_its_error(capsys):
    gpu.run_part("one", lambda: 1 / 0)
    gpu.run_part("two", lambda: {"us": 3.0})
    one, two = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert one["error"].startswith("ZeroDivisionError: division by zero (test_gpu_script.py:")
    assert two == {"part": "two", "us": 3.0, "seconds": 0.0}


@pytest.mark.parametrize(
    ("program", "seconds", "error"),
    [
        ('print(\'{"part": "a", "us": 1}\'); raise SystemExit(7)', 30.0, "its process ended with 7"),
        ('print(\'{"part": "a", "us": 1}\', flush=True); import time; time.sleep(60)', 2.0, "it was stopped after 2 s"),
    ],
)
def test_a_group_that_dies_or_hangs_keeps_the_parts_that_it_had(monkeypatch, tmp_path, program, seconds, error):
    fake = tmp_path / "python"
    (tmp_path / "program.py").write_text(program)
    fake.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path / 'program.py'}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(fake))
    parts = gpu.run_group("losses", [], seconds)
    assert [part["part"] for part in parts] == ["a", "losses"]
    assert parts[1]["error"] == error
    assert gpu.run_group("tests", [], 0.0)[0]["error"] == "left out, since the time was used up"


def test_the_page_says_that_no_gpu_was_had_and_lists_what_failed():
    parts = [
        {"part": "environment", "card": "none", "torch": "2", "seconds": 1.0},
        {"part": "loss (64, 5, 4)", "floor_us": 1.0, "ours_us": 2.0, "seconds": 1.0},
        {"part": "geomloss (64, 5, 4)", "us": 70.0, "seconds": 1.0},
        {"part": "step of BERT, bfloat16", "step_ms": 3.0, "share_of_loss": 0.01, "seconds": 1.0},
        {"part": "run of tiny-bert", "run_seconds": 9.5, "sd_before": 1.2, "sd_after": 1.1, "seconds": 10.0},
        {"part": "tests", "error": "pytest ended with 1", "summary": "1 failed", "seconds": 1.0},
    ]
    page = markdown({"on_a_gpu": False, "total_seconds": 5.0, "parts": parts})
    assert "No GPU was had" in page
    assert "| (64, 5, 4) | 1.0 | 2.0 | 70.0 |" in page
    assert "| BERT, bfloat16 | 3.0 | 0.01 |" in page
    assert "| tiny-bert | 9.5 | 1.2 | 1.1 |" in page
    assert "Failed:\n\n- tests: pytest ended with 1\n" in page
    assert "No GPU was had" not in markdown({"on_a_gpu": True, "total_seconds": 5.0, "parts": parts})


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_RUNS)
def test_a_whole_run_is_a_row_with_its_metrics_and_its_device(name):
    row = whole_run(name, small=True)
    assert row["device"].startswith("CPU")
    assert 0.5 < row["sd_after"] < 2
    assert 0 < row["accuracy_after"] < 1


def test_the_floor_counts_each_array_once():
    assert floor_bytes(10, 5, 4) == 4 * (50 + 200 + 40 + 50)
