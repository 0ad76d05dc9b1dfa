"""Figures as SVG data URIs that follow the light or dark scheme, in colour-blind safe colours."""

import base64
import io
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from knot_fed.reporting.page import Picture

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
"""Colours of Okabe and Ito (2008)."""
INK, LINE = "#0a0b0c", "#0b0c0d"
BEFORE, AFTER = VERMILLION, BLUE
WIDTH, ROW = 4.6, 0.42
SCHEMES = {INK: ("#1c1e21", "#e8e8e8"), LINE: ("#b9bec6", "#565c66"), BLUE: ("#0072b2", "#3b9fdd")}
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
        self.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        self._settings.__exit__(None, None, None)
        drawn = buffer.getvalue().decode()
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

    def picture(self, description: str, caption: str) -> Picture:
        """Return the image with its description and caption."""
        return Picture(self.source, description, caption)


def shortened(name: str, length: int = 18) -> str:
    """Truncate a long name for an axis.

    Examples
    --------
    >>> shortened("a-very-long-client-name-17")
    'a-very-long-clien…'
    """
    return name if len(name) <= length else name[: length - 1] + "…"


def grouped_bars(
    names: list[str],
    groups: dict[str, tuple[str, list[float]]],
    axis: str,
    *,
    description: str,
    caption: str,
    longest: int = 18,
) -> Picture:
    """Draw one group of horizontal bars for each name.

    Parameters
    ----------
    names
        Names of the rows, from top to bottom.
    groups
        Colour and one value for each row, by the name of the bar.
    axis
        Label of the values' axis.
    description, caption
        Text alternative, and text below the figure.
    longest
        Characters of a name, at most.
    """
    thick = 0.8 / len(groups)
    with Canvas(height=1.1 + max(ROW, 0.16 * len(groups) + 0.1) * len(names)) as canvas:
        for place, (label, (colour, values)) in enumerate(groups.items()):
            rows = [row - 0.4 + thick * (place + 0.5) for row in range(len(names))]
            canvas.axes.barh(rows, values, height=thick * 0.92, color=colour, label=shortened(label))
        canvas.axes.set_yticks(range(len(names)), [shortened(name, longest) for name in names])
        canvas.axes.invert_yaxis()
        canvas.axes.tick_params(axis="y", length=0)
        canvas.axes.grid(axis="x")
        canvas.axes.set_xlabel(axis)
        if len(groups) > 1:
            canvas.legend_above(columns=3)
    return canvas.picture(description, caption)


def _schemes() -> str:
    light, dark = (
        " ".join(f"--c{colour[1:]}: {shades[scheme]};" for colour, shades in SCHEMES.items()) for scheme in (0, 1)
    )
    return f"svg {{ {light} }} @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}"
