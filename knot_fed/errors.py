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
    """Note on an unexpected error in which phase of a run it was raised; the innermost phase counts."""
    try:
        yield
    except Exception as error:
        if not getattr(error, "__notes__", None):
            error.add_note(f"{PHASE}{name}")
        raise


def told_error(error: BaseException, package: str = "knot_fed", *, of: str = "the run") -> str:
    """Tell an unexpected error by phase, class and place, and not by its text, which may quote data.

    Parameters
    ----------
    error
        What was raised; a `phase` around it is named.
    package
        Whose code the place begins in.
    of
        What failed, where no phase says so.

    Examples
    --------
    >>> try:
    ...     with phase("distillation"):
    ...         1 / 0
    ... except ZeroDivisionError as error:
    ...     told_error(error).partition(" at ")[0]
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
        The sentence, for whoever runs the machine where it is raised.
    refusal
        What a peer is told instead, where the message names what belongs to this machine's owner; empty: the message.
    """

    def __init__(self, message: str, *, refusal: str = "") -> None:
        super().__init__(message)
        self._refusal = refusal

    @property
    def refusal(self) -> str:
        """The sentence that may leave the machine of a data owner."""
        return self._refusal or str(self)


class ConfigError(KnotError):
    """A run or node configuration that cannot be used."""


class OwnCodeError(ConfigError):
    """A user's own function that cannot be used.

    Parameters
    ----------
    message
        The sentence.
    calls
        The user's own part of the traceback, for her terminal only; empty: there is none.
    """

    def __init__(self, message: str, *, calls: str = "") -> None:
        super().__init__(message)
        self.calls = calls


class OwnModelError(OwnCodeError):
    """A user's own model that cannot be built; what its code raises may quote what belongs to its owner's machine."""

    @property
    def refusal(self) -> str:
        """The sentence that may leave the machine of a data owner."""
        return "the function of this client's own model cannot be used; its owner finds why in the client's own log"


class DataError(KnotError):
    """A data file that breaks a rule; the message names file, rule and count of rows, and quotes no text.

    Its refusal tells the rule only, with the file and its columns by their roles.
    """

    role = "a file of this client"

    @property
    def refusal(self) -> str:
        """The sentence that may leave the machine of a data owner."""
        return f"{self.role}: {self._refusal or 'cannot be used'}; its owner finds the details in the client's own log"


class LabelSpaceError(KnotError):
    """Label names or coordinates that do not form a label space."""


class GroundCostError(KnotError):
    """A ground cost that is not what the solver needs; the message names the pair of labels."""


class SoftLabelsError(KnotError):
    """Soft labels that are not finite rows on the probability simplex."""


class ModelError(KnotError):
    """A classifier that cannot be built, saved or loaded."""


class WireError(KnotError):
    """A message that does not follow the protocol."""


class PolicyError(KnotError):
    """A request that the client's own release policy refuses."""


class PrivacyError(KnotError):
    """A privacy mechanism that cannot run, or a guarantee that cannot be had; nothing leaves then."""


class FederationError(KnotError):
    """A federation that cannot continue, such as one with too few teachers."""


class RunFolderError(KnotError):
    """A run folder that is missing, incomplete or already taken."""


class CredentialsError(KnotError):
    """Keys or certificates that are missing, taken already, or not what they should be."""


class DamagedError(KnotError):
    """A kept file that is not as it was written."""


def writing_failed(error: OSError, *, then: str = "") -> str:
    """Say why a file could not be written, and what helps: a full disk needs something else than a wrong owner.

    Parameters
    ----------
    error
        What was raised.
    then
        What to do once that is mended; empty: nothing more.

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
    errno.ELOOP: "mend the symbolic links of its path",
    errno.ENAMETOOLONG: "use a shorter path",
}


def shown(value: object) -> str:
    """Return a value as an error quotes it, cut where it is long; no peer's value fills a message or a log.

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
