"""`knot-fed`: start projects, prepare data, run and study federations, inspect runs, predict with students."""

import typer

from knot_fed.cli.boundary import guarded
from knot_fed.cli.check_data import check_data
from knot_fed.cli.distil import distil
from knot_fed.cli.export import export
from knot_fed.cli.new import new
from knot_fed.cli.options import Version
from knot_fed.cli.owner.client import app as client
from knot_fed.cli.owner.credentials import credentials
from knot_fed.cli.owner.privacy import privacy
from knot_fed.cli.prepare import prepare
from knot_fed.cli.runs import predict, report, show
from knot_fed.cli.status import status
from knot_fed.cli.study.audit import audit
from knot_fed.cli.study.frontier import frontier
from knot_fed.cli.study.sweep import sweep
from knot_fed.cli.submit import submit

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Start projects, prepare data, run and study federations, inspect runs, predict with students.",
)


@app.callback()
def main(_: Version = False) -> None:
    """Start projects, prepare data, run and study federations, inspect runs, predict with students."""


for command in (
    new,
    check_data,
    show,
    report,
    predict,
    export,
    distil,
    sweep,
    submit,
    status,
    audit,
    frontier,
    prepare,
):
    app.command()(guarded(command))
for name, group in (("client", client), ("credentials", credentials), ("privacy", privacy)):
    app.add_typer(group, name=name)
