"""Mutated inputs against everything that reads a peer's: `python -m tests.federation.wire.fuzz --examples 200000`.

No message may raise anything but WireError (ModelError for what a specification says), no line of a log anything, and
no damaged ledger may count too little.
"""

import argparse
import logging
import random
import sys
import time
import traceback
from collections import Counter

from knot_fed.errors import ModelError, WireError
from knot_fed.federation.wire import envelope
from tests.federation.wire import fuzz_lines
from tests.federation.wire.messages import TARGETS
from tests.federation.wire.mutations import arbitrary_content, mutated
from tests.privacy import fuzz_ledger

OTHERS = fuzz_lines.TARGETS | fuzz_ledger.TARGETS
NAMES = (*TARGETS, *OTHERS)


def attempt(name, draw):
    """Read one hostile input; returns what came of it, and lets any other exception through."""
    if name in OTHERS:
        return OTHERS[name](draw)
    build, read = TARGETS[name]
    content = arbitrary_content(draw) if draw.random() < 0.1 else mutated(draw, build())
    envelope.count_bytes(content)
    try:
        read(content)
    except (WireError, ModelError) as error:
        if str(error).isprintable() and len(str(error)) < 2000:
            return "refused"
        raise AssertionError("an error that is too long, or that a terminal would act on") from error
    return "read"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    counts, failures, started = Counter(), 0, time.monotonic()
    for number in range(options.examples):
        name = NAMES[number % len(NAMES)]
        try:
            counts[name, attempt(name, random.Random(options.seed + number))] += 1
        except Exception:
            failures += 1
            sys.stderr.write(f"{name}, seed {options.seed + number}:\n{traceback.format_exc()}\n")
    for name in NAMES:
        sys.stdout.write(f"{name:18} refused {counts[name, 'refused']:7}   still valid {counts[name, 'read']:7}\n")
    seconds = time.monotonic() - started
    sys.stdout.write(f"{options.examples} inputs in {seconds:.0f} s, {failures} raised anything but their own error\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
