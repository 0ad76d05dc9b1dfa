"""Terminal output of all commands: console, lines and progress."""

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

WIDTH = 10_000
"""Width without a terminal, wide enough that no table is truncated."""
IN_ASCII = str.maketrans(
    {"→": "->", "↓": "v", "↑": "^", "±": "+-", "\N{MINUS SIGN}": "-", "…": "...", "≥": ">=", "≤": "<=", "·": "*"}
)


class PlainConsole(Console):
    """A console that replaces symbols by ASCII before layout if the terminal's encoding lacks them."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text, in ASCII if the encoding is not UTF."""
        return super().render_str(text if self.encoding.startswith("utf") else text.translate(IN_ASCII), **options)


def make_console() -> Console:
    """Return a console for standard output, as wide as the terminal, or `WIDTH` without one."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a user's characters that the terminal cannot show
    return PlainConsole(width=None if sys.stdout.isatty() else WIDTH)


def echo_line(console: Console, line: str) -> None:
    """Print a line as it is, without wrapping, markup or highlighting."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def ascii_lines(shown: RenderableType) -> list[str]:
    """Return what a console would print, as lines of ASCII."""
    written = io.BytesIO()
    ascii_file = io.TextIOWrapper(written, encoding="ascii", errors="replace", write_through=True)
    PlainConsole(file=ascii_file, width=WIDTH, color_system=None, force_jupyter=False).print(shown)
    return [line.rstrip() for line in written.getvalue().decode("ascii").split("\n") if line.strip()]


@contextmanager
def progress_on(console: Console, work: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar on a terminal, and a line for each finished part elsewhere.

    Parameters
    ----------
    console
        The console.
    work
        Name of the work; starts each line.

    Yields
    ------
    progress
        Function to call with the name of the finished part, the number done and the total.
    """
    started = time.monotonic()
    if not console.is_terminal:
        line = "{0}: {2} of {3} after {4:.0f} s: {1}".format
        yield lambda *told: console.print(
            line(work, *told, time.monotonic() - started), markup=False, highlight=False, soft_wrap=True
        )
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("starting")
        yield lambda name, done, count: bar.update(task, description=name, completed=done, total=count)
