"""Tables for a terminal of 80 columns: words wrap, numbers are never truncated, names from peers are plain text."""

from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from knot_fed.runs.log import printable
from knot_fed.system.terminal import IN_ASCII


class PlainText:
    """Untrusted text without markup, in ASCII where the terminal has nothing else."""

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
    """Return a table whose columns of words wrap, even inside a word, while those of numbers do not.

    Parameters
    ----------
    words, numbers
        Headings of the columns, words first.
    rows
        Cells in the order of the headings.
    title, caption
        Texts above and below the table.
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
    """Return untrusted text for a terminal, without markup and control characters."""
    return PlainText(printable(str(text)))


def cause(status: str) -> str:
    """Return a status without its reason.

    Examples
    --------
    >>> cause("refused: this node keeps its texts"), cause("no answer")
    ('refused', 'no answer')
    """
    return status.partition(":")[0]


def reasons(told: Iterable[tuple[str, str]]) -> list[PlainText]:
    """Return a line for each name whose status has a reason, for which a table has no space."""
    return [plain(f"{name}: {status}") for name, status in told if cause(status) != status]


def rounded(value: float) -> str:
    """Format a metric with three decimals, or four significant digits from 1000 on.

    Examples
    --------
    >>> rounded(1.00649), rounded(1234567.0)
    ('1.006', '1.235e+06')
    """
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"
