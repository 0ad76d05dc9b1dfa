"""The app as submitted to Flower: a folder with a `pyproject.toml` and the code, nothing else."""

import re
import shutil
import tomllib
from collections.abc import Iterable
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import tomli_w

from knot_fed.config import RunConfig, nested
from knot_fed.errors import ConfigError

PACKAGE = Path(__file__).parent.parent
COMPONENTS = {
    "knot": {"serverapp": "knot_fed.server_app:app", "clientapp": "knot_fed.client_app:app"},
    "fedavg": {"serverapp": "knot_fed.fedavg_app:server_app", "clientapp": "knot_fed.fedavg_app:client_app"},
}


def stage_app(app: Path | None, folder: Path, *, strategy: str = "knot") -> Path:
    """Copy an app's configuration and code, and return the copy.

    Flower walks an app's whole folder before it reads `fab-include`, and fails on a deeply nested virtual environment
    or data folder; the copy has neither.

    Parameters
    ----------
    app
        The app's folder; None: the installed app.
    folder
        Destination of the copy.
    strategy
        `knot`: the app's own components; `fedavg`: the baseline's.

    Raises
    ------
    ConfigError
        If the folder has no `pyproject.toml` with a `fab-include`.
    """
    project, root, files = _installed() if app is None else _own(app)
    if strategy != "knot":
        project["tool"]["flwr"]["app"]["components"] = COMPONENTS[strategy]
    for file in files:
        copy = folder / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    (folder / "pyproject.toml").write_text(tomli_w.dumps(project), encoding="utf-8")
    return folder


def runs_own_components(app: Path) -> bool:
    """Return whether an app's components are knot_fed's own; raises ConfigError as `stage_app`."""
    components: dict[str, str] = _own(app)[0]["tool"]["flwr"]["app"].get("components", {})
    return components == COMPONENTS["knot"]


def _installed() -> tuple[dict[str, Any], Path, Iterable[Path]]:
    """Describe the installed package as an app, with the schema's defaults and the package's dependencies."""
    needed = [re.sub(r"\s*;.*", "", line) for line in requires("knot-fed") or [] if "extra ==" not in line]
    project = {
        "project": {
            "name": "knot-fed",
            "version": version("knot-fed"),
            "description": "Federated distillation with optimal transport.",
            "license": "Apache-2.0",
            "dependencies": needed,
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "knot-fed",
                    "fab-include": ["/knot_fed/**/*.py"],
                    "components": COMPONENTS["knot"],
                    "config": nested(RunConfig().to_mapping()),
                }
            }
        },
    }
    return project, PACKAGE.parent, sorted(PACKAGE.rglob("*.py"))


def _own(app: Path) -> tuple[dict[str, Any], Path, Iterable[Path]]:
    try:
        project = tomllib.loads((app / "pyproject.toml").read_text(encoding="utf-8"))
        patterns = [str(pattern).lstrip("/") for pattern in project["tool"]["flwr"]["app"]["fab-include"]]
    except (OSError, KeyError, ValueError):
        raise ConfigError(f"{app / 'pyproject.toml'}: no fab-include; omit --app, or give the app's folder") from None
    if any(".." in Path(pattern).parts for pattern in patterns):
        raise ConfigError(f"{app / 'pyproject.toml'}: fab-include leads out of the app's folder; name files below it")
    return project, app, [path for pattern in patterns for path in sorted(app.glob(pattern))]
