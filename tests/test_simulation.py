import importlib
import tomllib
from pathlib import Path

import pytest

from knot_fed.errors import ConfigError
from knot_fed.submission import COMPONENTS, stage_app

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
    staged = stage_app(root, tmp_path / "staged", components=COMPONENTS["fedavg"])
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
    with pytest.raises(ConfigError, match="give --app the project's folder"):
        stage_app(tmp_path, tmp_path / "staged")


def test_the_bundle_of_this_project_holds_the_package_and_nothing_else(tmp_path):
    staged = stage_app(Path(__file__).parent.parent, tmp_path / "staged")
    files = {str(file.relative_to(staged)) for file in staged.rglob("*") if file.is_file()}
    assert "knot_fed/client_app.py" in files
    assert all(name == "pyproject.toml" or (name.startswith("knot_fed/") and name.endswith(".py")) for name in files)
