"""`report.html`: one file with the tables and plots of a run, in light and dark."""

import base64
import html
import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from knot_fed.reporting.run_folder import RunFolder
from knot_fed.reporting.tables import COLUMNS

BEFORE, AFTER, GREY = "#8a94a6", "#2f7de1", "#80868b"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c1e21; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr + tr { border-top: 1px solid #8884; }
img { max-width: 100%; } .mean { font-weight: 600; }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #16181c; } }
"""


def write_report(folder: RunFolder) -> None:
    """Write `report.html` from `summary.json` and `rounds.jsonl`.

    Raises
    ------
    RunFolderError
        If the run left no summary.
    """
    summary, rounds = folder.read_summary(), folder.read_rounds()
    parts = [f"<h1>{html.escape(folder.path.name)}</h1>", _facts(summary), _metrics(summary), _clients(summary)]
    if summary["domains"]:
        parts += ["<h2>Before and after distillation</h2>", _image(_bars(summary))]
    if rounds:
        parts += ["<h2>Distillation loss</h2>", _image(_losses(rounds))]
    body = "\n".join(parts)
    page = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>knot_fed run</title><style>{STYLE}</style>{body}"
    )
    (folder.path / "report.html").write_text(page, encoding="utf-8")


def _facts(summary: dict[str, Any]) -> str:
    distillation = summary["distillation"]
    facts = [
        f"Task {summary['task']}, seed {summary['seed']}, {len(summary['clients'])} clients.",
        f"Loss {distillation['loss']}, ground cost {distillation['cost']}, objective {distillation['objective']},"
        f" weights {distillation['weights']}, {distillation['epochs']} epochs.",
        f"Privacy: {summary['privacy']['guarantee']}.",
    ]
    return f"<p>{html.escape(' '.join(facts))}</p>"


def _metrics(summary: dict[str, Any]) -> str:
    rows = [("", name, metrics) for name, metrics in sorted(summary["domains"].items())]
    if summary["student"]["before"] and summary["student"]["after"]:
        rows.append(("mean", "mean", summary["student"]))
    heads = "".join(f"<th>{heading}</th>" for _, heading in COLUMNS)
    cells = [
        f"<tr class='{style}'><td>{html.escape(name)}</td>"
        + "".join(f"<td>{m['before'][key]:.3f} → {m['after'][key]:.3f}</td>" for key, _ in COLUMNS)
        + "</tr>"
        for style, name, m in rows
    ]
    return f"<table><tr><th>domain</th>{heads}</tr>{''.join(cells)}</table>"


def _clients(summary: dict[str, Any]) -> str:
    heads = ("name", "status", "examples", "bytes_up", "bytes_down", "seconds")
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_shown(client[head]))}</td>" for head in heads) + "</tr>"
        for client in summary["clients"]
    )
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{rows}</table>"


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _bars(summary: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    names = sorted(summary["domains"])
    for axes, (key, heading) in zip(figure.subplots(1, 2), (("sd", "SD ↓"), ("macro_f1", "macro-F1 ↑")), strict=True):
        for shift, when, colour in ((-0.2, "before", BEFORE), (0.2, "after", AFTER)):
            heights = [summary["domains"][name][when][key] for name in names]
            axes.bar([place + shift for place in range(len(names))], heights, width=0.38, color=colour, label=when)
        axes.set_xticks(range(len(names)), names)
        axes.set_title(heading)
        axes.legend(frameon=False, labelcolor=GREY)
    return figure


def _losses(rounds: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    start = 0
    for record in rounds:
        train, held = record["train_losses"], record["validation_losses"]
        axes.plot(
            range(start + 1, start + 1 + len(train)), train, color=BEFORE, label=None if start else "training texts"
        )
        axes.plot(range(start, start + len(held)), held, color=AFTER, label=None if start else "held-out texts")
        axes.plot(start + record["best_epoch"], held[record["best_epoch"]], "o", color=AFTER)
        start += len(train) + 1
    axes.set_xlabel("epoch, rounds one after the other; the dot is the epoch kept")
    axes.legend(frameon=False, labelcolor=GREY)
    return figure


def _image(figure: Figure) -> str:
    for axes in figure.axes:
        axes.tick_params(colors=GREY)
        axes.title.set_color(GREY)
        axes.xaxis.label.set_color(GREY)
        for name, spine in axes.spines.items():
            spine.set_visible(name in ("left", "bottom"))
            spine.set_color(GREY)
        axes.patch.set_alpha(0)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "knot_fed"}):
        figure.savefig(buffer, format="svg", transparent=True)
    return f"<img alt='plot' src='data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"
