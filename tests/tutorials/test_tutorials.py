"""The tutorials: every command and program that they show runs in an empty folder, in their order."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.tutorials.pages import TUTORIALS, blocks, script, told_errors

OUTPUTS = {
    "first-federation": ["runs/first/report.html", "runs/first/student", "runs/entropy/summary.json"],
    "your-own-files": ["runs/shops/report.html", "runs/one-file/partition", "mine/runs/sample/report.html"],
    "your-own-code": ["runs/own-loss/summary.json", "runs/own-weights/summary.json", "runs/own-model/student"],
    "reading-a-report": ["runs/read/report.html", "sweeps/losses/report.html", "sweeps/losses/comparison.csv"],
    "an-audit": ["audits/none/report.html", "audits/dp-sgd/attacks.csv", "frontier.html", "frontier.csv"],
}


def test_every_tutorial_is_run_by_a_test():
    assert {page.stem for page in TUTORIALS.glob("*.md")} == {*OUTPUTS}


LONG = {"your-own-code", "reading-a-report", "an-audit"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in OUTPUTS])
def test_what_a_tutorial_shows_runs_from_top_to_bottom(name, tmp_path):
    page = TUTORIALS / f"{name}.md"
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    run = subprocess.run(
        ["bash", "-c", script(page)],
        cwd=tmp_path,
        env={**os.environ, "PATH": os.pathsep.join(folders), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    if output := os.environ.get("TUTORIAL_OUTPUT"):
        (Path(output) / f"{name}.txt").write_text(run.stdout + "\n----\n" + run.stderr)
    assert run.returncode == 0, run.stdout + run.stderr
    assert [file for file in OUTPUTS[name] if not (tmp_path / file).exists()] == []
    assert [line for line in told_errors(page) if line not in run.stdout + run.stderr] == []


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_figure_of_a_tutorial_is_there_and_described(name):
    text = (TUTORIALS / f"{name}.md").read_text()
    for described, _, target in (part.partition("](") for part in text.split("![")[1:]):
        assert described.strip()
        assert (TUTORIALS / target.partition(")")[0]).is_file()


def test_programs_and_files_of_a_tutorial_are_valid_python():
    for page in TUTORIALS.glob("*.md"):
        for block in blocks(page):
            if block.language == "python":
                compile(block.text, f"{page.name}: {block.title}", "exec")
