"""Decoding of data files as UTF-8, and the check for characters that no model or message can carry."""

import re

from knot_fed.data.reading.table import Table
from knot_fed.errors import DataError
from knot_fed.types import Text

UTF_16 = ("is UTF-16", "save it as UTF-8, such as by iconv -f UTF-16 -t UTF-8")
LEGACY = "save the file as UTF-8, such as by iconv -f WINDOWS-1252 -t UTF-8 if it is from an older Windows program"
SIGNATURES = {
    b"\xff\xfe": UTF_16,
    b"\xfe\xff": UTF_16,
    b"\x1f\x8b": ("is compressed", "end its name with .gz"),
    b"PK\x03\x04": ("is a zip file or a workbook such as .xlsx", "save it as CSV UTF-8"),
    b"PAR1": ("is a parquet file", "end its name with .parquet"),
}
"""First bytes of files that are not plain text: what the file is, and the remedy."""
START = 200
"""Leading bytes in which UTF-16 without a byte order mark, which is valid UTF-8, is recognised by its zeros."""
BROKEN = re.compile("[\0\ud800-\udfff]")


def decoded(content: bytes, *, name: str) -> str:
    """Decode a file as UTF-8 and drop a byte order mark; a `DataError` names the line that cannot be decoded."""
    start = content[:START]
    if start.count(0) > len(start) // 4:
        raise DataError(f"{name}: not UTF-8 but UTF-16; {UTF_16[1]}", refusal="not UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = (kind for signature, kind in SIGNATURES.items() if content.startswith(signature))
        what, remedy = next(found, (f"line {line}", LEGACY))
        raise DataError(f"{name}: not UTF-8 at byte {error.start} ({what}); {remedy}", refusal="not UTF-8") from None


def check_characters(texts: tuple[Text, ...], table: Table, *, name: str) -> None:
    r"""Refuse texts with a lone surrogate (half an emoji, for example) or a NUL byte.

    Examples
    --------
    >>> bool(BROKEN.search("\U0001f600")), bool(BROKEN.search("\ud83d"))
    (False, True)
    """
    broken = [
        row for row, text in enumerate(texts) if any(map(BROKEN.search, [text] if isinstance(text, str) else text))
    ]
    if broken:
        raise DataError(
            f"{name}: {table.at(broken)}: {len(broken)} of {len(texts)} texts contain a lone surrogate (half a"
            " character) or a NUL byte; cut texts between whole characters and remove NUL bytes",
            refusal="some texts contain a lone surrogate or a NUL byte",
        )
