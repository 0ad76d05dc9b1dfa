"""The tables of results on the site and in README.md, from committed sweeps; nothing in them is typed.

python -m benchmarks.results keep NAME SWEEP   keeps a finished sweep: its seeds' means, without paths of the machine
python -m benchmarks.results write             writes docs/results/tables/ and the table of README.md
"""

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
from jaxtyping import Float

from benchmarks import decide
from knot_fed.config import RunConfig
from knot_fed.errors import RunFolderError
from knot_fed.runs.results import AFTER, BEFORE, FEDAVG, GAINS, read_sweep
from knot_fed.runs.statistics import CENTRALISED, paired_interval, summarise_lines, verdict_of
from knot_fed.runs.sweep_tables import METHOD
from knot_fed.types import MEAN

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
SWEEPS, TABLES = RESULTS / "sweeps", RESULTS / "tables"
DECIDING = "recipe", "other", "second", "first", "broad", "earlier"
"""First words of the names of sweeps that decide together: of the present recipe, on the three tasks and on other data,
of the two before it, then with broad transfer sets, `broad` of the present recipe and `earlier` of the first."""
TASKS = {"sentiment": "sentiment", "nli": "inference", "emotion": "emotion"}
FILES = {"sentiment": "sentiment-minilm.toml", "nli": "nli.toml", "emotion": "emotion.toml"}
START, END = "<!-- results: written by python -m benchmarks.results -->", "<!-- end of results -->"
NAMES = {FEDAVG: "FedAvg (parameters leave)", CENTRALISED: "centralised (data leave)", "ot": "**transport**"}
ORDER = {
    BEFORE: "student before distillation",
    "entropy": "distilled by entropy",
    "ot": "**distilled by transport**",
    FEDAVG: "FedAvg: parameters leave each client",
    CENTRALISED: "centralised: the data leave",
}
AGAINST = {"recipe": "recipe", "fedavg": FEDAVG}
"""What each method is compared with, by the end of the table's name."""
MEASURES = {
    "sd": "SD ↓",
    "sd_calibrated": "SD cal. ↓",
    "w1": "W1 ↓",
    "accuracy": "accuracy ↑",
    "macro_f1": "macro-F1 ↑",
}


def keep(name: str, sweep: Path) -> None:
    """Keep the means over domains of a finished sweep below docs/results/sweeps.

    Raises RunFolderError, before anything is written, if a setting would tell of a folder of this machine.
    """
    found, told = read_sweep(sweep), tomllib.loads((sweep / "sweep.toml").read_text(encoding="utf-8"))
    told["config"] |= {"data.root": _placed(Path(told["config"]["data.root"]))}
    if told["config"]["model"].startswith("hf:"):
        told["config"]["model"] = "hf:sentence-transformers/all-MiniLM-L6-v2"
    _check_no_path(told, sweep)
    folder = SWEEPS / name
    folder.mkdir(parents=True, exist_ok=True)
    frame = found.frame[found.frame["domain"] == MEAN]
    frame.assign(examples="").to_csv(folder / "results.csv", index=False, float_format="%.6g")
    comparison = found.comparison[found.comparison["domain"] == MEAN]
    comparison.to_csv(folder / "comparison.csv", index=False, float_format="%.6g")
    (folder / "sweep.toml").write_text(tomli_w.dumps(told), encoding="utf-8")


def _check_no_path(told: dict[str, Any], sweep: Path) -> None:
    """Refuse settings of the study, its methods or its grid that hold an absolute path."""
    given = [*told["config"].items(), *((key, each) for key, values in told["grid"].items() for each in values)]
    given += [pair for method in told.get("methods", {}).values() for pair in method.items()]
    for key, value in given:
        names = value.split(",") if isinstance(value, str) else []
        if any(Path(name.strip().rpartition(":")[2]).expanduser().is_absolute() for name in names):
            raise RunFolderError(
                f"{sweep}: {key} = {value!r} is a path of this machine; name a hub id or a relative path"
            )


