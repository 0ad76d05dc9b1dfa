"""Results of several runs or of a sweep as one tidy frame: a row for each cell, seed, line and domain."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from knot_fed.config import flattened
from knot_fed.errors import RunFolderError
from knot_fed.files import file_digest, shorten_paths
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.tables import COLUMNS
from knot_fed.types import MEAN

SETTING_KEYS = {
    "loss": "distill.loss",
    "objective": "distill.objective",
    "weights": "weights.scheme",
    "cost": "transport.cost",
}
"""The four settings that every result has, with their configuration keys."""
SETTINGS = tuple(SETTING_KEYS)
MEASURES = tuple(measure for measure, _ in COLUMNS)
TRAFFIC = ("bytes_up", "bytes_down", "seconds")
GAINS = {
    "gain_sd": ("sd", -1, "own SD gain ↑"),
    "gain_sd_calibrated": ("sd_calibrated", -1, "own SD cal. gain ↑"),
    "gain_macro_f1": ("macro_f1", 1, "own F1 gain ↑"),
}
"""Columns of the clients' personal gains: the metric, the sign that makes a larger gain better, and the heading."""
GAINED = "own: what a personal model is better by than its client's teacher alone, on its test split"
PER_CLIENT = (*TRAFFIC, *GAINS)
RESULTS = ("cell", "seed", *SETTINGS, "line", "domain", *MEASURES, "examples", *PER_CLIENT)
COMPARISON = (*SETTINGS, "domain", "metric", "seeds", "difference", "low", "high", "verdict")
NOT_COMPARED = ("seed", "name", "runs-dir", "state-dir", "threads", "timeout", "keep-answers", "trackers")
"""Configuration keys that do not distinguish cells."""
FACTS = ("task", "model", "rounds", "data.clients", "data.public", "data.transfer")
BEFORE, AFTER, FEDAVG = "student before", "student after", "fedavg"


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """The data of a report that compares runs.

    Parameters
    ----------
    title
        Heading of the report.
    facts
        What was run.
    frame
        Columns `RESULTS`, then one column for each further key that differs between cells; settings are strings.
    comparison
        Paired differences from the entropy baseline, columns `COMPARISON` and the further keys; may be empty.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    frame: pd.DataFrame
    comparison: pd.DataFrame

    @property
    def further_keys(self) -> list[str]:
        """Return the grid's keys beyond the four settings."""
        return [column for column in self.frame.columns if column not in RESULTS]


def is_sweep(folder: Path) -> bool:
    """Return whether the folder is a sweep's."""
    return (folder / "sweep.toml").is_file() or (folder / "results.csv").is_file()


