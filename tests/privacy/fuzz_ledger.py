"""Damaged ledgers for every reader: no reader may count too little, and recovery forgets nothing."""

import math
import shutil
import tempfile
from functools import cache
from pathlib import Path

from knot_fed.errors import PolicyError
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.privacy.ledger.ledger import Ledger, texts_released

FILES = ("ledger.jsonl", "ledger.head", "secret.key")
PIECES = (b"", b"\n", b"{}", b"null", b'{"chain": "', b'"texts":1', b"\xff", b"\x00" * 40, b"}" * 300, b"[" * 3000)
BODIES = (
    "{}", "[]", "null", "7", '"x"', '{"texts": 1e999}', '{"texts": true}', '{"noise": {"noise_multiplier": NaN}}',
    '{"noise": {"noise_multiplier": 1, "count": 0}}', '{"run": "' + "x" * 99 + '"}', '{"epsilon": -1}', "{" * 3000,
    '{"keys": "../../etc/passwd"}', '{"takes_back": -1}', '{"unknown": "yes"}', '{"texts": 99999999999999999999}',
)  # fmt: skip
TEXTS = 12


@cache
def whole_state():
    """Make a state folder with a secret, two releases, an evaluation, and a release that was reversed."""
    state = Path(tempfile.mkdtemp(prefix="knot-fed-fuzz-"))
    ledger = Ledger(state)
    ledger.secret()
    noise = NoiseEvent(20.0, TEXTS)
    for entry in (
        LedgerEntry(run="1", texts=TEXTS, fresh=TEXTS),
        LedgerEntry(run="1", texts=TEXTS, fresh=3, mechanism="gaussian", unit="client", noise=noise, answer="a" * 64),
        LedgerEntry(run="1", evaluations=1),
        LedgerEntry(run="1", texts=5, fresh=5),
    ):
        number = ledger.record(entry)
    ledger.record(LedgerEntry(takes_back=number))
    return state


def damaged(draw, content):
    data = bytearray(content)
    for _ in range(draw.choice((0, 1, 1, 2, 4))):
        place = draw.randrange(len(data) + 1)
        data[place : place + draw.choice((0, 1, 1, 30, 500))] = draw.choice((*PIECES, draw.randbytes(3)))
    return bytes(data)


def ledger(draw):
    with tempfile.TemporaryDirectory(prefix="knot-fed-fuzz-") as folder:
        state = Path(folder) / "state"
        shutil.copytree(whole_state(), state)
        for name in FILES:
            file, step = state / name, draw.randrange(6)
            if step == 0:
                file.unlink()
            elif step <= 2:
                file.write_bytes(damaged(draw, file.read_bytes()))
        forgotten = not any((state / name).exists() for name in FILES)
        outcome, counted = counted_in(Ledger(state))
        if forgotten:
            assert not any(entry.texts for entry in counted)
        elif any(entry.unknown for entry in counted):
            assert math.isinf(texts_released(counted))
        else:
            assert texts_released(counted) == 2 * TEXTS
            assert sum(entry.evaluations for entry in counted) == 1
        return outcome


def counted_in(reading):
    """Read a ledger as a request does; if it is refused, recover it and read it again."""
    try:
        reading.secret()
        return "read", reading.entries()
    except PolicyError:
        reading.recover()
        reading.secret()
        return "refused", reading.entries()


def entry(draw):
    body = (
        draw.choice(BODIES) if draw.random() < 0.3 else damaged(draw, b'{"run":"1","texts":3}').decode(errors="replace")
    )
    read = LedgerEntry.from_json(body)
    if read is None:
        return "refused"
    assert LedgerEntry.from_json(read.to_json()) == read
    assert read.texts >= 0
    return "read"


TARGETS = {"ledger": ledger, "ledger-entry": entry}
"""Readers of one damaged input by name; each returns the outcome and raises if too little was counted."""