def _placed(root: Path) -> str:
    """Return a folder of data as the pages name it."""
    if root.parent.name != "data":
        return f"data/{root.parent.name}/{root.name}"
    return f"../shared/data/{root.name}" if root.parent.parent.name == "shared" else f"data/{root.name}"


def lines_table(name: str) -> pd.DataFrame:
    """Return one row a line: its means over seeds ± half the 95 % interval, lowest SD first."""
    rows, found = [], read_sweep(SWEEPS / name)
    cells = found.frame[found.frame["line"] == AFTER]
    several = METHOD in found.further_keys and bool((cells.groupby(METHOD)["loss"].nunique() > 1).any())
    for line in summarise_lines(found.frame, found.further_keys).to_dict("records"):
        shown = {column: _measured(line, measure) for measure, column in {**MEASURES, "ece": "ECE ↓"}.items()}
        up, down = ("" if pd.isna(line[key]) else f"{line[key] / 1e3:,.0f}" for key in ("bytes_up", "bytes_down"))
        closed = "" if pd.isna(line["closed_sd"]) else f"{line['closed_sd']:.0%}"
        rows.append(
            {"line": _named(line, with_loss=several), **{key: line[key] for key in found.further_keys if key != METHOD}}
            | {"weights": line["weights"]}
            | shown
            | {"closed": closed, "kB up": up, "kB down": down}
            | (_personal(line) if METHOD in found.further_keys else {})
        )
    return pd.DataFrame(rows)


def _personal(line: dict[object, float]) -> dict[str, str]:
    told = {heading: "" if pd.isna(line[gain]) else f"{line[gain]:+.3f}" for gain, (*_, heading) in GAINS.items()}
    return told | {"seconds": "" if pd.isna(line["seconds"]) else f"{line['seconds']:.0f}"}


def differences_table(name: str) -> pd.DataFrame:
    """Return transport minus entropy under each weighting and further key, with intervals paired by seed."""
    results = read_sweep(SWEEPS / name)
    found, keys, rows = results.comparison, [*results.further_keys, "weights"], []
    for cell, group in found[found["metric"].isin(MEASURES)].groupby(keys, sort=False):
        by_metric = {row["metric"]: row for row in group.to_dict("records")}
        rows.append(
            dict(zip(keys, cell, strict=True)) | {name: _difference(by_metric[key]) for key, name in MEASURES.items()}
        )
    return pd.DataFrame(rows)


def methods_tables(name: str) -> dict[str, pd.DataFrame]:
    """Return each method minus one of `AGAINST`, paired by seed, by the end of the table's name.

    Empty unless the sweep compares methods of one setting each.
    """
    results = read_sweep(SWEEPS / name)
    frame = results.frame[results.frame["domain"] == MEAN]
    if METHOD not in results.further_keys or "recipe" not in set(frame[METHOD]):
        return {}
    lines = {str(method): line.set_index("seed") for method, line in frame[frame["line"] == AFTER].groupby(METHOD)}
    lines[FEDAVG] = frame[frame["line"] == FEDAVG].drop_duplicates("seed").set_index("seed")
    return {f"against-{end}": _against(lines, other) for end, other in AGAINST.items()}


def _against(lines: dict[str, pd.DataFrame], other: str) -> pd.DataFrame:
    rows = []
    for method, line in sorted(lines.items(), key=lambda item: item[1]["sd"].mean()):
        if method != other:
            shown = {
                heading: _paired(metric, (line[metric] - lines[other][metric]).to_numpy())
                for metric, heading in MEASURES.items()
            }
            rows.append({"line": NAMES.get(method, method)} | shown)
    return pd.DataFrame(rows)


def _paired(metric: str, found: Float[np.ndarray, "seeds"]) -> str:
    low, high = paired_interval(found)
    return _difference({"difference": found.mean(), "low": low, "high": high, "verdict": verdict_of(metric, low, high)})