def read_sweep(folder: Path) -> Results:
    """Read the results of a sweep.

    Raises
    ------
    RunFolderError
        If one of its three files is missing, invalid or lacks a column.
    """
    frame = _read_table(folder / "results.csv", [column for column in RESULTS if column not in GAINS])
    frame = frame.reindex(columns=list(dict.fromkeys([*frame.columns, *GAINS])))  # earlier versions wrote no gains
    if not ((frame["line"] == AFTER) & (frame["domain"] == MEAN)).any():
        raise RunFolderError(f"{folder / 'results.csv'}: no row of a {AFTER!r} on the {MEAN!r}; finish the sweep first")
    comparison = _read_table(folder / "comparison.csv", COMPARISON)
    try:
        sweep = tomllib.loads((folder / "sweep.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunFolderError(f"{folder}: sweep.toml missing or unreadable; give the sweep's folder") from None
    config = sweep.get("config", {})
    facts = [
        *((key, shorten_paths(str(config[key]))) for key in FACTS if config.get(key)),
        *((key, ", ".join(map(str, values))) for key, values in sweep.get("grid", {}).items()),
        ("seeds", ", ".join(map(str, sorted(frame["seed"].unique())))),
        *public_digests(sweep),
        *provenance(_summaries(folder)),
    ]
    return Results(folder.resolve().name, facts, _without_repeats(frame), comparison)


def collect_runs(folders: Sequence[RunFolder]) -> Results:
    """Collect the summaries of several runs; runs that differ only in the seed form one cell.

    A run of FedAvg is a baseline.

    Raises
    ------
    RunFolderError
        If a run has no readable summary or failed, no run distilled a student, or SD is not measured in one geometry.
    """
    _check_geometry(folders)
    configs = [flattened(folder.read_config()) for folder in folders]
    keys = sorted({key for config in configs for key in config} - {*SETTING_KEYS.values(), *NOT_COMPARED, "wait-for"})
    differing = [key for key in keys if len({str(config.get(key)) for config in configs}) > 1]
    rows = [
        {**row, **{key: str(config.get(key, "")) for key in differing}}
        for folder, config in zip(folders, configs, strict=True)
        for row in _rows(folder)
    ]
    frame = pd.DataFrame(rows)
    frame.insert(0, "cell", frame[[*SETTINGS, *differing]].agg(" ".join, axis=1))
    if not (frame["line"] == AFTER).any():
        raise RunFolderError("none of these runs distilled a student; add one to those of FedAvg")
    facts = [
        ("runs", ", ".join(folder.path.resolve().name for folder in folders)),
        *((key, shorten_paths(str(configs[0][key]))) for key in FACTS if key not in differing and configs[0].get(key)),
        *((key, ", ".join(sorted({shorten_paths(str(config.get(key, ""))) for config in configs})))
          for key in differing),
        ("seeds", ", ".join(map(str, sorted(frame["seed"].unique())))),
        *provenance([folder.read_summary() for folder in folders]),
    ]  # fmt: skip
    return Results(f"{len(folders)} runs", facts, _without_repeats(frame), pd.DataFrame(columns=list(COMPARISON)))


def _check_geometry(folders: Sequence[RunFolder]) -> None:
    measured = {folder.path.name: folder.read_summary().get("geometry", "") for folder in folders}
    told = {geometry: name for name, geometry in measured.items() if geometry}  # earlier versions did not record it
    if len(told) > 1:
        (one, first), (other, second) = list(told.items())[:2]
        raise RunFolderError(
            f"{first} and {second} measure SD in different geometries ({one}; {other}), so they cannot be compared; run"
            " one of them again under the labels.geometry of the other"
        )


def provenance(summaries: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Say when, where, on which public data and with which versions runs were made; several values are all listed."""
    known = [summary for summary in summaries if isinstance(summary.get("versions"), dict)]
    if not known:
        return []
    started = sorted(str(summary["started"]) for summary in known if summary.get("started"))
    data = [(role, found) for summary in known for role, found in summary.get("data", {}).items()]
    several = {
        "SD and W1 measured by": [summary["geometry"] for summary in known if summary.get("geometry")],
        "device": [summary["device"] for summary in known if summary.get("device")],
        "versions": [", ".join(f"{name} {version}" for name, version in sorted(summary["versions"].items()))
                     for summary in known],
        **{f"SHA-256 of data.{role}": [found["sha256"] for of, found in data if of == role and found.get("sha256")]
           for role in ("public", "transfer")},
        "transfer fingerprint": [found["fingerprint"] for _, found in data if "fingerprint" in found],
    }  # fmt: skip
    return [
        *([("started", f"{started[0]} to {started[-1]}")] if started else []),
        ("time", f"{sum(summary.get('wall_seconds', 0.0) for summary in known):,.0f} s, {len(known)} runs together"),
        *((name, "; ".join(sorted(set(values)))) for name, values in several.items() if values),
    ]


def study_facts(folder: Path, file: str) -> list[tuple[str, str]]:
    """Return the digests of a study's description and of its public data, and what its runs, if any, recorded."""
    try:
        study = tomllib.loads((folder / file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    facts = [(f"SHA-256 of {file}", file_digest(folder / file)), *public_digests(study)]
    return [*facts, *provenance(_summaries(folder))]


def _summaries(sweep: Path) -> list[dict[str, Any]]:
    """Read the summaries of a sweep's runs as far as they are there: a report can be made of its tables alone."""
    found = []
    for file in sorted(sweep.glob("cells/*/summary.json")):
        try:
            summary = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found += [summary] if isinstance(summary, dict) else []
    return found


def public_digests(study: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the digests of public data, models and matrices that a sweep or audit recorded, and of no private file."""
    private = {name.strip() for name in str(study.get("config", {}).get("data.clients", "")).split(",")}
    content = study.get("content", {})
    return [
        (f"SHA-256 of {name}", str(content[name])) for name in sorted(content) if content[name] and name not in private
    ]


def means_per_client(summary: dict[str, Any]) -> dict[str, float]:
    """Return `PER_CLIENT`: bytes and seconds, over the clients that answered, or over all if none did; and gains.

    A gain is what the personal model is better by than the client's teacher alone, on the client's own test split;
    NaN without personal models.
    """
    answered = [client for client in summary["clients"] if client["status"] == "ok"] or summary["clients"]
    spent = {key: float(np.mean([client[key] for client in answered])) for key in TRAFFIC}
    measured = [client for client in summary.get("personal", {}).get("clients", {}).values() if "after" in client]
    gained = {
        gain: float(np.mean([sign * (client["after"][metric] - client["before"][metric]) for client in measured]))
        for gain, (metric, sign, _) in GAINS.items()
        if measured
    }
    return dict.fromkeys(GAINS, float("nan")) | spent | gained


def _rows(folder: RunFolder) -> list[dict[str, Any]]:
    summary = folder.read_summary()
    if summary["error"] or not summary["domains"]:
        raise RunFolderError(
            f"{folder.path}: the run failed, so there is nothing to compare; start it again or leave it out"
        )
    after, settings = FEDAVG, dict.fromkeys(SETTINGS, "")
    if "distillation" in summary:
        after, settings = AFTER, {key: summary["distillation"][key] for key in SETTINGS}
    measured = {**summary["domains"], MEAN: summary["student"]}
    return [
        {"seed": summary["seed"], **settings, "line": line, "domain": domain, **metrics[when], **spent}
        for domain, metrics in measured.items()
        for line, when, spent in ((BEFORE, "before", {}), (after, "after", means_per_client(summary)))
    ]


def _read_table(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    words = dict.fromkeys(("cell", *SETTINGS, "line", "domain", "metric", "verdict"), "str")
    numbers = dict.fromkeys((*MEASURES, *PER_CLIENT, "difference", "low", "high"), "float")
    try:
        frame = pd.read_csv(file, dtype={**words, **numbers})
    except (OSError, ValueError):
        raise RunFolderError(f"{file}: cannot be read as a table; run the sweep again") from None
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise RunFolderError(f"{file}: column(s) {', '.join(missing)} missing; run the sweep again")
    further = [column for column in frame.columns if column not in (*RESULTS, *COMPARISON)]
    worded = [column for column in (*words, *further) if column in frame.columns]
    frame[worded] = frame[worded].astype("str").where(frame[worded].notna(), "")
    return frame


def _without_repeats(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the initial student once per seed: it depends on none of the settings."""
    start = frame["line"] == BEFORE
    frame.loc[frame["line"].isin([BEFORE, FEDAVG]), ["cell", *SETTINGS]] = ""
    further = [column for column in frame.columns if column not in RESULTS]
    return frame[~(start & frame.duplicated(["seed", "line", "domain", *further]))].reset_index(drop=True)
