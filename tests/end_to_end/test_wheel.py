"""The wheel alone: built, installed into a fresh virtual environment, and used from an empty folder."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.long
SMALL = ["teacher.epochs=1", "distill.epochs=1", "fedavg.rounds=1"]
NAME = re.compile(r"^run folder: (.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The commands of a fresh environment that holds the wheel, and sees the packages that the tests run with."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, ROOT)
    venv.create(folder / "venv", symlinks=True)
    pip("--python", folder / "venv", "install", "--no-deps", "--no-index", *folder.glob("*.whl"))
    base = {"base": str(folder / "venv")}
    others = Path(sysconfig.get_path("purelib", vars=base)) / "others.pth"
    others.write_text(sysconfig.get_path("purelib") + "\n")  # of editable installs there only the metadata are seen
    commands = Path(sysconfig.get_path("scripts", vars=base))
    for script in Path(sys.executable).parent.glob("fl*"):
        if not (copy := commands / script.name).exists():
            copy.write_text(f"#!{commands / 'python'}\n" + script.read_text().partition("\n")[2])
            copy.chmod(0o755)
    return commands


@pytest.fixture
def run(installed, tmp_path):
    """Runs a command in an empty folder, or a folder below it, and returns what it prints."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(name, *arguments, folder=""):
        ended = subprocess.run(
            [installed / name, *arguments],
            cwd=tmp_path / folder,
            env=kept | {"OMP_NUM_THREADS": "1"},
            text=True,
            capture_output=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    return run


def pip(*arguments):
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def test_the_wheel_is_what_runs_and_tells_its_version_and_digest(run, installed):
    assert run("python", "-c", "import knot_fed; print(knot_fed.__file__)").startswith(str(installed.parent))
    assert re.fullmatch(r"knot-fed \d+\.\d+\.\d+\n", run("knot-fed", "--version"))
    assert re.search(r"\b[0-9a-f]{64}\b", run("knot-fed", "client", "digest"))


def test_an_empty_folder_runs_the_demo_and_a_sweep(run, tmp_path):
    said = run("flower-simulation", *SMALL)
    assert "before → after" in said
    assert (tmp_path / NAME.search(said)[1] / "summary.json").is_file()
    run("knot-fed", "sweep", "seed=1", *SMALL, "--seeds", "1", "--grid", "distill.loss=ot,entropy", "--no-fedavg")
    assert len([*tmp_path.glob("sweeps/*/cells/*/summary.json")]) == 2


def test_the_commands_of_a_new_project_run(run, tmp_path):
    run("knot-fed", "new", "mine")
    readme = (tmp_path / "mine" / "README.md").read_text()
    commands = readme.split("```sh\n")[1].split("```")[0].replace("--seeds 3", "--seeds 1").splitlines()
    folders = []
    for words in (shlex.split(command, comments=True) for command in commands):
        settings = SMALL if words[0] == "flower-simulation" or words[1] == "sweep" else []
        words = [word.replace("runs/NAME", folders[-1] if folders else word) for word in words]
        folders += NAME.findall(run(*words, *settings, folder="mine"))
    assert len(folders) == 2
    assert (Path(folders[-1]) / "report.html").is_file()
