"""Wheel, sdist and Flower bundle hold what they should, and nothing of the machine that built them."""

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile

import pytest
from flwr.cli.build import build_fab_from_disk

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An sdist and a wheel of the tree, and a wheel of the unpacked sdist."""
    folder = tmp_path_factory.mktemp("built")
    build(ROOT, folder / "tree", "--sdist", "--wheel")
    (sdist,) = (folder / "tree").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    build(folder / sdist.name.removesuffix(".tar.gz"), folder / "again", "--wheel")
    return folder


def build(source, out, *what):
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", out, source]
    subprocess.run(command, check=True, capture_output=True)


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(built):
    (wheel,) = (built / "tree").glob("*.whl")
    names = contents(wheel).keys()
    assert {name.split("/")[0] for name in names} == {"knot_fed", "knot_fed-0.1.0.dist-info"}
    assert {"knot_fed/py.typed", "knot_fed/simulations/sentiment.toml", "knot_fed/template/run.toml"} <= names
    tracked = subprocess.run(
        ["git", "ls-files", "knot_fed", "simulations"], cwd=ROOT, text=True, capture_output=True, check=False
    )
    if tracked.returncode == 0:
        expected = {name if name.startswith("knot_fed/") else f"knot_fed/{name}" for name in tracked.stdout.split()}
        assert {name for name in names if "dist-info" not in name} <= expected | untracked()


def untracked():
    """Files that are not committed yet, of a tree under work."""
    command = ["git", "ls-files", "--others", "--exclude-standard", "knot_fed", "simulations"]
    names = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout.split()
    return {name if name.startswith("knot_fed/") else f"knot_fed/{name}" for name in names}


def test_the_wheel_of_the_sdist_is_that_of_the_tree(built):
    (of_tree,), (of_sdist,) = (built / "tree").glob("*.whl"), (built / "again").glob("*.whl")
    assert contents(of_tree) == contents(of_sdist)


def test_the_sdist_has_sources_tests_and_documents_and_no_local_files(built):
    (sdist,) = (built / "tree").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py", "docs/index.md", "CITATION.cff"} <= {*names}
    private = ("runs/", "sweeps/", "data/", ".knot-fed/", "credentials/", ".env", ".venv", ".git/")
    assert not [name for name in names if name.startswith(private)]


def test_the_bundle_for_flower_holds_the_app_and_stays_small():
    content = build_fab_from_disk(ROOT)
    assert len(content) < 10 * 2**20
    names = [line.split(",")[0] for line in fab_listing(content)]
    assert {"pyproject.toml", "knot_fed/client_app.py", "knot_fed/server_app.py"} <= {*names}
    assert not [name for name in names if name.startswith(("tests/", "docs/", "runs/", "data/", "benchmarks/"))]


def fab_listing(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(".info/CONTENT").decode().splitlines()
