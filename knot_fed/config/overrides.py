"""A run's configuration as commands take it: the defaults, TOML files and `key=value` pairs; the last one wins."""

import json
import os
import re
import time
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from knot_fed.config.fields import MOST_CLIENTS
from knot_fed.config.parsing import Scalar, defaults_of, flattened
from knot_fed.config.run import RunConfig
from knot_fed.errors import ConfigError, shown

QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'[^']*'"
PAIR = re.compile(rf"(?<!\S)([\w.-]++)\s*+=\s*+((?:{QUOTED}|[^\s\"'])++)(?!\S)")
VALUE = re.compile(rf"(?:{QUOTED}|[^,\"'])+")
PAIRS_OR_FILE = "is neither a TOML file nor pairs; write 'name=mine seed=2', and quotes around a value with spaces"
FORMS = {
    "--grid": "is not pairs; write 'key=value,value key=value', and quotes around a value with spaces",
    "--node-config": "is not pairs; write 'name=mine data=/file.csv', and quotes around a value with spaces",
}
PACKAGE = Path(__file__).parent.parent


def resolve_config(app: Path | None, overrides: list[str], *, num_supernodes: int) -> RunConfig:
    """Merge the defaults with overrides, and make relative paths absolute from the current folder.

    Parameters
    ----------
    app
        Folder of another app than the installed one, whose `pyproject.toml` has its defaults; None: the installed one.
    overrides
        TOML files and `key=value` pairs; the last one wins.
    num_supernodes
        Virtual clients, all of which the run waits for unless `wait-for` says otherwise; 0: one for each private file.

    Raises
    ------
    ConfigError
        If a file or a pair cannot be read, or the merged configuration is not valid.
    """
    if num_supernodes > MOST_CLIENTS:
        raise ConfigError(f"--num-supernodes {num_supernodes}: too many virtual clients; use {MOST_CLIENTS} at most")
    return for_virtual_clients(RunConfig.from_mapping(_merged(app, overrides)), num_supernodes)


def for_virtual_clients(config: RunConfig, count: int) -> RunConfig:
    """Name a run of virtual clients, have it wait for all of them, and make relative paths absolute.

    Parameters
    ----------
    config
        The run's configuration; a name and a `wait-for` that it has stay.
    count
        Virtual clients; 0: one for each private file.
    """
    given = config.to_mapping()
    given["name"] = config.resume or config.name or f"{config.task}-{time.strftime('%Y%m%d-%H%M%S')}"
    given["wait-for"] = config.wait_for or count or len(config.data.client_names)
    return RunConfig.from_mapping({key: absolute(key, value) for key, value in given.items()})


def deployed_config(app: Path | None, overrides: list[str]) -> RunConfig:
    """Merge as `resolve_config`, but leave paths and `wait-for` as written: they are those of other machines.

    Raises
    ------
    ConfigError
        As `resolve_config`.
    """
    return RunConfig.from_mapping(_merged(app, overrides))


def resuming(overrides: list[str], run: str) -> list[str]:
    """Add the name of an interrupted run, if there is one, to what was given as configuration.

    The run may be given by its folder too, such as `runs/monday`; the folder above it is then where runs are.

    Examples
    --------
    >>> resuming(["seed=2"], "monday")
    ['seed=2', 'resume="monday"']
    """
    if not run:
        return overrides
    folder = Path(run) if Path(run).name not in ("", "..") else Path(run).resolve()
    pairs = [f"resume={json.dumps(folder.name)}"]
    if folder.parent != Path():
        pairs.append(f"runs-dir={json.dumps(str(folder.parent))}")
    return [*overrides, *pairs]


def _merged(app: Path | None, overrides: list[str]) -> dict[str, Scalar]:
    merged = defaults_of(RunConfig) | (_app_defaults(app) if app else {})
    for override in overrides:
        merged |= read_override(override)
    merged["name"] = merged["resume"] or merged["name"] or f"{merged['task']}-{time.strftime('%Y%m%d-%H%M%S')}"
    return merged


