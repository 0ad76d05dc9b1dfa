"""A person's path: a slim container without a compiler, the wheel, her own file of two columns, and a report."""

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.conftest import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.long]
IMAGE = "python:3.11-slim"
PATH = """
set -e
! command -v cc gcc
mkdir /home/ada && cp /given/* /home/ada && cd /home/ada
pip install --quiet --root-user-action ignore --constraint constraints.txt ./knot_fed-*.whl
date +"installed %s"
flower-simulation --data reviews.csv
date +"reported %s"
test -s runs/reviews-*/report.html
"""
WORDS = {
    1: ("broke after a week", "never arrived", "stopped working at once"),
    2: ("feels cheap and rattles", "came with a scratch"),
    3: ("does what it says, nothing more", "is okay for the price"),
    4: ("works well, with one small flaw", "is good value"),
    5: ("is simply perfect", "exceeded all I hoped for", "is the best I ever had"),
}


def star_reviews(count):
    """Make up reviews whose stars are as uneven as those of shops."""
    drawn = random.Random(1)
    rows = {}
    while len(rows) < count:
        (stars,) = drawn.choices([*WORDS], [11, 6, 9, 20, 54])
        thing = drawn.choice(("kettle", "backpack", "desk lamp", "router", "yoga mat", "rain jacket", "keyboard"))
        rows[f'"Order {drawn.randint(1, 99)}, the {thing} {drawn.choice(WORDS[stars])}."'] = stars
    return "text,stars\n" + "".join(f"{text},{stars}\n" for text, stars in rows.items())


def test_from_pip_install_to_a_report_of_her_own_file(tmp_path):
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode:
        pytest.skip(f"no Docker Engine has {IMAGE}")
    (made,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    assert Path(made).is_file()
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    (tmp_path / "reviews.csv").write_text(star_reviews(400))
    command = [
        "docker",
        "run",
        "--rm",
        "--init",
        "--env",
        "PIP_EXTRA_INDEX_URL",
    ]  # the caller's, for torch without CUDA
    command += ["--volume", f"{tmp_path}:/given:ro", IMAGE, "sh", "-c", PATH]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "before → after" in ended.stdout
    assert re.search(r"report: /home/ada/runs/reviews-\S+", ended.stdout)
