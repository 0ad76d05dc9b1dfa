"""Version, Python versions and make targets agree wherever they are written."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from typer.testing import CliRunner

from knot_fed.cli import simulate
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYTHONS = ["3.11", "3.12", "3.13"]


def loaded(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def test_the_version_is_the_same_everywhere_and_has_an_entry_in_the_changelog():
    citation = loaded(ROOT / "CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {PROJECT['version']} - {citation['date-released']}\n" in changelog
    assert changelog.index("## Unreleased") < changelog.index(f"## {PROJECT['version']}")


def test_both_commands_tell_the_version():
    said = CliRunner().invoke(simulate.command(), ["--version"])
    assert said.exit_code == 0
    assert said.output == f"knot-fed {PROJECT['version']}\n"


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "knot_fed", "--version"]
    said = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert said == f"knot-fed {PROJECT['version']}\n"


def test_python_versions_are_those_that_are_tested():
    named = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)]
    matrix = loaded(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["check"]["strategy"]["matrix"]["python"]
    assert named == matrix == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert all(version in (ROOT / ".ci" / "resolve").read_text() for version in PYTHONS)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_asks_for_little_ends_in_time_and_calls_targets_that_exist(file):
    flow = loaded(file)
    assert flow["permissions"] == {"contents": "read"}
    assert "concurrency" in flow
    assert all(job["timeout-minutes"] <= 90 for job in flow["jobs"].values())
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"run: make ([\w-]+)", file.read_text(encoding="utf-8")))
    assert called <= targets
    for job in flow["jobs"].values():
        for step in job["steps"]:
            assert "checkout" not in step.get("uses", "") or step["with"]["persist-credentials"] is False


def test_a_release_is_published_without_a_stored_password():
    jobs = loaded(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert jobs["pypi"]["permissions"] == {"id-token": "write"}
    assert "password" not in str(jobs["pypi"])
    assert jobs["pypi"]["environment"]["name"] == "pypi"
