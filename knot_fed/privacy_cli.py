"""`knot-fed privacy`: what a client has released, and what a guarantee costs."""

import math
import tomllib
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from knot_fed.errors import PolicyError
from knot_fed.federation.ledger import Ledger
from knot_fed.privacy.accounting import gaussian_epsilon, noise_for_gaussian
from knot_fed.privacy.mechanisms import SQRT2
from knot_fed.privacy.policy import ReleasePolicy, life_epsilon
from knot_fed.terminal import make_console, without_traceback

privacy = typer.Typer(no_args_is_help=True, help="Look at a client's ledger; ask what a guarantee costs.")
console = make_console(120)
_guarded = partial(without_traceback, "knot-fed")


@privacy.command()
@_guarded
def show(
    client_state: Annotated[Path, typer.Argument(help="A client's state folder, with its ledger.jsonl.")],
    policy: Annotated[Path | None, typer.Option(help="The client's policy file, for its delta and limits.")] = None,
) -> None:
    """Print every release of a client, and what they cost together."""
    file = client_state / "ledger.jsonl"
    if not file.is_file():
        raise PolicyError(f"{client_state}: no ledger.jsonl; give the state folder of a client that has released texts")
    owner = ReleasePolicy.from_mapping(tomllib.loads(policy.read_text(encoding="utf-8")) if policy else {})
    entries = Ledger(file).entries()
    table = Table("run", "round", "texts", "mechanism", "unit", "epsilon", "delta", "answer", "cost")
    for entry in entries:
        claim = (f"{entry.epsilon:.3g}", f"{entry.delta:g}") if math.isfinite(entry.epsilon) else ("no guarantee", "")
        table.add_row(
            entry.run, str(entry.round), str(entry.texts), entry.mechanism, entry.unit, *claim, entry.answer[:12],
            "new" if entry.new else "none: given before",
        )  # fmt: skip
    console.print(table)
    for unit in ("record", "client"):
        spent = life_epsilon([entry.event(unit) for entry in entries if entry.new], owner.delta)
        said = f"epsilon {spent:.4g} at delta {owner.delta:g}" if math.isfinite(spent) else "no guarantee"
        limit = f" of max-epsilon = {owner.max_epsilon:g}" if owner.max_epsilon and unit == owner.unit else ""
        console.print(f"together, for each {unit}: {said}{limit}", highlight=False)
    console.print(f"texts: {sum(entry.texts for entry in entries)}", highlight=False)


@privacy.command()
@_guarded
def cost(
    texts: Annotated[int, typer.Option(min=1, help="Texts of the transfer set.")],
    epsilon: Annotated[float, typer.Option(help="Wanted for all texts together.")],
    delta: Annotated[float, typer.Option(help="Below one over the examples.")] = 1e-5,
    labels: Annotated[int, typer.Option(min=2, help="Number of labels.")] = 5,
    shards: Annotated[int, typer.Option(min=2, help="Teachers of pate.")] = 20,
) -> None:
    """Say how much noise each soft label needs under gaussian and pate, and how many texts stay legible under it.

    A soft label can still be read when the noise in each entry is at most as large as a flat entry, 1 / labels.
    """
    noise = noise_for_gaussian(epsilon=epsilon, delta=delta, sensitivity=SQRT2, releases=texts)
    table = Table("mechanism", "unit", "noise in each entry", "legible texts at this epsilon")
    for mechanism, unit, spread in (("gaussian", "client", noise), ("pate, distributions", "record", noise / shards)):
        legible = int(texts / (spread * labels) ** 2)
        table.add_row(mechanism, unit, f"{spread:.4g}", str(legible))
    console.print(f"{texts} texts, epsilon {epsilon:g}, delta {delta:g}, {labels} labels, {shards} shards:")
    console.print(table)
    one = gaussian_epsilon(noise_std=noise, sensitivity=SQRT2, releases=1, delta=delta)
    console.print(f"one text alone, with the noise of gaussian, costs epsilon {one:.4g}", highlight=False)
    console.print("dp-sgd: no noise on soft labels; a teacher's epsilon covers any number of texts", highlight=False)
