import importlib
import json
import os
import tomllib
from pathlib import Path

import pytest

from knot_fed.errors import ConfigError
from knot_fed.launch.bundle import stage_app
from knot_fed.launch.simulation import SOCKET, _ray_folder, federation_settings
from knot_fed.launch.submission import Connection, flower_home

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
    root = Path(__file__).parents[2]
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
    with pytest.raises(ConfigError, match="omit --app"):
        stage_app(tmp_path, tmp_path / "staged")


@pytest.mark.parametrize("app", [Path(__file__).parents[2], None], ids=["this project", "installed"])
def test_the_bundle_of_this_project_holds_the_package_and_nothing_else(tmp_path, app):
    staged = stage_app(app, tmp_path / "staged")
    files = {str(file.relative_to(staged)) for file in staged.rglob("*") if file.is_file()}
    assert "knot_fed/client_app.py" in files
    assert all(name == "pyproject.toml" or (name.startswith("knot_fed/") and name.endswith(".py")) for name in files)


def test_the_installed_app_is_the_one_of_this_project(tmp_path):
    """Nobody needs a clone: code, components and defaults are in the package."""
    root, folders = Path(__file__).parents[2], [tmp_path / "installed", tmp_path / "project"]
    for app, folder in zip((None, root), folders, strict=True):
        stage_app(app, folder)
    installed, project = (
        {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.py")} for folder in folders
    )
    assert installed == project
    ours, theirs = (tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"] for folder in folders)
    assert ours == theirs


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("client_resources", "num_gpus", 0.5, r"num_gpus = 0\.5, but this machine has 0 GPU\(s\); leave it out"),
        ("client_resources", "num_gpus", 1.5, "neither a share of one GPU nor a whole number"),
        ("client_resources", "num_cpus", 9999, r"num_cpus = 9999, but this machine has \d+ CPU"),
        ("client_resources", "num_cpus", 0, r"num_cpus = 0 is out of range"),
        ("client_resources", "num_cpus", 0.5, r"num_cpus = 0\.5 is not a whole number"),
        ("client_resources", "num_cpus", True, "num_cpus = True is not a whole number"),
        ("client_resources", "num_gpus", "1", "num_gpus = '1' is not a number"),
        ("client_resources", "num_gpus", float("nan"), "num_gpus = nan is out of range"),
        ("client_resources", "memory", 1, "unknown key 'memory' in client_resources; known: num_cpus, num_gpus"),
        ("init_args", "num_gpus", 1, "init_args.num_gpus = 1, but this machine has 0"),
        ("init_args", "logging_level", 3, "logging_level = 3 is not a string"),
        ("init_args", "log_to_driver", 1, "log_to_driver = 1 is not true or false"),
        ("actor", "tensorflow", 1, "unknown key 'actor'; known: client_resources, init_args"),
    ],
)
def test_resources_that_no_client_could_have_are_refused_before_anything_starts(
    monkeypatch, section, key, value, message
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match=message):
        federation_settings(json.dumps({section: {key: value}}), num_supernodes=3)


def test_resources_that_there_are_or_that_a_cluster_may_have_are_passed_on(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    asked = {"client_resources": {"num_cpus": 4}, "init_args": {"num_cpus": 4, "log_to_driver": False}}
    told = federation_settings(json.dumps(asked), num_supernodes=3)
    assert told == "num-supernodes=3 client-resources-num-cpus=4 init-args-num-cpus=4 init-args-log-to-driver=false"
    large = json.dumps({"client_resources": {"num_cpus": 512, "num_gpus": 8}})
    federation_settings(large, num_supernodes=3, ray_address="10.0.0.1:6379")


@pytest.mark.parametrize("depth", [0, 43, 44, 60, 200])
def test_ray_keeps_its_sockets_in_the_users_folder_as_long_as_their_names_are_short_enough(tmp_path, depth):
    folder = tmp_path / ("x" * depth)
    folder.mkdir(exist_ok=True)
    chosen = _ray_folder({"TMPDIR": str(folder)})
    assert len(f"{chosen}/{SOCKET}") <= 107
    assert chosen == (str(folder) if len(f"{folder}/{SOCKET}") <= 107 else "/tmp")


def test_ray_without_a_folder_for_its_sockets_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr("knot_fed.system.machine._writable", lambda folder: False)
    with pytest.raises(ConfigError, match="set RAY_TMPDIR to a short folder"):
        _ray_folder({"TMPDIR": "/tmp"})


@pytest.mark.parametrize("before", [{}, {"no_proxy": "example.org"}, {"NO_PROXY": "example.org,127.0.0.1"}])
def test_no_proxy_stands_between_the_processes_of_this_machine(tmp_path, monkeypatch, before):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    environment = flower_home(tmp_path, Connection("127.0.0.1:9093", insecure=True))
    for name in ("no_proxy", "NO_PROXY"):
        hosts = environment[name].split(",")
        assert {"127.0.0.1", "localhost", "::1", *"".join(before.values()).split(",")} - {""} <= set(hosts)
    assert environment["http_proxy"] == os.environ["http_proxy"]
