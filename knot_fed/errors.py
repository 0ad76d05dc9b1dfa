"""Errors that a user can act on: each message is one sentence with what, where, what was found and the remedy."""

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PHASE = "phase: "
"""Before the phase in the notes of an unexpected error."""


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Note the phase of a run on an unexpected error raised in it; the innermost phase wins."""
    try:
        yield
    except Exception as error:
        if not getattr(error, "__notes__", None):
            error.add_note(f"{PHASE}{name}")
        raise


def describe_error(error: BaseException, package: str = "knot_fed", *, of: str = "the run") -> str:
    """Describe an unexpected error by phase, class and location; its own text may quote data and is left out.

    Parameters
    ----------
    error
        The exception; its innermost `phase` is named.
    package
        The location starts at the last frame in this package.
    of
        What failed, if no phase is known.

    Examples
    --------
    >>> try:
    ...     with phase("distillation"):
    ...         1 / 0
    ... except ZeroDivisionError as error:
    ...     describe_error(error).partition(" at ")[0]
    'distillation failed with ZeroDivisionError'
    """
    notes = [note.removeprefix(PHASE) for note in getattr(error, "__notes__", []) if note.startswith(PHASE)]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [place for place, frame in enumerate(frames) if package in Path(frame.filename).parts]
    inner = frames[ours[-1] if ours else 0 :]
    places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} ({frame.name})" for frame in inner)
    return f"{(notes or [of])[0]} failed with {type(error).__name__} at {places}"


class KnotError(Exception):
    """Base of every error that knot_fed raises on purpose; commands print it without a traceback.

    Parameters
    ----------
    message
        The sentence for the operator of the machine on which it is raised.
    refusal
        The sentence that peers receive instead, if the message names private details; empty: the message.
    """

    def __init__(self, message: str, *, refusal: str = "") -> None:
        super().__init__(message)
        self._refusal = refusal

    @property
    def refusal(self) -> str:
        """The sentence that may leave the data owner's machine."""
        return self._refusal or str(self)


class ConfigError(KnotError):
    """An invalid run or node configuration."""


class PluginError(ConfigError):
    """A plug-in function that cannot be loaded or fails.

    Parameters
    ----------
    message
        The sentence.
    calls
        The part of the traceback in the user's code, for the user's terminal only; may be empty.
    """

    def __init__(self, message: str, *, calls: str = "") -> None:
        super().__init__(message)
        self.calls = calls


class PluginModelError(PluginError):
    """A plug-in model that cannot be built; the error of its code may quote private data, so peers do not see it."""

    @property
    def refusal(self) -> str:
        """The sentence that may leave the data owner's machine."""
        return "the function of this client's own model cannot be used; its owner finds why in the client's own log"


class DataError(KnotError):
    """An invalid data file; the message gives file, rule and number of rows, never a text.

    The refusal gives the rule only, and names the file and its columns by their roles.
    """

    role = "a file of this client"

    @property
    def refusal(self) -> str:
        """The sentence that may leave the data owner's machine."""
        return f"{self.role}: {self._refusal or 'cannot be used'}; its owner finds the details in the client's own log"


class LabelSpaceError(KnotError):
    """Label names or coordinates that do not form a label space."""


class GroundCostError(KnotError):
    """An invalid ground cost; the message names the pair of labels."""


class SoftLabelsError(KnotError):
    """Soft labels that are not finite rows on the probability simplex."""


class ModelError(KnotError):
    """A classifier that cannot be built, saved or loaded."""


class WireError(KnotError):
    """A message that does not follow the protocol."""


class PolicyError(KnotError):
    """A request that the client's release policy refuses."""


class PrivacyError(KnotError):
    """A privacy mechanism that cannot run, or an unattainable guarantee; nothing leaves the client."""


class FederationError(KnotError):
    """A federation that cannot continue, for example with too few teachers."""


class RunFolderError(KnotError):
    """A run folder that is missing, incomplete or already exists."""


class CredentialsError(KnotError):
    """Keys or certificates that are missing, invalid or already exist."""


class DamagedError(KnotError):
    """A stored file that has changed since it was written."""


def writing_failed(error: OSError, *, then: str = "") -> str:
    """Say why a file could not be written, with the remedy for that cause.

    Parameters
    ----------
    error
        The exception.
    then
        What to do after the remedy; may be empty.

    Examples
    --------
    >>> writing_failed(OSError(errno.ENOSPC, "No space left on device"), then="resume the run")
    'no space left on device; make room on the disk, then resume the run'
    """
    remedy = _REMEDIES.get(error.errno or 0, "look at that folder")
    return f"{(error.strerror or type(error).__name__).lower()}; {remedy}{then and f', then {then}'}"


_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room on the disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "let the user that runs this write there"),
    errno.EROFS: "use a folder that is not read-only",
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "a file stands where a folder is needed: move it away"),
    errno.ELOOP: "correct the symbolic links of its path",
    errno.ENAMETOOLONG: "use a shorter path",
}


def shown(value: object) -> str:
    """Quote a value for an error, truncated, so that no value from a peer fills a message or a log.

    Examples
    --------
    >>> shown(0.5), shown("one" * 1000)
    ('0.5', "'oneoneoneoneoneoneoneone...' (3000 characters)")
    """
    if isinstance(value, str):
        return repr(value) if len(value) <= 80 else f"{value[:24] + '...'!r} ({len(value)} characters)"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, bool | int | float):
        return repr(value)
    return f"a {type(value).__name__}"
