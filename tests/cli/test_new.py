"""`knot-fed new` writes a project whose files and own loss work as they are."""

import pytest
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.config.overrides import resolve_config
from knot_fed.config.plugins import PLUGIN_FOLDER
from knot_fed.preflight import check_run

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path, monkeypatch):
    result = CliRunner().invoke(app, ["new", str(tmp_path / "mine")])
    assert result.exit_code == 0, result.output
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setenv(PLUGIN_FOLDER, str(tmp_path / "mine"))
    return tmp_path / "mine"


@pytest.mark.parametrize("overrides", [[], ["distill.loss=own_loss:cumulative"]])
def test_the_project_is_ready_to_run_with_its_own_loss_too(project, overrides):
    config = resolve_config(None, ["run.toml", *overrides], num_supernodes=0)
    assert config.data.root == str(project / "data")
    check_run(config, clients=3)


def test_the_readme_names_files_that_are_there(project):
    written = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    owners = {f"data/{name}.csv" for name in ("product", "tweets", "nyt", "movies", "movie-texts")}
    assert written == {"README.md", "run.toml", "own_loss.py", "data/SOURCE.txt"} | owners
    readme = (project / "README.md").read_text()
    assert all(name in readme for name in ("run.toml", "own_loss.py", "movie-texts.csv", "SOURCE.txt"))


def test_a_folder_with_files_is_left_as_it_is(tmp_path):
    (tmp_path / "run.toml").write_text("mine")
    result = CliRunner().invoke(app, ["new", str(tmp_path)])
    assert result.exit_code == 1
    assert "not an empty folder" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]
    assert (tmp_path / "run.toml").read_text() == "mine"