def _app_defaults(app: Path) -> dict[str, Scalar]:
    file = app / "pyproject.toml"
    found = _table(file).get("tool", {}).get("flwr", {}).get("app", {}).get("config", {}) if file.is_file() else {}
    if not found:
        raise ConfigError(f"{file}: no [tool.flwr.app.config]; leave --app out, or give it the app's folder")
    return flattened(found)


def read_override(text: str, *, option: str = "--run-config", schema: type[BaseModel] = RunConfig) -> dict[str, Scalar]:
    """Read a TOML file, or pairs like `seed=2 task=nli`, as a flat mapping.

    Parameters
    ----------
    text
        The file's path (a file `simulations/NAME.toml` that is not there is taken from those installed), or the pairs.
    option
        Where it was given, for the error.
    schema
        Whose keys they are: the value of a key that holds a string needs no quotes.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    path = Path(text[:4096])
    if path.suffix == ".toml" and "=" not in text:
        return flattened(_table(_installed_simulation(path)))
    kinds = defaults_of(schema)
    return {
        key: parse_value(value, kinds.get(key, ""), where=f"{option} {shown(key)}")
        for key, value in read_pairs(text, option=option)
    }


def read_pairs(text: str, *, option: str) -> list[tuple[str, str]]:
    """Cut `key=value key=value` at the spaces outside of quotes.

    Raises
    ------
    ConfigError
        If something is no pair.
    """
    if PAIR.sub("", text).strip():
        raise ConfigError(f"{option} {shown(text)}: {FORMS.get(option, PAIRS_OR_FILE)}")
    return PAIR.findall(text)


def parse_value(text: str, like: Scalar, *, where: str) -> Scalar:
    """Read the value of a pair as TOML; where the key holds a string, quotes may be left out.

    Parameters
    ----------
    text
        What stands behind `=`.
    like
        A value of the kind that the key has.
    where
        What the message begins with.

    Raises
    ------
    ConfigError
        If it is not a value.

    Examples
    --------
    >>> parse_value("0.5", 1.0, where=""), parse_value("nli", "", where=""), parse_value('"nli"', "", where="")
    (0.5, 'nli', 'nli')
    """
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError) as error:
        if isinstance(like, str) and not set(text) & set("\"'\n"):
            return text
        raise ConfigError(f"{where} = {shown(text)} is not a value ({error}); write it as in TOML") from None
    if isinstance(like, str) and not isinstance(value, str | list | dict):
        return text
    if not isinstance(value, bool | int | float | str):
        raise ConfigError(f"{where} is a {type(value).__name__}; use a string or a number, and commas within a string")
    return float(value) if isinstance(like, float) and type(value) is int and abs(value) < 10**300 else value


def _installed_simulation(path: Path) -> Path:
    """Return the installed file of the same name where `simulations/NAME.toml` is not in the current folder."""
    if path.parts[:1] == ("simulations",) and not path.exists():
        for folder in (PACKAGE, PACKAGE.parent):
            if (folder / path).is_file():
                return folder / path
    return path


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give a TOML file, or pairs like 'seed=2'") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({(error.strerror or '').lower()}); give a TOML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML ({error}); mend the file") from None


def absolute(key: str, value: Scalar) -> Scalar:
    """Return the value of a key, a relative path counted from the current folder; any other value as it is."""
    if not isinstance(value, str) or not value:
        return value
    if key in ("runs-dir", "state-dir") or (key == "data.root" and value not in ("builtin", "hub")):
        return _absolute_path(value)
    if key in ("model", "student.model", "teacher.models"):
        return ",".join(_absolute_model(name.strip()) for name in value.split(","))
    if key == "transport.cost" and Path(value).is_file():
        return _absolute_path(value)
    return value


def _absolute_path(path: str) -> str:
    """Follow symbolic links as far as they lead; those in a circle stay, for whoever opens the file to tell."""
    return os.path.realpath(os.path.expanduser(path))  # noqa: PTH111  (Path's raises on an unknown user)


def _absolute_model(name: str) -> str:
    folder = _absolute_path(name.removeprefix("hf:"))
    return f"hf:{folder}" if name.startswith("hf:") and Path(folder).is_dir() else name
