"""Which cells of a sweep ask the clients, and which are distilled from another cell's answers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from knot_fed.config import RunConfig, Scalar
from knot_fed.errors import RunFolderError
from knot_fed.federation.from_answers import SCHEME, distil_from_answers, question, unserved
from knot_fed.federation.server.kept_answers import KeptAnswers
from knot_fed.runs.log import notes_to
from knot_fed.runs.run_folder import RunFolder
from knot_fed.sweep.grid import Cell


@dataclass(frozen=True, slots=True)
class Federation:
    """A cell that runs a federation, and the cells that are distilled from its answers."""

    cell: Cell
    served: list[Cell]


class State(IntEnum):
    """What a cell can do for others, in the order in which it is chosen."""

    ANSWERED = 0  # finished, with answers
    WAITING = 1
    SILENT = 2  # finished, without answers


def share_answers(cells: Sequence[Cell], *, state_of: Callable[[Cell], State]) -> list[Federation]:
    """Divide cells into as few federations as their clients' questions allow, in the order of the cells.

    A cell whose clients make personal models runs a federation of its own, and may serve others. Of two cells in the
    same state, one whose answers contain scores is chosen first: they serve other schemes too.
    """
    asked = {cell.name: question(cell.config) for cell in cells}
    alike: dict[frozenset[tuple[str, Scalar]], list[Federation]] = {}
    for cell in sorted(cells, key=lambda cell: (state_of(cell), SCHEME not in asked[cell.name])):
        key = frozenset((name, value) for name, value in asked[cell.name].items() if name != SCHEME)
        group = alike.setdefault(key, [])
        shares = cell.config.keep_answers and cell.config.personal.consensus == "none"
        serving = [each for each in group if shares and _serves(asked, each.cell, cell)]
        if serving:
            serving[0].served.append(cell)
        else:
            group.append(Federation(cell, []))
    found = {each.cell.name: each for group in alike.values() for each in group}
    return [found[cell.name] for cell in cells if cell.name in found]


def _serves(asked: Mapping[str, Mapping[str, Scalar]], source: Cell, cell: Cell) -> bool:
    return not unserved(asked[source.name], asked[cell.name])


def has_answers(run: Path, *, rounds: int) -> bool:
    """Return whether a run has kept the answers of all its rounds, undamaged."""
    with suppress(RunFolderError):
        return all(KeptAnswers.load(RunFolder.open(run), number) for number in range(1, rounds + 1))
    return False


def distil_cell(source: Path, config: RunConfig, clients: int) -> None:
    """Distil one cell from the answers of another's run, without a page or a word; for worker processes."""
    with notes_to(lambda _: None):
        distil_from_answers(RunFolder.open(source), config, clients=clients, report=False)
