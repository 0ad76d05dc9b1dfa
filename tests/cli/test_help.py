"""Help is instant and complete: nothing slow is loaded, and every argument and option says what it is."""

import subprocess
import sys

import click
import pytest
import typer
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.cli.simulate import simulate

SLOW = {"torch", "transformers", "flwr", "scipy", "pandas", "pyarrow", "sklearn", "numba", "ot", "matplotlib", "ray"}


def commands(group, words=()):
    """Walk the commands; yields the words that call one, and the command."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def simulation():
    single = typer.Typer()
    single.command()(simulate)
    return typer.main.get_command(single)


ALL = [*commands(typer.main.get_command(app)), (("flower-simulation",), simulation())]


@pytest.mark.parametrize("module", ["knot_fed.cli.main", "knot_fed.cli.simulate"])
def test_a_command_loads_nothing_slow_before_it_is_called(module):
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not SLOW & set(loaded)


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_every_argument_and_option_is_described_in_the_help(words, command):
    undescribed = [param.name for param in command.params if not getattr(param, "help", "")]
    assert undescribed == []
    context = click.Context(command, info_name=words[-1], terminal_width=200)
    assert command.help
    assert all(param.get_help_record(context) for param in command.params if isinstance(param, click.Option))


def test_the_help_of_arguments_reaches_the_terminal():
    """It did not with typer 0.20 on click 8.5."""
    for words, said in ((["prepare"], "amazon"), (["sweep"], "the last one wins"), (["show"], "Run folder")):
        shown = " ".join(CliRunner().invoke(app, [*words, "--help"]).stdout.replace("│", " ").split())
        assert said in shown


def test_every_command_that_runs_something_takes_its_configuration_the_same_way():
    taking = {words[-1]: {param.name for param in command.params} for words, command in ALL}
    for name in ("flower-simulation", "sweep", "audit", "submit", "check"):
        assert {"configs", "run_config"} <= taking[name]


def test_the_version_is_told():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("knot-fed ")
