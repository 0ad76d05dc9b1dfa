"""Bytes to characters: UTF-8 and nothing else, and no text that no model and no message can carry."""

import re

from knot_fed.data.reading.table import Table
from knot_fed.errors import DataError
from knot_fed.types import Text

KINDS = {
    b"\xff\xfe": "is UTF-16; save it as UTF-8, such as by iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8, such as by iconv -f UTF-16 -t UTF-8",
    b"\x1f\x8b": "is compressed; end its name with .gz",
    b"PK\x03\x04": "is a zip file or a workbook such as .xlsx; save it as CSV UTF-8",
    b"PAR1": "is a parquet file; end its name with .parquet",
}
"""What a file that is no text begins with."""
UTF_16 = KINDS[b"\xff\xfe"]
START = 200
"""Bytes in which ASCII as UTF-16 without a mark, which is good UTF-8, shows by its zeros."""
BROKEN = re.compile("[\0\ud800-\udfff]")


def decoded(content: bytes, *, name: str) -> str:
    """Return a file's text, without a byte order mark.

    Raises
    ------
    DataError
        If it is not UTF-8; the message has the line and what helps.
    """
    start = content[:START]
    if start.count(0) > len(start) // 4:
        raise DataError(f"{name}: not UTF-8 but UTF-16; {UTF_16.partition('; ')[2]}", refusal="not UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = next((said for start, said in KINDS.items() if content.startswith(start)), "")
        line = content[: error.start].count(b"\n") + 1
        what = f" ({kind.partition(';')[0]})" if kind else f" (line {line})"
        remedy = kind.partition("; ")[2] or (
            "save the file as UTF-8, such as by iconv -f WINDOWS-1252 -t UTF-8 if it is from an older Windows program"
        )
        raise DataError(f"{name}: not UTF-8 at byte {error.start}{what}; {remedy}", refusal="not UTF-8") from None


def check_characters(texts: tuple[Text, ...], table: Table, *, name: str) -> None:
    r"""Refuse texts with a lone surrogate, as cutting an emoji in half leaves it, or with a NUL byte.

    Raises
    ------
    DataError
        If there are some; the message has their lines.

    Examples
    --------
    >>> bool(BROKEN.search("\U0001f600")), bool(BROKEN.search("\ud83d"))
    (False, True)
    """
    broken = [
        row
        for row, text in enumerate(texts)
        if any(BROKEN.search(part) for part in ((text,) if isinstance(text, str) else text))
    ]
    if broken:
        raise DataError(
            f"{name}: {table.at(broken)}: {len(broken)} of {len(texts)} texts contain a lone surrogate (half a"
            " character) or a NUL byte; cut texts between whole characters and remove NUL bytes",
            refusal="some texts contain a lone surrogate or a NUL byte",
        )
