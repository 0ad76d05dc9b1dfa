"""A run's configuration from the command line: defaults, TOML files and `key=value` pairs; later ones win."""

import json
import os
import re
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from knot_fed.config.fields import MOST_CLIENTS
from knot_fed.config.language import PROMPT
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
    """Merge the defaults with overrides, and resolve relative paths from the current folder.

    Parameters
    ----------
    app
        Folder of another app whose `pyproject.toml` has its defaults; None: the installed app.
    overrides
        TOML files and `key=value` pairs; later ones win.
    num_supernodes
        Virtual clients, which is also the default of `wait-for`; 0: one per private file.

    Raises
    ------
    ConfigError
        If a file or a pair cannot be read, or the merged configuration is invalid.
    """
    if num_supernodes > MOST_CLIENTS:
        raise ConfigError(f"--num-supernodes {num_supernodes}: too many virtual clients; use {MOST_CLIENTS} at most")
    return for_virtual_clients(deployed_config(app, overrides), num_supernodes)


def for_virtual_clients(config: RunConfig, count: int) -> RunConfig:
    """Set the name and `wait-for` of a run on virtual clients unless given, and resolve relative paths.

    A count of 0 means one client per private file.
    """
    given = config.to_mapping()
    given["name"] = _run_name(given)
    given["wait-for"] = config.wait_for or count or len(config.data.client_names)
    return RunConfig.from_mapping({key: absolute(key, value) for key, value in given.items()})


def deployed_config(app: Path | None, overrides: list[str]) -> RunConfig:
    """Merge as `resolve_config`, but leave paths and `wait-for` as they are: they belong to other machines."""
    merged = defaults_of(RunConfig) | (_app_defaults(app) if app else {})
    for override in overrides:
        merged |= read_override(override)
    return RunConfig.from_mapping(merged | {"name": _run_name(merged)})


def second_config(
    first: Mapping[str, Any], overrides: Sequence[str | Mapping[str, Scalar]], *, source: Path
) -> RunConfig:
    """Merge a run's configuration (TOML tables) with overrides, for another run that uses its answers.

    Overrides are TOML files, `key=value` pairs or flat mappings; later ones win.

    The second run is named after the first and the time, is written beside it, and keeps no answers of its own, unless
    the overrides say otherwise. Raises ConfigError as `resolve_config`.
    """
    name = f"{source.resolve().name[:70]}-{time.strftime('%Y%m%d-%H%M%S')}"
    merged = flattened(first) | {
        "name": name,
        "runs-dir": str(source.resolve().parent),
        "resume": "",
        "keep-answers": False,
    }
    for override in overrides:
        merged |= read_override(override) if isinstance(override, str) else override
    return RunConfig.from_mapping({key: absolute(key, value) for key, value in merged.items()})


def resuming(overrides: list[str], run: str) -> list[str]:
    """Append the name of an interrupted run, given by name or by its folder such as `runs/monday`; empty: none.

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


def _run_name(given: dict[str, Scalar]) -> Scalar:
    return given["resume"] or given["name"] or f"{given['task']}-{time.strftime('%Y%m%d-%H%M%S')}"


def _app_defaults(app: Path) -> dict[str, Scalar]:
    file = app / "pyproject.toml"
    found = _table(file).get("tool", {}).get("flwr", {}).get("app", {}).get("config", {}) if file.is_file() else {}
    if not found:
        raise ConfigError(f"{file}: no [tool.flwr.app.config]; omit --app, or give the app's folder")
    return flattened(found)


def read_override(text: str, *, option: str = "--run-config", schema: type[BaseModel] = RunConfig) -> dict[str, Scalar]:
    """Read a TOML file, or pairs like `seed=2 task=nli`, as a flat mapping.

    Parameters
    ----------
    text
        Path of a file, or the pairs. A missing file `simulations/NAME.toml` is replaced by the installed one.
    option
        Command-line option, for the error.
    schema
        Configuration that the keys belong to: values of string keys need no quotes.

    Raises
    ------
    ConfigError
        If the text is neither a TOML file nor pairs.
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
    """Split `key=value key=value` at spaces outside quotes; raises ConfigError if a part is not a pair."""
    if PAIR.sub("", text).strip():
        raise ConfigError(f"{option} {shown(text)}: {FORMS.get(option, PAIRS_OR_FILE)}")
    return PAIR.findall(text)


def parse_value(text: str, like: Scalar, *, where: str) -> Scalar:
    """Read a value as TOML, as Flower does; a string may be written without quotes if `like` is a string.

    Raises
    ------
    ConfigError
        If it is not a value; the message begins with `where`.

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
    """Replace a missing `simulations/NAME.toml` by the installed file of that name."""
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
        raise ConfigError(f"{path}: not TOML ({error}); correct the file") from None


def absolute(key: str, value: Scalar) -> Scalar:
    """Resolve the value of a path key from the current folder; return any other value unchanged."""
    if not isinstance(value, str) or not value:
        return value
    if key in ("model", "student.model", "teacher.models", "transport.encoder"):
        return ",".join(_absolute_model(name.strip()) for name in value.split(","))
    is_folder = key in ("runs-dir", "state-dir") or (key == "data.root" and value not in ("builtin", "hub"))
    if is_folder or (key in ("transport.cost", "labels.geometry") and Path(value).is_file()):
        return _absolute_path(value)
    return value


def _absolute_path(path: str) -> str:
    """Resolve symbolic links; circular ones stay, so that opening the file reports them."""
    return os.path.realpath(os.path.expanduser(path))  # noqa: PTH111  (Path's raises on an unknown user)


def _absolute_model(name: str) -> str:
    kind = next((prefix for prefix in ("hf:", PROMPT) if name.startswith(prefix)), "")
    folder = _absolute_path(name.removeprefix(kind))
    return f"{kind}{folder}" if kind and Path(folder).is_dir() else name
