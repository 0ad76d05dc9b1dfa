"""`flower-simulation`: virtual clients on one machine, on top of the supported `flwr run`."""

import json
import re
import sys
import time
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from knot_fed.config import RunConfig, Scalar, flattened
from knot_fed.errors import ConfigError, KnotError
from knot_fed.reporting import RunFolder, summary_table
from knot_fed.simulation import run_federation

console = Console(width=None if sys.stdout.isatty() else 110)


def main() -> None:
    """Run the command."""
    typer.run(simulate)


def simulate(
    app: Annotated[Path, typer.Option(help="Folder of the app's pyproject.toml.")] = Path(),
    num_supernodes: Annotated[int, typer.Option(min=1, help="Number of virtual clients.")] = 3,
    run_config: Annotated[list[str] | None, typer.Option(help="TOML file or 'key=value ...'; may repeat.")] = None,
    backend_config: Annotated[str, typer.Option(help="JSON: client_resources and init_args.")] = "{}",
    verbose: Annotated[bool, typer.Option(help="Show Flower's own log.")] = False,
) -> None:
    """Run a federation of virtual clients, print the table, and return non-zero when the run failed."""
    try:
        config = resolve_config(app, run_config or [], num_supernodes=num_supernodes)
        resources = federation_settings(backend_config, num_supernodes=num_supernodes)
        run_federation(app.resolve(), config, resources, echo=_echo, verbose=verbose)
        folder = RunFolder.open(Path(config.runs_dir) / config.name)
        console.print(summary_table(folder.read_summary()))
        console.print(f"run folder: {Path(config.runs_dir) / config.name}", soft_wrap=True)
    except KnotError as error:
        typer.echo(f"flower-simulation: {error}", err=True)
        raise typer.Exit(1) from None


def _echo(line: str) -> None:
    console.print(line, markup=False, highlight=False)


def resolve_config(app: Path, overrides: list[str], *, num_supernodes: int) -> RunConfig:
    """Merge the app's defaults with overrides, and make relative paths absolute from the current folder.

    Raises
    ------
    ConfigError
        If a file or a pair cannot be read, or the merged configuration is not valid.
    """
    merged = flattened(_table(app / "pyproject.toml").get("tool", {}).get("flwr", {}).get("app", {}).get("config", {}))
    if not merged:
        raise ConfigError(f"{app / 'pyproject.toml'}: no [tool.flwr.app.config]; give --app the project's folder")
    for override in overrides:
        merged |= _override(override)
    RunConfig.from_mapping(merged)
    merged["wait-for"] = merged["wait-for"] or num_supernodes
    merged["name"] = merged["name"] or f"{merged['task']}-{time.strftime('%Y%m%d-%H%M%S')}"
    return RunConfig.from_mapping({key: _absolute(key, value) for key, value in merged.items()})


def federation_settings(backend_config: str, *, num_supernodes: int) -> str:
    """Translate the old `--backend-config` JSON into Flower's federation settings.

    Raises
    ------
    ConfigError
        If the text is not a JSON object, or holds a setting that nothing reads.
    """
    try:
        parsed = json.loads(backend_config)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"--backend-config is not JSON ({error.msg} at {error.pos}); quote it in single quotes"
        ) from None
    if not isinstance(parsed, dict) or not all(isinstance(value, dict) for value in parsed.values()):
        raise ConfigError(
            '--backend-config is not an object of objects; write \'{"client_resources": {"num_cpus": 1}}\''
        )
    parsed.setdefault("client_resources", {}).setdefault("num_cpus", 1)
    settings = {"num-supernodes": num_supernodes}
    for section, values in parsed.items():
        if section not in ("client_resources", "init_args"):
            raise ConfigError(f"--backend-config: unknown key {section!r}; known: client_resources, init_args")
        settings |= {f"{section}-{key}".replace("_", "-"): value for key, value in values.items()}
    return " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


def _override(text: str) -> dict[str, Scalar]:
    path = Path(text)
    if path.suffix == ".toml":
        return flattened(_table(path))
    try:
        return flattened(tomllib.loads(_pairs_as_lines(text)))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"--run-config {text!r} is neither a TOML file nor pairs ({error}); write 'seed=2 task=\"nli\"'"
        ) from None


def _pairs_as_lines(text: str) -> str:
    return re.sub(r"\s+(?=[\w.-]+\s*=)", "\n", text.strip())


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(f"{path}: no such file; give a TOML file, or pairs like 'seed=2'") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error}); mend the file") from None


def _absolute(key: str, value: Scalar) -> Scalar:
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