def first_page_table() -> pd.DataFrame:
    """Return the lines that decide, with the weights of each task's file in simulations/."""
    table = pd.DataFrame({"": list(ORDER.values())})
    for task, named in TASKS.items():
        config = tomllib.loads((ROOT / "simulations" / FILES[task]).read_text(encoding="utf-8"))
        weights = config.get("weights", {}).get("scheme", RunConfig().weights.scheme)
        lines = {
            line["loss"] or line["line"]: line
            for line in summarise_lines(read_sweep(SWEEPS / task).frame, []).to_dict("records")
            if line["line"] != AFTER or line["weights"] == weights
        }
        for measure in ("sd", "macro_f1"):
            column = f"{named}, {MEASURES[measure]}"
            table[column] = [_measured(lines[key], measure) if key in lines else "" for key in ORDER]
    return table


def write() -> None:
    """Write all tables, and the one of README.md between its two marks."""
    for name, table in all_tables().items():
        table.to_csv(TABLES / name, index=False)
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")


def all_tables() -> dict[str, pd.DataFrame]:
    """Return each generated table by the name of its file."""
    names = sorted(folder.name for folder in SWEEPS.iterdir())
    tables = {f"{name}.csv": lines_table(name) for name in names}
    tables |= {f"{name}-differences.csv": differences_table(name) for name in names}
    tables |= {f"{name}-{end}.csv": table for name in names for end, table in methods_tables(name).items()}
    for group in DECIDING:
        tables |= decided_tables(group, [SWEEPS / name for name in names if name.startswith(f"{group}-")])
    return {name: table for name, table in tables.items() if len(table)}


def decided_tables(group: str, sweeps: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Return transport minus entropy on each data set and over all, and the shares of the gap that are closed."""
    if not sweeps:
        return {}
    rows: dict[str, dict[str, str]] = {}
    for row in decide.differences_table(sweeps).to_dict("records"):
        if row["metric"] in MEASURES:
            data = str(row["data"]).removeprefix(f"{group}-")
            rows.setdefault(data, {"data": data, "n": row["seeds"]})[MEASURES[row["metric"]]] = _difference(row)
    shares = [
        {"data": str(row["data"]).removeprefix(f"{group}-"), "line": NAMES.get(row["loss"] or row["line"], row["loss"])}
        | {"n": row["seeds"]}
        | {"closed, %": f"{row['closed']:.0f} [{row['low']:.0f}, {row['high']:.0f}]"}
        | {"macro-F1 ↑": f"{row['macro_f1']:.3f}", "accuracy ↑": f"{row['accuracy']:.3f}"}
        for row in decide.shares_table(sweeps).to_dict("records")
        if row["loss"] or row["line"] == FEDAVG
    ]
    return {f"{group}-decided.csv": pd.DataFrame(rows.values()), f"{group}-shares.csv": pd.DataFrame(shares)}


def with_table(page: str) -> str:
    """Return the page with the table of results between its two marks."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{first_page_table().to_markdown(index=False)}\n{END}{after}"


def _named(line: dict[object, object], *, with_loss: bool) -> str:
    if line["line"] == AFTER and line.get(METHOD):
        return f"{line[METHOD]}, {line['loss']}" if with_loss else str(line[METHOD])
    key = str(line["loss"] if line["line"] == AFTER else line["line"])
    return NAMES.get(key, key)


def _measured(line: dict[object, float], measure: str) -> str:
    half = line[f"{measure}_half"]
    return f"{line[measure]:.3f}" + ("" if pd.isna(half) else f" ± {half:.3f}")


def _difference(row: dict[str, object]) -> str:
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] {row['verdict']}"


def main() -> None:
    """Keep a sweep, or write the tables."""
    match sys.argv[1:]:
        case ["keep", name, sweep]:
            try:
                keep(name, Path(sweep))
            except RunFolderError as error:
                sys.exit(f"benchmarks.results: {error}")
        case ["write"]:
            write()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
