"""Turns errors into one sentence and an exit code."""

import os
import traceback
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path

import typer

from knot_fed.config.plugins import PLUGIN_FOLDER
from knot_fed.errors import KnotError, PluginError
from knot_fed.system.stopping import stoppable

DEBUG = "KNOT_FED_DEBUG"


def without_traceback(program: str, command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command so that it prints any error in one sentence and exits with 1, or with a signal's exit code.

    An error in the user's own code shows its part of the traceback. For a bug of knot_fed the sentence names the file,
    and `KNOT_FED_DEBUG=1` prints the traceback, without local variables.

    Parameters
    ----------
    program
        Name of the program; starts the sentence.
    command
        The command; its signature is preserved.
    """

    @wraps(command)
    def guarded(*args: object, **options: object) -> None:
        os.environ.setdefault(PLUGIN_FOLDER, str(Path.cwd()))
        try:
            with stoppable(program):
                command(*args, **options)
        except (typer.Exit, typer.Abort):
            raise
        except PluginError as error:
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
    return f"{place}{(error.strerror or type(error).__name__).lower()}; correct that and run it again"


def _fault(error: Exception) -> str:
    """Describe a bug of knot_fed by its location, without the error's text, which may be private."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(last.filename).name}, line {last.lineno}"
    return f"a bug in knot_fed ({type(error).__name__} in {place}); report it with the output of {DEBUG}=1"
