"""Whatever goes wrong, a command says it in one sentence, without a traceback and without values."""

import pytest
import typer
from typer.testing import CliRunner

from knot_fed.cli.boundary import DEBUG, guarded
from knot_fed.cli.main import app
from knot_fed.errors import ConfigError, PluginError

SECRET = "what only the owner may read"


def outcome_of(error, **environment):
    def failing():
        text = SECRET  # noqa: F841  (a local variable, as a traceback with values would show it)
        raise error

    single = typer.Typer(pretty_exceptions_enable=False)
    single.command()(guarded(failing))
    return CliRunner().invoke(single, [], env=environment)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConfigError("seed is missing; give one"), "knot-fed: seed is missing; give one\n"),
        (KeyError(SECRET), "knot-fed: a bug in knot_fed (KeyError in test_boundary.py, line "),
        (PermissionError(13, "Permission denied", "/root/x"), "knot-fed: /root/x: permission denied; correct that"),
        (MemoryError(), "knot-fed: a bug in knot_fed (MemoryError in "),
    ],
)
def test_an_error_is_one_sentence_and_tells_no_value(error, sentence):
    result = outcome_of(error)
    assert result.exit_code == 1
    assert result.stderr.startswith(sentence)
    assert result.stderr.count("\n") == 1
    assert SECRET not in result.output


def test_a_fault_shows_its_calls_when_asked_and_no_local_variable():
    result = outcome_of(ValueError("odd"), **{DEBUG: "1"})
    assert "Traceback" in result.stderr
    assert "test_boundary.py" in result.stderr
    assert f"text = '{SECRET}'" not in result.stderr


def test_a_users_own_code_is_shown_by_its_own_calls():
    result = outcome_of(PluginError("distill.loss = 'mine:loss': raised", calls='File "mine.py", line 3\n'))
    assert result.stderr == "File \"mine.py\", line 3\nknot-fed: distill.loss = 'mine:loss': raised\n"


@pytest.mark.parametrize("arguments", [["show", "absent"], ["report", "absent"], ["predict", "absent", "--text", "x"]])
def test_a_folder_that_is_no_run_is_told_in_one_sentence(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "absent" in result.stderr
