"""`knot-fed privacy`: the releases of a client, and the noise for a guarantee."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knot_fed.cli.boundary import guarded
from knot_fed.errors import PolicyError
from knot_fed.system.terminal import echo_line, make_console

if TYPE_CHECKING:
    from knot_fed.privacy.ledger.ledger import Ledger

privacy = typer.Typer(no_args_is_help=True, help="Inspect a client's ledger; compute the noise for a guarantee.")
console = make_console()


@privacy.command()
@guarded
def show(
    client_state: Annotated[Path, typer.Argument(help="A client's state folder, with its ledger.jsonl.")],
    policy: Annotated[Path | None, typer.Option(help="The client's policy file, for its delta and limits.")] = None,
) -> None:
    """Print all releases of a client with their total privacy cost."""
    from knot_fed.deployment.owner_tables import ledger_tables
    from knot_fed.federation.client.settings import read_policy
    from knot_fed.privacy.ledger.ledger import texts_released
    from knot_fed.privacy.ledger.spending import spent_in_life
    from knot_fed.privacy.policy_checks import total_epsilon

    ledger = _ledger(client_state)
    owner = read_policy(str(policy or ""))
    entries = ledger.entries()
    console.print(*ledger_tables(entries))
    for unit in ("record", "client"):
        spent = total_epsilon(spent_in_life(entries, unit), owner.delta)
        said = f"epsilon {spent:.4g} at delta {owner.delta:g}" if math.isfinite(spent) else "no guarantee"
        limit = f" of max-epsilon = {owner.max_epsilon:g}" if owner.max_epsilon and unit == owner.unit else ""
        console.print(f"together, for each {unit}: {said}{limit}", highlight=False)
    measured = sum(entry.evaluations for entry in entries)
    console.print(f"texts: {texts_released(entries):.0f}; students measured: {measured}", highlight=False)


@privacy.command()
@guarded
def recover(
    client_state: Annotated[Path, typer.Argument(help="A client's state folder, whose ledger is damaged.")],
) -> None:
    """Repair a damaged ledger; lost entries count as the whole budget, and the old file is kept."""
    ledger = _ledger(client_state)
    try:
        ledger.check()
    except PolicyError as error:
        echo_line(console, str(error))
        echo_line(console, f"recovered: {ledger.recover()}")
    else:
        console.print("the ledger is intact; nothing was changed", markup=False, highlight=False)


def _ledger(client_state: Path) -> "Ledger":
    from knot_fed.privacy.ledger.ledger import Ledger

    ledger = Ledger(client_state)
    if not ledger.exists:
        raise PolicyError(f"{client_state}: no ledger; give the state folder of a client that has answered a server")
    return ledger


@privacy.command()
@guarded
def cost(
    texts: Annotated[int, typer.Option(min=1, help="Number of texts in the transfer set.")],
    epsilon: Annotated[float, typer.Option(help="Target epsilon for all texts together.")],
    delta: Annotated[float, typer.Option(help="Target delta; below one over the number of examples.")] = 1e-5,
    labels: Annotated[int, typer.Option(min=2, help="Number of labels.")] = 5,
    shards: Annotated[int, typer.Option(min=2, help="Number of PATE teachers.")] = 20,
) -> None:
    """Print the noise that each mechanism adds to a soft label, and how many texts stay legible.

    A soft label is legible if the noise in each entry is at most a uniform entry, 1 / labels.
    """
    from knot_fed.config import MECHANISMS
    from knot_fed.mechanisms import noise_in_rows
    from knot_fed.privacy.accounting import gaussian_epsilon, noise_for_gaussian
    from knot_fed.runs.narrow import narrow_table

    noise = noise_for_gaussian(epsilon=epsilon, delta=delta, sensitivity=1.0, releases=texts)
    spreads = noise_in_rows(noise, shards=shards)
    rows = [[label, unit, f"{spread:.4g}", str(int(texts / (spread * labels) ** 2))] for label, unit, spread in spreads]
    table = narrow_table(
        ["mechanism", "unit"], ["noise", "legible texts"], rows=rows, caption="noise: in each entry of a soft label"
    )
    console.print(f"{texts} texts, epsilon {epsilon:g}, delta {delta:g}, {labels} labels, {shards} shards:")
    console.print(table)
    one = gaussian_epsilon(noise_std=noise, sensitivity=1.0, releases=1, delta=delta)
    console.print(f"one text alone, with the noise of {spreads[0][0]}, costs epsilon {one:.4g}", highlight=False)
    for name, facts in MECHANISMS.items():
        if facts.noise_on == "teacher":
            covered = "no noise on soft labels; a teacher's epsilon covers any number of texts"
            console.print(f"{name}: {covered}", highlight=False)
