"""The one place where errors become a sentence and an exit code."""

import os
import traceback
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path

import typer

from knot_fed.config.plugins import OWN_CODE
from knot_fed.errors import KnotError, OwnCodeError
from knot_fed.system.stopping import stoppable

DEBUG = "KNOT_FED_DEBUG"


def without_traceback(program: str, command: Callable[..., None]) -> Callable[..., None]:
    """Return the command, which then prints any error in one sentence and exits with 1.

    A signal that stops it is told in one sentence too, and gives the exit code of that signal.

    A user's own code is shown by its own part of the traceback, and nothing else is: where the fault is ours, the
    sentence says in which file, and `KNOT_FED_DEBUG=1` shows the calls, without local variables.

    Parameters
    ----------
    program
        What the user called; it stands before the sentence.
    command
        The command; its signature is kept.
    """

    @wraps(command)
    def guarded(*args: object, **options: object) -> None:
        os.environ.setdefault(OWN_CODE, str(Path.cwd()))
        try:
            with stoppable(program):
                command(*args, **options)
        except (typer.Exit, typer.Abort):
            raise
        except OwnCodeError as error:
            typer.echo(error.calls, err=True, nl=False)
            _end(program, str(error))
        except KnotError as error:
            _end(program, str(error))
        except OSError as error:
            _end(program, _told(error), error)
        except Exception as error:
            _end(program, _fault(error), error)

    return guarded


guarded = partial(without_traceback, "knot-fed")


def _end(program: str, sentence: str, error: BaseException | None = None) -> None:
    if error is not None and os.environ.get(DEBUG):
        traceback.print_exception(error)
    typer.echo(f"{program}: {sentence}", err=True)
    raise typer.Exit(1) from None


def _told(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{(error.strerror or type(error).__name__).lower()}; mend that and call again"


def _fault(error: Exception) -> str:
    """Say where a fault of ours is, and nothing that it was about."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(last.filename).name}, line {last.lineno}"
    return f"a fault of knot_fed ({type(error).__name__} in {place}); report it, with what {DEBUG}=1 shows"
