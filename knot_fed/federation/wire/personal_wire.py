"""The wire format of the consensus that goes to a client, and of the metrics that come back."""

from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from jaxtyping import UInt

from knot_fed.errors import SoftLabelsError, WireError
from knot_fed.federation.wire import checks, exchange
from knot_fed.federation.wire.answer_arrays import read_positions
from knot_fed.federation.wire.envelope import ABOUT, LONGEST_REFUSAL, PROTOCOL, check_protocol, pack_arrays
from knot_fed.federation.wire.student_wire import GEOMETRY, pack_geometry, pack_metrics, read_metrics
from knot_fed.labels import LabelSpace, check_soft_labels
from knot_fed.types import Metrics, SoftLabels

STAGE = "personal"
KIND = f"train.{STAGE}"
CONSENSUS = "consensus"
KEPT = "kept"
DONE = "personal"
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True, slots=True, eq=False)
class ConsensusRequest:
    """The consensus on a slice of the transfer set; the texts come with it if the client does not hold them.

    `kept` has the positions in the slice of the texts that teach, one for each soft label; None: all of them.
    `geometry` is that of SD and W1, if clients cannot know it from the run's configuration.
    """

    slice: exchange.TrainRequest
    soft_labels: SoftLabels
    kept: UInt[np.ndarray, "kept"] | None = None
    geometry: LabelSpace | None = None


@dataclass(frozen=True, slots=True)
class PersonalReply:
    """Metrics of the client's teacher alone and of its personal model; without them, the reason why they stay.

    `seconds` is how long the client took.
    """

    before: Metrics | None = None
    after: Metrics | None = None
    withheld: str = ""
    seconds: float = 0.0


def pack_consensus(request: ConsensusRequest) -> RecordDict:
    """Pack the consensus as float32; raises ConfigError if no message can carry the texts."""
    content = exchange.pack_train_request(request.slice)
    content[CONSENSUS] = pack_arrays({CONSENSUS: request.soft_labels.astype(np.float32)})
    if request.kept is not None:
        content[KEPT] = pack_arrays({KEPT: request.kept.astype(np.uint32)})
    if request.geometry is not None:
        content[GEOMETRY] = pack_geometry(request.geometry)
    return content


def unpack_consensus(content: RecordDict, *, labels: LabelSpace) -> ConsensusRequest:
    """Read the consensus on the client; refuse anything but distributions, one for each text that teaches.

    The geometry is read by `Client.evaluation_labels`.
    """
    request, ours = {ABOUT, exchange.TEXTS}, {CONSENSUS, KEPT, GEOMETRY}
    arrays = checks.read_record(content, CONSENSUS, ArrayRecord, records=request | ours, keys={CONSENSUS})
    asked = exchange.unpack_train_request(RecordDict({key: content[key] for key in content if key in request}))
    texts, kept = asked.stop - asked.start, None
    if KEPT in content:
        record = checks.read_record(content, KEPT, ArrayRecord, records=request | ours, keys={KEPT})
        kept = read_positions(record[KEPT], examples=texts, what="kept texts")
        if not len(kept):
            raise WireError("keeps no text; send those that teach")
    soft_labels = checks.read_array(arrays[CONSENSUS], shape=(texts if kept is None else len(kept), len(labels)))
    try:
        check_soft_labels(soft_labels)
    except SoftLabelsError as error:
        raise WireError(f"the consensus: {error}") from None
    return ConsensusRequest(asked, soft_labels, kept)


def pack_reply(reply: PersonalReply, *, round_number: int) -> RecordDict:
    """Pack the metrics, or the reason without them; nothing else about the personal model is sent."""
    withheld = checks.cut_printable(reply.withheld, LONGEST_REFUSAL)
    about = ConfigRecord({"protocol": PROTOCOL, "round": round_number, "withheld": withheld, "seconds": reply.seconds})
    content = RecordDict({DONE: about})
    for name, metrics in ((BEFORE, reply.before), (AFTER, reply.after)):
        if metrics is not None:
            content[name] = pack_metrics(metrics, key=name)[name]
    return content


def unpack_reply(content: RecordDict, *, round_number: int, labels: LabelSpace) -> PersonalReply:
    """Read the metrics, or the reason without them; refuse values that no test split can give."""
    records = {DONE, BEFORE, AFTER}
    kinds = {"protocol": int, "round": int, "withheld": str, "seconds": float}
    done = checks.read_values(content, DONE, kinds, records=records)
    check_protocol(done["protocol"])
    seconds = checks.check_seconds(done["seconds"])
    if done["round"] != round_number:
        raise WireError(f"answers another round than {round_number}; drop the old reply")
    found = {BEFORE, AFTER} & set(content)
    if len(found) == 1:
        raise WireError("has metrics of one model only; send those before and after, or none")
    if not found:
        return PersonalReply(withheld=checks.cut_printable(done["withheld"], LONGEST_REFUSAL), seconds=seconds)
    before, after = (read_metrics(content, name, labels=labels, records=records) for name in (BEFORE, AFTER))
    return PersonalReply(before, after, seconds=seconds)
