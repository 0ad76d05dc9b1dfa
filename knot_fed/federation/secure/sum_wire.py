"""The wire format of the secure sum: four requests and four replies, all relayed by the server."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from jaxtyping import UInt

from knot_fed.config import MOST_CLIENTS_IN_SUM
from knot_fed.errors import WireError
from knot_fed.federation.secure.key_agreement import PUBLIC_BYTES, SECRET_SHARE_BYTES, SEED_BYTES, SEED_SHARE_BYTES
from knot_fed.federation.secure.peer import KeyList
from knot_fed.federation.wire import envelope, exchange
from knot_fed.federation.wire.checks import check_seconds, read_values

SECURE = "secure-sum"
KEYS_STAGE = "secure_keys"
SHARES_STAGE = "secure_shares"
MASKED_STAGE = "secure_masked"
UNMASK_STAGE = "secure_unmask"
SEALED_BYTES = 512


@dataclass(frozen=True, slots=True, eq=False)
class MaskedAnswer:
    """One client's masked values, its commitment to the self-mask's seed, and what it reports about its teacher."""

    masked: UInt[np.ndarray, "texts columns"]
    commitment: bytes
    reused: bool
    seconds: float
    claim: exchange.Claim


def pack_keys_request(round_number: int) -> RecordDict:
    """Ask for the keys of a new round."""
    return _pack(round_number)


def unpack_keys_request(content: RecordDict) -> int:
    """Read the round of a request for keys."""
    return int(_read(content)["round"])


def pack_keys(round_number: int, keys: tuple[bytes, bytes]) -> RecordDict:
    """Pack a client's seal key and mask key."""
    return _pack(round_number, seal_key=keys[0], mask_key=keys[1])


def unpack_keys(content: RecordDict, *, round_number: int) -> tuple[bytes, bytes]:
    """Read a client's seal key and mask key."""
    values = _read(content, round_number=round_number, seal_key=bytes, mask_key=bytes)
    keys = values["seal_key"], values["mask_key"]
    if {len(key) for key in keys} != {PUBLIC_BYTES}:
        raise WireError(f"holds keys of other than {PUBLIC_BYTES} bytes; send keys of public_key")
    return keys


def pack_shares_request(keys: KeyList, *, place: int) -> RecordDict:
    """Pack all clients' keys, and the receiver's place among them."""
    lists = {"seal_keys": list(keys.seal_keys), "mask_keys": list(keys.mask_keys)}
    return _pack(keys.round_number, threshold=keys.threshold, place=place, **lists)


def unpack_shares_request(content: RecordDict) -> tuple[KeyList, int]:
    """Read all clients' keys, and this client's place among them; `deal_shares` checks their meaning."""
    values = _read(content, threshold=int, place=int, seal_keys=list, mask_keys=list)
    threshold, place, clients = values["threshold"], values["place"], len(values["seal_keys"])
    seal_keys, mask_keys = (
        tuple(_boxes(values[key], sizes={PUBLIC_BYTES}, clients=clients)) for key in ("seal_keys", "mask_keys")
    )
    if not (0 <= threshold <= MOST_CLIENTS_IN_SUM and 0 <= place < clients):
        raise WireError(f"names threshold {threshold} and place {place} for {clients} clients; send both in range")
    return KeyList(values["round"], threshold, seal_keys, mask_keys), place


def pack_sealed(round_number: int, sealed: list[bytes]) -> RecordDict:
    """Pack a client's sealed shares, one for each place."""
    return _pack(round_number, sealed=sealed)


def unpack_sealed(content: RecordDict, *, round_number: int, clients: int, place: int) -> list[bytes]:
    """Read a client's sealed shares: one for each place except its own."""
    values = _read(content, round_number=round_number, sealed=list)
    sealed = _boxes(values["sealed"], sizes=range(SEALED_BYTES), clients=clients)
    if [other for other, box in enumerate(sealed) if not box] != [place]:
        raise WireError("does not hold sealed shares for every client but itself; use deal_shares")
    return sealed


def pack_masked_request(request: exchange.TrainRequest, sealed: list[bytes]) -> RecordDict:
    """Pack the rows to label, and the shares sealed for the receiver."""
    content = exchange.pack_train_request(request)
    content[SECURE] = ConfigRecord({"sealed": sealed})
    return content


def unpack_masked_request(content: RecordDict) -> tuple[exchange.TrainRequest, list[bytes]]:
    """Read the rows to label, and the shares that peers sealed for this client."""
    plain = RecordDict({key: record for key, record in content.items() if key != SECURE})
    request = exchange.unpack_train_request(plain)
    record = content.get(SECURE)
    if not isinstance(record, ConfigRecord) or set(record) != {"sealed"}:
        raise WireError("does not hold exactly the sealed shares beside the rows; use pack_masked_request")
    return request, _boxes(record["sealed"], sizes=range(SEALED_BYTES))


