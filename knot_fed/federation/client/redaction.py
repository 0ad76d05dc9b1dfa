"""What an error may tell a peer: the sentence without the folders of the machine that it comes from."""

import re
from collections.abc import Iterable
from pathlib import Path

_SCHEME = r"(?:[A-Za-z][A-Za-z0-9+.-]+:(?://)?)"
_START = rf"{_SCHEME}?(?:[A-Za-z]:|~\w*|\.{{1,2}})?[/\\]"
_CLAUSE = r"(?:(?!;\s|:\s|['\"()\n]).)"
_ABSOLUTE = re.compile(rf"(?<![\w.~]){_START}(?=\S)(?:{_CLAUSE}*[/\\])?")
_RELATIVE = re.compile(r"(?<![\w:])[\w.+-]+[/\\](?:[\w.+-]+[/\\])+")
_QUOTED = re.compile(rf"(['\"])({_START}.*?)\1", re.DOTALL)
_KEPT_SCHEME = "hf:"


def without_folders(text: str, *, known: Iterable[str] = ()) -> str:
    r"""Remove the folders from all that looks like a path, and leave the last component.

    Too much is removed rather than too little: an unquoted path with spaces ends at the last separator of its clause.

    Parameters
    ----------
    text
        A sentence.
    known
        Paths of this machine, whose folders are removed whatever letters they hold.

    Examples
    --------
    >>> without_folders("model 'hf:/home/ada/models/bert' cannot be loaded")
    "model 'hf:bert' cannot be loaded"
    >>> without_folders(r"C:\Users\Ada\My notes\a.csv: no such file")
    'a.csv: no such file'
    """
    for folder in _folders(known):
        text = text.replace(folder, "")
    text = _QUOTED.sub(lambda found: found[1] + _last(found[2]) + found[1], text)
    text = _ABSOLUTE.sub(lambda found: _KEPT_SCHEME if found[0].startswith(_KEPT_SCHEME) else "", text)
    return _RELATIVE.sub("", text)


def _folders(known: Iterable[str]) -> list[str]:
    """Return the known paths and all folders above them with a separator behind, the longest first."""
    paths = [Path(path.removeprefix(_KEPT_SCHEME)) for path in known]
    folders = {str(folder) for path in paths if path.is_absolute() for folder in (path, *path.parents[:-1])}
    spelt = {spelling for folder in folders for spelling in (folder, repr(folder)[1:-1])}
    return sorted((f"{folder}/" for folder in spelt), key=len, reverse=True)


def _last(path: str) -> str:
    scheme = _KEPT_SCHEME if path.startswith(_KEPT_SCHEME) else ""
    parts = [part for part in re.split(r"[/\\]+", path.removeprefix(_KEPT_SCHEME)) if part]
    return scheme + (parts[-1] if parts else "")
