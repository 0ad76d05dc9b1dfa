import importlib
import tomllib
from pathlib import Path

import pytest

from knot_fed.bundle import stage_app
from knot_fed.errors import ConfigError

APP = '[tool.flwr.app]\nfab-include = ["/package/**/*.py"]\n'


def test_only_the_declared_files_are_staged_however_deep_a_stranger_lies(tmp_path):
    app = tmp_path / "app"
    for name in ("package/room/code.py", "package/notes.txt", "env/a/b/c/d/e/f/g/h/i/j/k/deep.py", "private.csv"):
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).touch()
    (app / "pyproject.toml").write_text(APP)
    staged = stage_app(app, tmp_path / "staged")
    files = {str(file.relative_to(staged)) for file in staged.rglob("*") if file.is_file()}
    assert files == {"pyproject.toml", "package/room/code.py"}


def test_the_reference_line_is_staged_with_its_own_components_and_nothing_else_changed(tmp_path):
    root = Path(__file__).parent.parent
    staged = stage_app(root, tmp_path / "staged", strategy="fedavg")
    theirs, ours = (tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (staged, root))
    for component, place in theirs["tool"]["flwr"]["app"]["components"].items():
        module, _, name = place.partition(":")
        assert component in ours["tool"]["flwr"]["app"]["components"]
        assert hasattr(importlib.import_module(module), name)
    ours["tool"]["flwr"]["app"]["components"] = theirs["tool"]["flwr"]["app"]["components"]
    assert theirs == ours


@pytest.mark.parametrize("content", [None, "", "not toml", "[tool.flwr.app]\n"])
def test_a_folder_that_is_no_app_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "pyproject.toml").write_text(content)
    with pytest.raises(ConfigError, match="leave --app out"):
        stage_app(tmp_path, tmp_path / "staged")


@pytest.mark.parametrize("app", [Path(__file__).parent.parent, None], ids=["this project", "installed"])
def test_the_bundle_of_this_project_holds_the_package_and_nothing_else(tmp_path, app):
    staged = stage_app(app, tmp_path / "staged")
    files = {str(file.relative_to(staged)) for file in staged.rglob("*") if file.is_file()}
    assert "knot_fed/client_app.py" in files
    assert all(name == "pyproject.toml" or (name.startswith("knot_fed/") and name.endswith(".py")) for name in files)


def test_the_installed_app_is_the_one_of_this_project(tmp_path):
    """Nobody needs a clone: code, components and defaults are in the package."""
    root, folders = Path(__file__).parent.parent, [tmp_path / "installed", tmp_path / "project"]
    for app, folder in zip((None, root), folders, strict=True):
        stage_app(app, folder)
    installed, project = (
        {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.py")} for folder in folders
    )
    assert installed == project
    ours, theirs = (tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"] for folder in folders)
    assert ours == theirs
