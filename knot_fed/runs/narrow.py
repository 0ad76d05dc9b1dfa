"""Tables for a terminal of 80 columns: words fold, numbers are never cut, and whatever anybody named is plain text."""

from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from knot_fed.runs.log import printable
from knot_fed.system.terminal import IN_ASCII


class PlainText:
    """What anybody may have named, without markup; measured and shown with the signs that the terminal has."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show it."""
        yield self._shown(options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Measure what is shown."""
        return Measurement.get(console, options, self._shown(options))

    def _shown(self, options: ConsoleOptions) -> Text:
        return Text(self._text.translate(IN_ASCII) if options.ascii_only else self._text, overflow="fold")


def narrow_table(
    words: Sequence[str],
    numbers: Sequence[str] = (),
    *,
    rows: Iterable[Sequence[object]],
    title: str = "",
    caption: str = "",
) -> Table:
    """Return a table whose words wrap, inside a long one too, so that its numbers stay whole.

    Parameters
    ----------
    words, numbers
        Headings, words first; numbers together have to leave some room of 80 columns to the words.
    rows
        Cells in the order of the headings.
    title, caption
        Above and below.
    """
    above, below = (escape(printable(text)) if text else None for text in (title, caption))
    table = Table(title=above, caption=below)
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def plain(text: object) -> PlainText:
    """Return what anybody may have named as plain text for a terminal, without markup and control characters."""
    return PlainText(printable(str(text)))


def cause(status: str) -> str:
    """Return the first word or two of a status, before its reason.

    Examples
    --------
    >>> cause("refused: this node keeps its texts"), cause("no answer")
    ('refused', 'no answer')
    """
    return status.partition(":")[0]


def reasons(told: Iterable[tuple[str, str]]) -> list[PlainText]:
    """Return a line for each name whose status has a reason, which a table has no room for."""
    return [plain(f"{name}: {status}") for name, status in told if cause(status) != status]


def rounded(value: float) -> str:
    """Return a measure with three places, or four digits where it is large.

    Examples
    --------
    >>> rounded(1.00649), rounded(1234567.0)
    ('1.006', '1.235e+06')
    """
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"
