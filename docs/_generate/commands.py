"""Put all commands, with their arguments and options, into `reference/commands.md` in the place of its mark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mkdocs_gen_files
import typer
import typer.main

from knot_fed.cli.boundary import without_traceback
from knot_fed.cli.main import app
from knot_fed.cli.simulate import simulate

PAGE = "reference/commands.md"
MARK = "<!-- commands -->"


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Return all commands below one, each with its full name."""
    below = getattr(command, "commands", {})
    yield name, command
    for each, inner in below.items():
        yield from commands(inner, f"{name} {each}")


def section(name: str, command: Any) -> str:
    """Return the section of one command: its help, how it is called, and its parameters."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    below = getattr(command, "commands", {})
    usage = " ".join(
        [name, *(["[OPTIONS]"] if options else []), *map(metavar, arguments), *(["COMMAND"] if below else [])]
    )
    parts = [f"## `{name}`", help_of(command), f"```text\n{usage}\n```"]
    if below:
        links = [
            f"[`{each}`](#{name} {each}) ".replace(f"#{name} {each}", f"#{anchor(f'{name} {each}')}") for each in below
        ]
        parts.append(f"Commands: {', '.join(link.strip() for link in links)}.")
    if arguments:
        parts.append("| argument | meaning |\n| --- | --- |\n" + "".join(map(argument_row, arguments)))
    if options:
        parts.append(
            "| option | value | default | meaning |\n| --- | --- | --- | --- |\n" + "".join(map(option_row, options))
        )
    return "\n\n".join(part.rstrip() for part in parts if part)


def anchor(name: str) -> str:
    """Return the anchor of a command's heading."""
    return name.replace(" ", "-")


def help_of(command: Any) -> str:
    """Return a command's help; its line breaks within a paragraph mean nothing."""
    return "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))


def argument_row(argument: Any) -> str:
    """Return the row of an argument."""
    return f"| `{metavar(argument)}` | {cell(argument.help or '')} |\n"


def option_row(option: Any) -> str:
    """Return the row of an option."""
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f"`{metavar(option)}`"
    variable = f"; environment variable `{option.envvar}`" if option.envvar else ""
    return f"| {names} | {value} | {default_of(option)} | {cell((option.help or '').rstrip('.') + variable)} |\n"


def metavar(parameter: Any) -> str:
    """Return the name of a parameter's value."""
    if parameter.metavar:
        return str(parameter.metavar)
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    choices = getattr(parameter.type, "choices", None)
    if choices:
        return " or ".join(str(getattr(choice, "value", choice)) for choice in choices)
    bounds = (("≥", getattr(parameter.type, "min", None)), ("≤", getattr(parameter.type, "max", None)))
    within = "".join(f" {sign} {bound:,}" for sign, bound in bounds if bound is not None)
    return str(parameter.type.name).upper().removesuffix(" RANGE") + within


def default_of(option: Any) -> str:
    """Return an option's default, or that it is required."""
    if option.required:
        return "required"
    value = getattr(option.default, "value", option.default)
    if value is None or value == "" or (option.is_flag and not option.secondary_opts) or callable(value):
        return ""
    return f"`--{option.name}`" if option.is_flag and value else f"`{value}`"


def cell(text: str) -> str:
    """Return text for a table's cell."""
    return text.replace("|", "\\|").replace("<", "&lt;")


simulation = typer.Typer(add_completion=False)
simulation.command()(without_traceback("flower-simulation", simulate))
found = [
    *commands(typer.main.get_command(simulation), "flower-simulation"),
    *commands(typer.main.get_command(app), "knot-fed"),
]
text = (Path("docs") / PAGE).read_text(encoding="utf-8")
if MARK not in text:
    raise SystemExit(f"{PAGE}: expected {MARK}")
with mkdocs_gen_files.open(PAGE, "w") as page:
    page.write(text.replace(MARK, "\n\n".join(section(name, command) for name, command in found)))
