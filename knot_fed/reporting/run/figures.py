"""The figures of one run on its domains, clients and rounds."""

from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from knot_fed.reporting.figures import AFTER, BEFORE, BLUE, INK, Bars, Canvas, DotRow, dot_rows, grouped_bars
from knot_fed.reporting.page import FigureData, Picture
from knot_fed.runs.tables import client_domains

MEASURED = (("sd", "Semantic Distance", "lower"), ("macro_f1", "macro-F1", "higher"))
WHEN = (("before", BEFORE, "s"), ("after", AFTER, "o"))


def claim_figure(summary: dict[str, Any]) -> list[Picture]:
    """Draw SD on the server's test set before and after, each with its interval over the test texts."""
    intervals, domain = summary["details"].get("intervals"), summary["details"]["domain"]
    if not intervals:
        return []
    pictures = []
    for key, axis, better in MEASURED:
        measured = summary["domains"][domain]
        rows = []
        for when, colour, marker in WHEN:
            value, (low, high) = measured[when][key], intervals[key][when]
            rows.append(DotRow(when, [], value, low, high, colour, marker, f"{value:.3f}"))
        told = "; ".join(f"{row.label} {row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in rows)
        pictures.append(
            dot_rows(
                rows, f"{axis} ({better} is better)", name=f"claim-{key}".replace("_", "-"),
                description=f"{axis} on the server's test set: {told}.",
                caption=f"{axis} on {domain}, with 95 % bootstrap intervals over its test texts.",
                data=FigureData(
                    ["when", key, "low", "high"], [[row.label, row.mean, row.low, row.high] for row in rows]
                ),
            )
        )  # fmt: skip
    return pictures


def before_and_after_bars(summary: dict[str, Any]) -> list[Picture]:
    """Draw SD and macro-F1 of each domain, before and after."""
    domains = summary["domains"]
    names = sorted(domains)
    pictures = []
    for key, axis, better in MEASURED:
        groups = {when: Bars(colour, [domains[name][when][key] for name in names]) for when, colour, _ in WHEN}
        changes = "; ".join(f"{name} {_change(domains[name], key)}" for name in names)
        pictures.append(
            grouped_bars(
                names, groups, axis, name=f"{key}-by-domain".replace("_", "-"),
                description=f"Bars of {axis} by domain before and after: {changes}.",
                caption=f"{axis} by domain; {better} is better.",
                data=FigureData(
                    ["domain", "before", "after", "examples"],
                    [[name, *(domains[name][when][key] for when, *_ in WHEN), domains[name]["after"]["examples"]]
                     for name in names],
                ),
            )
        )  # fmt: skip
    return pictures


def _change(domain: dict[str, Any], key: str) -> str:
    return f"{domain['before'][key]:.3f} to {domain['after'][key]:.3f}"


def gain_bars(summary: dict[str, Any]) -> list[Picture]:
    """Draw how much better the student became on each client's own test split; empty if none was measured."""
    names = client_domains(summary)
    if not names:
        return []
    found = {name: [_gain(summary["domains"][name], key) for key, *_ in MEASURED] for name in names}
    told = "; ".join(f"{name} {sd:+.3f} in SD, {f1:+.3f} in macro-F1" for name, (sd, f1) in found.items())
    return [
        grouped_bars(
            names,
            {"lower SD": Bars(BLUE, [sd for sd, _ in found.values()]),
             "higher macro-F1": Bars(BEFORE, [f1 for _, f1 in found.values()])},
            "gain from before to after (above 0 is better)", name="gain-by-client",
            description=f"Gain of each client on its own test split: {told}.",
            caption="What each data owner gets: the student's gain on its own private test split, measured by itself.",
            data=FigureData(["client", "gain in SD", "gain in macro-F1"], [[name, *found[name]] for name in names]),
        )
    ]  # fmt: skip


def _gain(domain: dict[str, Any], key: str) -> float:
    change: float = domain["after"][key] - domain["before"][key]
    return -change if key == "sd" else change


def distillation_losses(rounds: list[dict[str, Any]]) -> Picture:
    """Draw the losses by epoch over all rounds; a ring marks the selected epoch."""
    start = 0
    with Canvas() as canvas:
        axes = canvas.axes
        for record in rounds:
            train, held, best = record["train_losses"], record["validation_losses"], record["best_epoch"]
            epochs = np.arange(len(held)) + start
            axes.plot(epochs[1:], train, "--", color=BEFORE, marker="s", markersize=3, label="training texts")
            axes.plot(epochs, held, color=AFTER, marker="o", markersize=3, label="held-out texts")
            axes.plot(
                epochs[best], held[best], "o", markersize=11, markerfacecolor="none", color=INK, label="selected epoch"
            )
            start += len(held)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        axes.set_xlabel("epoch" if len(rounds) == 1 else "epoch, over all rounds")
        axes.set_ylabel("distillation loss")
        handles, names = axes.get_legend_handles_labels()
        canvas.figure.legend(handles[:3], names[:3], loc="outside upper left", ncols=3)
    last = rounds[-1]["validation_losses"]
    rows = [
        [record["round"], epoch, loss_of(record, epoch), held, "yes" if epoch == record["best_epoch"] else "no"]
        for record in rounds
        for epoch, held in enumerate(record["validation_losses"])
    ]
    return canvas.picture(
        "distillation-loss",
        f"Distillation loss by epoch over {len(rounds)} round(s); held-out loss of the last from {last[0]:.4f}"
        f" to {min(last):.4f}.",
        "Loss by epoch; the loss on held-out transfer texts selects the epoch.",
        FigureData(["round", "epoch", "training loss", "held-out loss", "selected"], rows),
    )


def loss_of(record: dict[str, Any], epoch: int) -> float | None:
    """Return the training loss of an epoch; none was measured at the start, epoch 0."""
    losses: list[float] = record["train_losses"]
    return losses[epoch - 1] if 0 < epoch <= len(losses) else None


def traffic_bars(summary: dict[str, Any]) -> Picture:
    """Draw the bytes that each client sent."""
    clients = summary["clients"]
    sent = [client["bytes_up"] / 1e3 for client in clients]
    told = "; ".join(f"{client['name']} {kilobytes:.1f}" for client, kilobytes in zip(clients, sent, strict=True))
    keys = ("name", "bytes_up", "bytes_down", "seconds")
    return grouped_bars(
        [client["name"] for client in clients],
        {"sent": Bars(AFTER, sent)},
        "kB sent by the client",
        name="bytes-by-client",
        description=f"Bars of kilobytes sent by client: {told}.",
        caption="Bytes sent by each client, in kB, whole messages.",
        data=FigureData(["client", *keys[1:]], [[client[key] for key in keys] for client in clients]),
    )
