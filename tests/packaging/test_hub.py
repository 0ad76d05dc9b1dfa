"""The folder for Flower Hub: accepted by Flower's own rules, with the code of this package and nothing private."""

import runpy
import tomllib
import zipfile

import pytest
from flwr.cli.build import build_fab_from_files
from flwr.cli.utils import collect_files, filter_paths_for_publish
from flwr.supercore import constant

from knot_fed.config import RunConfig, flattened
from knot_fed.launch.bundle import stage_app
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def fab(tmp_path_factory):
    write = runpy.run_path(str(ROOT / ".ci" / "hub.py"))["write_hub_app"]
    return write(tmp_path_factory.mktemp("hub") / "knot-fed")


@pytest.fixture(scope="module")
def app(fab):
    return fab.with_suffix("")


def test_the_fab_has_the_package_the_licence_and_the_first_page(fab):
    with zipfile.ZipFile(fab) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    code = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "knot_fed").rglob("*.py")}
    expected = {*code, "LICENSE", "README.md", "pyproject.toml", ".info/CONTENT"}
    assert held.keys() == expected
    assert {name: held[name] for name in code} == code


def test_the_format_is_the_strict_one_and_flowers_versions_are_those_of_the_project(app):
    _, metadata = build_fab_from_files(collect_files(app))
    assert metadata.fab_format_version == 1
    assert metadata.flwr_version_min == metadata.flwr_version_target.removesuffix(".0") == "1.41"


def test_everything_in_the_folder_is_published_within_the_limits_of_the_hub(app):
    files = collect_files(app)
    assert set(filter_paths_for_publish(files)) == {name for name in files if not name.endswith(".typed")}
    sizes = [path.stat().st_size for path in files.values()]
    assert len(sizes) <= constant.MAX_FILE_COUNT
    assert max(sizes) <= constant.MAX_FILE_BYTES
    assert sum(sizes) <= constant.MAX_TOTAL_BYTES
    for path in files.values():
        path.read_text(encoding="utf-8")


def test_the_project_differs_from_this_one_in_what_the_format_asks_for(app, project):
    other = tomllib.loads((app / "pyproject.toml").read_text())
    assert other["project"].pop("license") == {"file": "LICENSE"}
    ours = {key: value for key, value in project["project"].items() if key not in ("license", "license-files")}
    assert other["project"] == ours
    theirs, ours = (table["tool"]["flwr"]["app"] for table in (other, project))
    added = {"fab-format-version": 1, "flwr-version-target": "1.41.0"}
    assert theirs == ours | added | {"fab-include": [*ours["fab-include"], "/LICENSE", "/README.md"]}
    assert flattened(theirs["config"]) == RunConfig().to_mapping()


def test_the_folder_is_an_app_that_flower_simulation_takes(app, tmp_path):
    staged = stage_app(app, tmp_path / "staged")
    assert (staged / "LICENSE").is_file()
    assert (staged / "knot_fed" / "client_app.py").is_file()
