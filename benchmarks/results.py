"""The tables of results on the site and in README.md, from committed sweeps; nothing in them is typed.

python -m benchmarks.results keep TASK SWEEP   keeps a finished sweep: its seeds' means, without paths of the machine
python -m benchmarks.results write             writes docs/results/tables/ and the table of README.md
"""

import sys
import tomllib
from pathlib import Path

import pandas as pd
import tomli_w

from knot_fed.config import RunConfig
from knot_fed.runs.results import AFTER, BEFORE, FEDAVG, read_sweep
from knot_fed.runs.statistics import CENTRALISED, summarise_lines
from knot_fed.types import MEAN

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
SWEEPS, TABLES = RESULTS / "sweeps", RESULTS / "tables"
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
MEASURES = {
    "sd": "SD ↓",
    "sd_calibrated": "SD cal. ↓",
    "w1": "W1 ↓",
    "accuracy": "accuracy ↑",
    "macro_f1": "macro-F1 ↑",
}


def keep(task: str, sweep: Path) -> None:
    """Keep the means over domains of a finished sweep below docs/results/sweeps."""
    found = read_sweep(sweep)
    folder = SWEEPS / task
    folder.mkdir(parents=True, exist_ok=True)
    frame = found.frame[found.frame["domain"] == MEAN].drop(columns=["examples", "seconds"])
    frame.assign(examples="", seconds="").to_csv(folder / "results.csv", index=False, float_format="%.6g")
    comparison = found.comparison[found.comparison["domain"] == MEAN]
    comparison.to_csv(folder / "comparison.csv", index=False, float_format="%.6g")
    told = tomllib.loads((sweep / "sweep.toml").read_text(encoding="utf-8"))
    told["config"] |= {"model": "hf:sentence-transformers/all-MiniLM-L6-v2", "data.root": f"../shared/data/{task}"}
    (folder / "sweep.toml").write_text(tomli_w.dumps(told), encoding="utf-8")


def lines_table(task: str) -> pd.DataFrame:
    """Return one row a line: its means over seeds ± half the 95 % interval, lowest SD first."""
    rows = []
    for line in summarise_lines(read_sweep(SWEEPS / task).frame, []).to_dict("records"):
        shown = {column: _measured(line, measure) for measure, column in {**MEASURES, "ece": "ECE ↓"}.items()}
        up, down = ("" if pd.isna(line[key]) else f"{line[key] / 1e3:,.0f}" for key in ("bytes_up", "bytes_down"))
        closed = "" if pd.isna(line["closed_sd"]) else f"{line['closed_sd']:.0%}"
        rows.append(
            {"line": _named(line), "weights": line["weights"]}
            | shown
            | {"closed": closed, "kB up": up, "kB down": down}
        )
    return pd.DataFrame(rows)


def differences_table(task: str) -> pd.DataFrame:
    """Return transport minus entropy under each weighting, with intervals paired by seed."""
    found = read_sweep(SWEEPS / task).comparison
    rows = []
    for weights, group in found[found["metric"].isin(MEASURES)].groupby("weights", sort=False):
        by_metric = {row["metric"]: row for row in group.to_dict("records")}
        rows.append({"weights": weights} | {name: _difference(by_metric[key]) for key, name in MEASURES.items()})
    return pd.DataFrame(rows)


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
    tables = {f"{task}.csv": lines_table(task) for task in TASKS}
    return tables | {f"{task}-differences.csv": differences_table(task) for task in TASKS}


def with_table(page: str) -> str:
    """Return the page with the table of results between its two marks."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{first_page_table().to_markdown(index=False)}\n{END}{after}"


def _named(line: dict[object, object]) -> str:
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
        case ["keep", task, sweep] if task in TASKS:
            keep(task, Path(sweep))
        case ["write"]:
            write()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
