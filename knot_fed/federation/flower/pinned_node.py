"""A SuperNode that runs only apps pinned by its owner: `python -m knot_fed.federation.flower.pinned_node`.

A SuperLink sends each run's code, and Flower verifies only code from its own hub. Here the SuperNode, which never runs
that code itself, compares the bundle's digest with the pinned ones before the bundle is unpacked.
"""

import hashlib
import logging
import re
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from flwr.cli.build import build_fab_from_disk
from flwr.supercore.fab import Fab
from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode

from knot_fed.errors import ConfigError
from knot_fed.launch.bundle import stage_app

DIGEST = re.compile(r"[0-9a-f]{64}")
TRUSTED = "--trusted-entities"
ASKED = {"pinned": ""}

logger = logging.getLogger("flwr")


def app_digest(app: Path | None) -> str:
    """Return the SHA-256 of the bundle that `knot-fed submit` sends: of an app folder, or of the installed app."""
    with tempfile.TemporaryDirectory(prefix="knot-fed-") as folder:
        return hashlib.sha256(build_fab_from_disk(stage_app(app, Path(folder) / "app"))).hexdigest()


def read_pins(text: str) -> frozenset[str]:
    """Parse digests separated by commas; an empty list lets any app run."""
    pins = frozenset(pin for pin in re.split(r"[\s,]+", text.lower()) if pin)
    if not all(map(DIGEST.fullmatch, pins)):
        raise ConfigError("the pinned app is not a hexadecimal SHA-256; knot-fed client digest prints it")
    return pins


def pin_apps(pins: Collection[str]) -> None:
    """Make Flower's SuperNode in this process verify every bundle by its digest, and answer others by an error."""
    pull = start_client_internal._pull_and_store_message

    def pull_pinned(*, get_fab: Callable[[str, int], Fab], **others: Any) -> int | None:
        def get_unverified(fab_hash: str, run_id: int) -> Fab:
            fab = get_fab(fab_hash, run_id)
            return Fab(fab.hash_str, fab.content, {"valid_license": "unverified"})

        return pull(get_fab=get_unverified, **{**others, "trusted_entities": ASKED})

    def verify(fab: Fab, _: Any) -> bool:
        digest = hashlib.sha256(fab.content).hexdigest()
        if digest not in pins:
            logger.error("knot_fed: refused an app of digest %s, which is not pinned; nothing of it was run", digest)
        return digest in pins

    start_client_internal._pull_and_store_message = pull_pinned  # type: ignore[assignment]
    start_client_internal._verify_fab = verify  # type: ignore[assignment]


def main() -> None:
    """Start `flower-supernode` with the remaining arguments; the first lists the digests, and may be empty."""
    try:
        pins = read_pins(sys.argv.pop(1))
        if pins and any(argument.startswith(TRUSTED) for argument in sys.argv):
            raise ConfigError(f"{TRUSTED} cannot be combined with a pinned app; use one of them")
    except ConfigError as error:
        sys.exit(f"knot_fed: {error}")
    if pins:
        pin_apps(pins)
    else:
        logger.warning("knot_fed: no app is pinned: this node runs whatever code the SuperLink sends")
    flower_supernode()


if __name__ == "__main__":
    main()
