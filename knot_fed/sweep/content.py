"""What was in the files that a study reads: a path may hold other rows tomorrow, and the same rows have other paths."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from knot_fed.config import RunConfig
from knot_fed.data import reviews
from knot_fed.data.reading.files import BUILTIN, HUB, data_path
from knot_fed.models import encoder_identity, is_own_model, own_identity

CONTENT = "content"
"""Part of a study's description: digests by name."""
HF = "hf:"
OWN = "own:"
"""Before the name of a user's own model, whose source is read."""
SEVERAL = "+"
"""Between the digests of one name that stands for several files, where a grid varies their folder."""


def content_digests(configs: Sequence[RunConfig]) -> dict[str, str]:
    """Return digests of the data files, local models and matrices that these runs read, by name.

    Parameters
    ----------
    configs
        Of all cells of a study; seeds do not matter.

    Returns
    -------
    digests
        Data sets of the hub have an empty one: what they hold is not known before they are loaded. Built-in reviews
        have that of the code that writes them.

    Raises
    ------
    DataError
        If a data file is not there.
    """
    found: dict[str, list[str]] = {}
    read = dict.fromkeys(source for config in configs for source in _read_by(config))
    for name, source in read:
        digest = _digest(source)
        if digest not in found.setdefault(name, []):
            found[name].append(digest)
    return {name: SEVERAL.join(digests) for name, digests in sorted(found.items())}


def _read_by(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Return the name and the place of each file, model folder and matrix that a run reads."""
    data = config.data
    for name in (*data.client_names, data.public, data.transfer):
        yield name, data_path(data.root, name)
    for model in (config.model, config.student_model, *config.teacher.models.split(",")):
        folder = Path(model.strip().removeprefix(HF))
        if model.strip().startswith(HF) and folder.is_dir():
            yield f"{HF}{folder.name}", model.strip()
        elif is_own_model(model.strip()):
            yield model.strip(), f"{OWN}{model.strip()}"
    cost = Path(config.transport.cost)
    if cost.suffix in (".npy", ".csv") and cost.is_file():
        yield cost.name, str(cost)


def _digest(path: str) -> str:
    if path.startswith(HF):
        return encoder_identity(path)
    if path.startswith(OWN):
        return own_identity(path.removeprefix(OWN))[1]
    if path.startswith(HUB):
        return ""
    with Path(reviews.__file__ if path.startswith(BUILTIN) else path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