def pack_masked(round_number: int, answer: MaskedAnswer) -> RecordDict:
    """Pack masked values as little-endian words."""
    facts = {"reused": answer.reused, "seconds": answer.seconds, **asdict(answer.claim)}
    return _pack(round_number, masked=answer.masked.tobytes(), commitment=answer.commitment, **facts)


def unpack_masked(
    content: RecordDict, *, round_number: int, texts: int, columns: int, word: np.dtype[Any], mechanism: str
) -> MaskedAnswer:
    """Read masked values of the requested shape; under a mask, any words are valid."""
    kinds = {"masked": bytes, "commitment": bytes, "reused": bool, "seconds": float, **exchange.CLAIM}
    values = _read(content, round_number=round_number, **kinds)
    held, expected = len(values["masked"]), texts * columns * word.itemsize
    if held != expected or len(values["commitment"]) != SEED_BYTES:
        raise WireError(f"holds {held} bytes of masked values, expected {expected}; send {word} words for each text")
    return MaskedAnswer(
        np.frombuffer(values["masked"], dtype=word).reshape(texts, columns),
        values["commitment"],
        reused=values["reused"],
        seconds=check_seconds(values["seconds"]),
        claim=exchange.read_claim(values, asked=mechanism),
    )


def pack_unmask_request(round_number: int, survivors: list[int]) -> RecordDict:
    """Pack the places of the clients whose masked values the server holds."""
    return _pack(round_number, survivors=survivors)


def unpack_unmask_request(content: RecordDict) -> tuple[int, list[int]]:
    """Read round and survivors; `reveal_shares` checks their meaning."""
    values = _read(content, survivors=list)
    survivors, places = values["survivors"], range(MOST_CLIENTS_IN_SUM)
    if not 0 < len(survivors) <= len(places) or not all(type(one) is int and one in places for one in survivors):
        raise WireError(f"names {len(survivors)} survivors, expected 1 to {len(places)} places; send their places")
    return values["round"], survivors


def pack_revealed(round_number: int, shares: list[bytes]) -> RecordDict:
    """Pack one share of each peer's secrets."""
    return _pack(round_number, shares=shares)


def unpack_revealed(
    content: RecordDict, *, round_number: int, survivors: set[int], members: set[int], clients: int
) -> list[bytes]:
    """Read one share of each member: of a survivor's seed, or of the secret key of a client that dropped out."""
    values = _read(content, round_number=round_number, shares=list)
    shares = _boxes(values["shares"], sizes={0, SEED_SHARE_BYTES, SECRET_SHARE_BYTES}, clients=clients)
    for place, share in enumerate(shares):
        size = SEED_SHARE_BYTES if place in survivors else SECRET_SHARE_BYTES if place in members else 0
        if len(share) != size:
            raise WireError(f"reveals {len(share)} bytes for place {place}, expected {size}; use reveal_shares")
    return shares


def _pack(round_number: int, **values: Any) -> RecordDict:
    return RecordDict({SECURE: ConfigRecord({"protocol": envelope.PROTOCOL, "round": round_number, **values})})


def _read(content: RecordDict, *, round_number: int | None = None, **kinds: type) -> dict[str, Any]:
    """Read the single record, which has exactly these names and types, of this protocol and round."""
    values = read_values(content, SECURE, {"protocol": int, "round": int, **kinds}, records={SECURE})
    envelope.check_protocol(values["protocol"])
    if not 0 < values["round"] < 2**31:
        raise WireError(f"names round {values['round']}; count rounds from 1")
    if round_number is not None and values["round"] != round_number:
        raise WireError(f"answers round {values['round']}, expected {round_number}; drop the old reply")
    return values


def _boxes(value: Any, *, sizes: range | set[int], clients: int | None = None) -> list[bytes]:
    """Check a list of byte strings of allowed sizes, one for each client."""
    if not isinstance(value, list) or not 0 < len(value) <= MOST_CLIENTS_IN_SUM:
        raise WireError(f"does not hold a list of 1 to {MOST_CLIENTS_IN_SUM} entries; send one for each client")
    if clients is not None and len(value) != clients:
        raise WireError(f"holds {len(value)} entries for {clients} clients; send one for each")
    if not all(isinstance(box, bytes) and len(box) in sizes for box in value):
        raise WireError(
            "holds an entry that is not a byte string of the size expected; use the matching pack_ function"
        )
    return list(value)
