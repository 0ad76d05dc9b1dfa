"""Tables on terminals that show less than UTF-8."""

import io

import pytest
from rich.table import Table

from knot_fed.runs.narrow import narrow_table
from knot_fed.system.terminal import IN_ASCII, ascii_lines, make_console


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_table_fits_its_frame_whatever_the_terminal_shows(monkeypatch, encoding):
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding=encoding))
    console = make_console()
    table = Table("SD ↓", "macro-F1 ↑", "κόστος", caption="before → after")
    table.add_row("1.006 → 0.9", ".5 ± .1", "\N{MINUS SIGN}.005 …")
    console.print(table)
    console.file.flush()
    lines = [line for line in shown.getvalue().decode(encoding).splitlines() if line.strip()]
    assert len({len(line) for line in lines[:-1]}) == 1
    assert ("1.006 -> 0.9" in "".join(lines)) == (encoding != "utf-8")


def test_all_signs_that_stand_for_others_are_ascii():
    assert "".join(IN_ASCII.values()).isascii()


def test_a_log_gets_a_narrow_table_in_ascii_that_fits_its_frame():
    table = narrow_table(["domain"], ["SD ↓"], rows=[["κόστος [b]", "1.006 → 0.9"]], caption="before → after")
    *framed, caption = ascii_lines(table)
    assert len({len(line) for line in framed}) == 1
    assert "| ?????? [b] | 1.006 -> 0.9 |" in framed
    assert caption.strip() == "before -> after"
