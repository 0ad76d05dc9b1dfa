"""Digests of the files that a study reads, since a path may later hold other content, or the content move."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from knot_fed.config import PROMPT, RunConfig
from knot_fed.data.reading.files import content_digest, data_path
from knot_fed.models import encoder_identity, is_plugin_model, plugin_identity

CONTENT = "content"
"""Key of the digests in a study's description."""
HF, OWN = "hf:", "own:"
"""Prefixes of pretrained models and of plug-in models, whose source is read."""
SEVERAL = "+"
"""Separates digests of a name that stands for several files, if a grid varies their folder."""


def content_digests(configs: Sequence[RunConfig]) -> dict[str, str]:
    """Return digests of the data files, local models and matrices that these runs read, by name; seeds do not matter.

    Data sets of the hub have an empty digest, since their content is unknown before they are loaded; built-in reviews
    have that of the code that generates them. Raises DataError if a data file is missing.
    """
    found: dict[str, list[str]] = {}
    read = dict.fromkeys(source for config in configs for source in _read_by(config))
    for name, source in read:
        digest = _digest(source)
        if digest not in found.setdefault(name, []):
            found[name].append(digest)
    return {name: SEVERAL.join(digests) for name, digests in sorted(found.items())}


def _read_by(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield name and location of each file, model folder and matrix that a run reads."""
    data = config.data
    for name in (*data.client_names, data.public, data.transfer):
        yield name, data_path(data.root, name)
    named = (config.model, config.student_model, *config.teacher.models.split(","), config.transport.encoder)
    for model in map(str.strip, named):
        kind = next((prefix for prefix in (HF, PROMPT) if model.startswith(prefix)), "")
        folder = Path(model.removeprefix(kind))
        if kind and folder.is_dir():
            yield f"{kind}{folder.name}", model
        elif is_plugin_model(model):
            yield model, f"{OWN}{model}"
    for matrix in (Path(config.transport.cost), Path(config.labels.geometry)):
        if matrix.suffix in (".npy", ".csv") and matrix.is_file():
            yield matrix.name, str(matrix)


def _digest(path: str) -> str:
    if path.startswith((HF, PROMPT)):
        return encoder_identity(path)
    if path.startswith(OWN):
        return plugin_identity(path.removeprefix(OWN))[1]
    return content_digest(path)
