"""Descriptions of sweeps and audits: everything that shapes a result, to compare only what belongs together."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from knot_fed.config import PrivacyConfig, RunConfig, Scalar, kebab, readers_of
from knot_fed.errors import ConfigError, RunFolderError
from knot_fed.files import shorten_paths
from knot_fed.preflight.unread import READERS
from knot_fed.runs.sweep_tables import METHOD
from knot_fed.sweep.content import CONTENT, SEVERAL
from knot_fed.sweep.folder import METHODS, NOT_OF_A_RUN

Shape = dict[str, str]
"""Everything that shapes a result, by configuration key and `content of NAME`, without settings that are not read."""
GUARANTEE = ("mechanism", "epsilon", "delta")
OF_MECHANISM = frozenset(
    f"privacy.{kebab(name)}" for name in PrivacyConfig.model_fields if name in GUARANTEE or readers_of(name)
)
PATHS = ("model", "student.model", "teacher.models", "transport.cost", "transport.encoder", "labels.geometry")
NOT_OF_A_STUDY = NOT_OF_A_RUN | {"seed"}
MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class StudyDescription:
    """Content of `sweep.toml` or `audit.toml`."""

    folder: Path
    config: Mapping[str, Scalar]  # lacks keys that an earlier version did not have
    grid: Mapping[str, Sequence[Scalar]]
    methods: Mapping[str, Mapping[str, Scalar]]  # settings of each method of a sweep over methods
    clients: int
    content: Mapping[str, str] | None  # digests of the data files; None if they were not recorded
    attacked: Mapping[str, Scalar]  # client and effort of an audit

    @property
    def place(self) -> tuple[str, ...]:
        """Paths and names of the data files."""
        values = RunConfig().to_mapping() | dict(self.config)
        return tuple(str(values[f"data.{key}"]) for key in ("root", "clients", "public", "transfer"))

    def shape(self, values: Mapping[str, Scalar]) -> Shape:
        """Return what shapes the result of one run, given its values of the grid, and its method if it has one.

        A method is what it sets; the name tells methods apart only where a sweep of an earlier version lacks that.

        Raises RunFolderError if the configuration is not of this version.
        """
        defaults = RunConfig().to_mapping()
        named = str(values.get(METHOD, ""))
        chosen = {key: value for key, value in values.items() if key != METHOD or named not in self.methods}
        given = {**defaults, **self.config, **self.methods.get(named, {}), **chosen}
        try:
            run = RunConfig.from_mapping({key: value for key, value in given.items() if key in defaults})
        except ConfigError as error:
            raise RunFolderError(f"{self.folder}: cannot be read by this version ({error}); run it again") from None
        unread = {key for key, (reads, _) in READERS.items() if not reads(run)} | NOT_OF_A_STUDY
        shape = {key: str(value) for key, value in given.items() if key not in unread and not _of_fedavg(key)}
        shape["clients"] = str(self.clients)
        return shape if self.content is None else _by_content(shape, run, self.content)


def read_description(file: Path) -> StudyDescription:
    """Read `sweep.toml` or `audit.toml`; raises RunFolderError if it is missing or invalid."""
    try:
        found: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        config = found["config"]
    except (OSError, ValueError, KeyError):
        raise RunFolderError(f"{file.parent}: neither a sweep nor an audit; give folders that they printed") from None
    attacked = {f"effort.{key}": value for key, value in found.get("effort", {}).items()}
    attacked |= {"client": found["client"]} if "client" in found else {}
    names = str(config.get("data.clients", RunConfig().data.clients)).split(",")
    clients = int(found.get("clients", len(names)))
    return StudyDescription(
        file.parent, config, found.get("grid", {}), found.get(METHODS, {}), clients, found.get(CONTENT), attacked
    )


def settle_unknown(described: Sequence[StudyDescription]) -> tuple[list[StudyDescription], list[str]]:
    """Replace unknown contents by those of the same paths in another folder if these agree; return notes too."""
    defaults, settled, notes = RunConfig().to_mapping(), [], []
    for study in described:
        known = [other.content for other in described if other.content is not None and other.place == study.place]
        if study.content is None:
            same = bool(known) and all(content == known[0] for content in known)
            taken = "assumed equal to the same paths in another folder" if same else "its paths are compared"
            notes.append(f"{study.folder}: content of the data files unknown; {taken}")
            study = replace(study, content=known[0] if same else None)
        elif not all(study.content.values()):
            notes.append(f"{study.folder}: content of data sets of the hub unknown; their names are compared")
        settled.append(study)
        missing = sorted(key for key in set(defaults) - set(study.config) - NOT_OF_A_STUDY if not _of_fedavg(key))
        if missing:
            notes.append(f"{study.folder}: lacks {_listed(missing)}; taken as the defaults")
    return settled, notes


def differences(ours: Mapping[str, Scalar], theirs: Mapping[str, Scalar]) -> list[str]:
    """Return the keys that differ, including those of only one shape."""
    return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


def describe_differences(ours: Shape, theirs: Shape) -> str:
    """List the keys that differ, with both values."""
    keys = differences(ours, theirs)
    return _listed([f"{key} ({value_in_words(ours, key)}, not {value_in_words(theirs, key)})" for key in keys])


def value_in_words(shape: Shape, key: str) -> str:
    """Return a value for a note, with paths and digests shortened."""
    if key not in shape:
        return "not read"
    value = shorten_paths(shape[key]) or "none"
    return value[:8] if "content" in key and value != "none" else value


def _of_fedavg(key: str) -> bool:
    return key.startswith("fedavg.")


def _by_content(shape: Shape, run: RunConfig, content: Mapping[str, str]) -> Shape:
    """Replace paths by digests of what a run reads, unless one name stands for several files."""
    files = {*run.data.client_names, run.data.public, run.data.transfer}
    by_content = shape | {f"content of {name}": content[name] for name in sorted(files & set(content))}
    several = any(SEVERAL in content.get(name, "") for name in files)
    if not several and files <= set(content):
        by_content.pop("data.root", None)
    for key in set(PATHS) & set(shape):
        held = {name: content.get(_short(name)) for name in (part.strip() for part in shape[key].split(","))}
        if all(held.values()) and not any(SEVERAL in str(digest) for digest in held.values()):
            by_content[key] = ",".join(map(_short, held))
            by_content[f"{key}: content"] = ",".join(map(str, held.values()))
    return by_content


def _short(name: str) -> str:
    """Return the name of a local model or matrix among the contents."""
    last = name.rpartition("/")[2]
    return f"hf:{last}" if name.startswith("hf:") else last


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])
