"""`knot-fed export`: a run's student as a whole transformers folder, in ONNX, and on the hub."""

from pathlib import Path
from typing import Annotated

import typer

from knot_fed.cli.runs import Run
from knot_fed.errors import ConfigError
from knot_fed.system.terminal import echo_line, make_console

console = make_console()


def export(
    run: Run,
    to: Annotated[Path, typer.Option(help="New folder, or an earlier export, which is replaced.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write model.onnx; needs the extra onnx.")] = False,
    push_to_hub: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="Also upload the folder to this model repository of the hub.")
    ] = "",
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Write the student as a whole model folder that transformers loads, and check its answers."""
    if private and not push_to_hub:
        raise ConfigError("--private is of a repository of the hub; give --push-to-hub OWNER/NAME too")
    from knot_fed.models import use_threads
    from knot_fed.publishing.export import check_target, export_student
    from knot_fed.publishing.hub import check_repo, push_folder
    from knot_fed.runs.run_folder import RunFolder

    folder = RunFolder.open(run)
    check_target(to)
    if push_to_hub:
        check_repo(push_to_hub)
    use_threads(0)
    found = export_student(folder, to, onnx=onnx, place=push_to_hub)
    echo_line(console, f"{to}: probabilities differ from the student's by at most {found.difference:.1e}")
    if found.onnx_difference is not None:
        echo_line(console, f"{to / 'model.onnx'}: by at most {found.onnx_difference:.1e}")
    if found.code:
        echo_line(console, f"it contains model code ({', '.join(found.code)}): load it with trust_remote_code=True")
    if push_to_hub:
        echo_line(console, push_folder(to, push_to_hub, private=private))
