"""A run's configuration as commands take it: the defaults, TOML files and `key=value` pairs; the last one wins."""

import json
import re
import time
import tomllib
from pathlib import Path
from typing import Any

from knot_fed.config import MOST_CLIENTS, RunConfig, Scalar, flattened
from knot_fed.errors import ConfigError, shown


def resolve_config(app: Path, overrides: list[str], *, num_supernodes: int) -> RunConfig:
    """Merge the app's defaults with overrides, and make relative paths absolute from the current folder.

    Parameters
    ----------
    app
        Folder of the app's `pyproject.toml`, which holds the defaults.
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
    merged = _merged(app, overrides)
    clients = num_supernodes or len(RunConfig.from_mapping(merged).data.client_names)
    merged["wait-for"] = merged["wait-for"] or clients
    return RunConfig.from_mapping({key: absolute(key, value) for key, value in merged.items()})


def deployed_config(app: Path, overrides: list[str]) -> RunConfig:
    """Merge as `resolve_config`, but leave paths and `wait-for` as written: they are those of other machines.

    Raises
    ------
    ConfigError
        As `resolve_config`.
    """
    return RunConfig.from_mapping(_merged(app, overrides))


def resuming(overrides: list[str] | None, run: str) -> list[str]:
    """Add the name of a run cut short, if there is one, to what was given as `--run-config`.

    Examples
    --------
    >>> resuming(["seed=2"], "monday")
    ['seed=2', 'resume="monday"']
    """
    return [*(overrides or []), *([f"resume={json.dumps(run)}"] if run else [])]


def _merged(app: Path, overrides: list[str]) -> dict[str, Scalar]:
    merged = flattened(_table(app / "pyproject.toml").get("tool", {}).get("flwr", {}).get("app", {}).get("config", {}))
    if not merged:
        raise ConfigError(f"{app / 'pyproject.toml'}: no [tool.flwr.app.config]; give --app the project's folder")
    for override in overrides:
        merged |= read_override(override)
    merged["name"] = merged["resume"] or merged["name"] or f"{merged['task']}-{time.strftime('%Y%m%d-%H%M%S')}"
    return merged


def read_override(text: str, *, option: str = "--run-config") -> dict[str, Scalar]:
    """Read a TOML file, or pairs like `seed=2 task="nli"`, as a flat mapping.

    Parameters
    ----------
    text
        The file's path, or the pairs.
    option
        Where it was given, for the error.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    path = Path(text)
    if path.suffix == ".toml":
        return flattened(_table(path))
    try:
        return flattened(tomllib.loads(_pairs_as_lines(text)))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{option} {shown(text)} is neither a TOML file nor pairs ({error}); write 'name=\"mine\" seed=2'"
        ) from None


def _pairs_as_lines(text: str) -> str:
    return re.sub(r"\s+(?=[\w.-]+\s*=)", "\n", text.strip())


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(f"{path}: no such file; give a TOML file, or pairs like 'seed=2'") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML ({error}); mend the file") from None


def absolute(key: str, value: Scalar) -> Scalar:
    """Return the value of a key, a relative path counted from the current folder; any other value as it is."""
    if not isinstance(value, str) or not value:
        return value
    if key in ("runs-dir", "state-dir") or (key == "data.root" and value not in ("builtin", "hub")):
        return str(Path(value).resolve())
    if key in ("model", "student.model", "teacher.models"):
        return ",".join(_absolute_model(name.strip()) for name in value.split(","))
    if key == "transport.cost" and Path(value).is_file():
        return str(Path(value).resolve())
    return value


def _absolute_model(name: str) -> str:
    folder = Path(name.removeprefix("hf:"))
    return f"hf:{folder.resolve()}" if name.startswith("hf:") and folder.is_dir() else name
