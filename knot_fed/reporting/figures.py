"""Figures as SVG data URIs that follow the light or dark scheme, in colour-blind safe colours."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from knot_fed.reporting.page import FigureData, Picture

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
"""Colours of Okabe and Ito (2008)."""
INK, LINE, SURFACE = "#0a0b0c", "#0b0c0d", "#fbfcfd"
BEFORE, AFTER = VERMILLION, BLUE
HATCHES = ("", "//", "xx", "--", "\\\\", "++")
"""Of the bars of a group, in order, beside their colours."""
FONTS = "'DejaVu Sans', Verdana"
WIDTH, ROW = 4.6, 0.42
MOST_DIRECT_LABELS = 40
"""Bars of a figure that have their value written beside them."""
SCHEMES = {INK: ("#1c1e21", "#e8e8e8"), LINE: ("#b9bec6", "#565c66"), BLUE: ("#0072b2", "#3b9fdd"),
           SURFACE: ("#f5f6f8", "#1f2228")}  # fmt: skip
"""Colours of the light and dark scheme; matplotlib draws with the key, which is then replaced."""
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "knot_fed",
    "text.parse_math": False,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": LINE,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}


class Canvas:
    """A panel to draw on, inside a `with` block; `picture` then returns the image."""

    def __init__(self, height: float = 3.4) -> None:
        self._settings = mpl.rc_context(SETTINGS)
        self._height = height

    def __enter__(self) -> "Canvas":
        self._settings.__enter__()
        self.figure = Figure(figsize=(WIDTH, self._height), layout="constrained")
        self.axes: Axes = self.figure.subplots()
        return self

    def __exit__(self, *_: object) -> None:
        buffer = io.BytesIO()
        self.figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
        self._settings.__exit__(None, None, None)
        drawn = buffer.getvalue().decode().replace("'DejaVu Sans'", FONTS)
        for colour in SCHEMES:
            drawn = drawn.replace(colour, f"var(--c{colour[1:]})")
        drawn = drawn.replace("<defs>", f"<style>{_schemes()}</style><defs>", 1)
        self.source = f"data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()}"

    def logarithmic(self, *names: Literal["x", "y"]) -> None:
        """Make axes logarithmic with plain numbers; powers of ten would show their markup."""
        for name in names:
            getattr(self.axes, f"set_{name}scale")("log")
            axis = getattr(self.axes, f"{name}axis")
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())

    def legend_above(self, columns: int = 2) -> None:
        """Put the legend above the panel."""
        self.figure.legend(loc="outside upper left", ncols=columns)

    def picture(self, name: str, description: str, caption: str, data: FigureData) -> Picture:
        """Return the image with the name of its files, its description, caption and values."""
        return Picture(self.source, name, description, caption, data)


def shortened(name: str, length: int = 18) -> str:
    """Truncate a long name for an axis.

    Examples
    --------
    >>> shortened("a-very-long-client-name-17")
    'a-very-long-clien…'
    """
    return name if len(name) <= length else name[: length - 1] + "…"


@dataclass(frozen=True, slots=True)
class Bars:
    """One bar in each group: its colour, a value for each row, and the values that a row's mean is of, as dots."""

    colour: str
    values: Sequence[float]
    dots: Sequence[Sequence[float]] = ()


def grouped_bars(
    names: Sequence[str],
    groups: Mapping[str, Bars],
    axis: str,
    *,
    name: str,
    description: str,
    caption: str,
    data: FigureData,
    longest: int = 18,
) -> Picture:
    """Draw one group of horizontal bars for each name, told apart by colour and hatch, with their values.

    Parameters
    ----------
    names
        Names of the rows, from top to bottom.
    groups
        The bars of each row, by name.
    axis
        Label of the values' axis.
    name, description, caption, data
        Name of its files, text alternative, text below the figure, and its values.
    longest
        Characters of a name, at most.
    """
    thick = 0.84 / len(groups)
    direct = len(groups) * len(names) <= MOST_DIRECT_LABELS
    with Canvas(height=1.1 + max(ROW, 0.2 * len(groups) + 0.1) * len(names)) as canvas:
        axes = canvas.axes
        for place, ((label, bars), hatch) in enumerate(zip(groups.items(), HATCHES * len(groups), strict=False)):
            rows = [row - 0.42 + thick * (place + 0.5) for row in range(len(names))]
            drawn = axes.barh(
                rows, bars.values, height=thick * 0.9, facecolor=bars.colour, hatch=hatch, edgecolor=SURFACE,
                linewidth=0, label=shortened(label),
            )  # fmt: skip
            for row, dots in zip(rows, bars.dots, strict=False):
                axes.plot(dots, [row] * len(dots), "o", markersize=2.8, color=INK, markerfacecolor=SURFACE)
            if direct and not bars.dots:
                axes.bar_label(drawn, [f"{value:.3g}" for value in bars.values], padding=2, fontsize=8)
        axes.set_yticks(range(len(names)), [shortened(row, longest) for row in names])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.12 if direct else 0.05)
        axes.grid(axis="x")
        axes.set_xlabel(axis)
        if len(groups) > 1:
            canvas.legend_above(columns=2)
    return canvas.picture(name, description, caption, data)


@dataclass(frozen=True, slots=True)
class DotRow:
    """A row of a dot plot: a dot for each value, their mean with its interval (NaN: none), and a note beside it."""

    label: str
    values: Sequence[float]
    mean: float
    low: float = math.nan
    high: float = math.nan
    colour: str = INK
    marker: str = "D"
    note: str = ""


def dot_rows(
    rows: Sequence[DotRow],
    axis: str,
    *,
    name: str,
    description: str,
    caption: str,
    data: FigureData,
    zero: bool = False,
    longest: int = 30,
) -> Picture:
    """Draw each row's values as dots beside its mean and interval.

    Parameters
    ----------
    rows
        The rows, from top to bottom.
    axis
        Label of the values' axis.
    name, description, caption, data
        As in `grouped_bars`.
    zero
        Whether to draw a line at zero, for differences.
    longest
        Characters of a label, at most.
    """
    with Canvas(height=0.9 + 0.36 * max(len(rows), 2)) as canvas:
        axes = canvas.axes
        if zero:
            axes.axvline(0, color=INK, linewidth=1, linestyle="--")
        for place, row in enumerate(rows):
            count = len(row.values)
            spread = place + 0.2 * np.linspace(-1, 1, count) if count > 1 else [place] * count
            axes.plot(row.values, spread, "o", markersize=3.2, color=row.colour, markerfacecolor="none", alpha=0.9)
            if math.isfinite(row.low) and math.isfinite(row.high):
                axes.plot([row.low, row.high], [place, place], color=row.colour, linewidth=2)
            axes.plot(row.mean, place, row.marker, color=row.colour, markersize=6.5)
            axes.annotate(
                row.note, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=INK
            )
        axes.set_yticks(range(len(rows)), [shortened(row.label, longest) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_xlabel(axis)
    return canvas.picture(name, description, caption, data)


def _schemes() -> str:
    light, dark = (
        " ".join(f"--c{colour[1:]}: {shades[scheme]};" for colour, shades in SCHEMES.items()) for scheme in (0, 1)
    )
    return f"svg {{ {light} }} @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}"
