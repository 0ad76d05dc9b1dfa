"""What all commands share on the terminal: a console, and errors without a traceback."""

import sys
from collections.abc import Callable
from functools import wraps

import typer
from rich.console import Console

from knot_fed.errors import KnotError


def make_console(width: int) -> Console:
    """Return a console for standard output; where that is no terminal, tables are so many letters wide."""
    return Console(width=None if sys.stdout.isatty() else width)


def without_traceback(program: str, command: Callable[..., None]) -> Callable[..., None]:
    """Return the command, which then prints an error that a user can act on in one sentence and exits with 1.

    Parameters
    ----------
    program
        What the user called; it stands before the sentence.
    command
        The command; its signature is kept.
    """

    @wraps(command)
    def guarded(*args: object, **options: object) -> None:
        try:
            command(*args, **options)
        except KnotError as error:
            typer.echo(f"{program}: {error}", err=True)
            raise typer.Exit(1) from None

    return guarded
