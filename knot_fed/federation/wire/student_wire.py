"""The student on the wire, its metrics, and the parameters that only federated averaging sends.

Every `unpack_` function raises `WireError` and nothing else, whatever the peer sent, and looks at sizes before values.
"""

from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from knot_fed.errors import WireError
from knot_fed.federation.wire.checks import read_arrays, read_count, read_record, read_seconds, read_value
from knot_fed.federation.wire.envelope import ABOUT, PROTOCOL, check_protocol, pack_arrays
from knot_fed.labels import LabelSpace
from knot_fed.training.calibration import LEAST_TEMPERATURE, MOST_TEMPERATURE
from knot_fed.types import Metrics

STUDENT = "student"
METRICS = "metrics"
PARAMETERS = "parameters"
TRAINING = "training"
TEMPERATURE = "temperature"
EXAMPLES = "num-examples"
ROUND_OF_FLOWER = "server-round"
LONGEST_SPEC = 1 << 22
MOST_ROUNDS = 1_000_000
LARGEST_PARAMETER = 1e6
TOLERANCE = 1e-4


def pack_student(spec: str, state: ArrayRecord, *, temperature: float = 1.0) -> RecordDict:
    """Pack the student, by its specification (JSON) and its trained arrays, and the temperature of `sd_calibrated`."""
    about = ConfigRecord({"protocol": PROTOCOL, "spec": spec, TEMPERATURE: temperature})
    return RecordDict({STUDENT: state, ABOUT: about})


def unpack_student(content: RecordDict) -> tuple[str, ArrayRecord, float]:
    """Read the student's specification (JSON), its arrays for `unpack_state`, and the temperature."""
    keys = {"protocol", "spec", TEMPERATURE}
    about = read_record(content, ABOUT, ConfigRecord, records={ABOUT, STUDENT}, keys=keys)
    temperature = read_value(about, TEMPERATURE, float)
    if not LEAST_TEMPERATURE <= temperature <= MOST_TEMPERATURE:
        raise WireError(
            f"has a temperature outside {LEAST_TEMPERATURE:g}..{MOST_TEMPERATURE:g}; send what fit_temperature returns"
        )
    return *_student(content, keys=keys), temperature


def unpack_averaging_request(content: RecordDict) -> tuple[str, ArrayRecord, int]:
    """Read the student to train on private examples, as `unpack_student`, and the round."""
    keys = {"protocol", "spec", ROUND_OF_FLOWER}
    about = read_record(content, ABOUT, ConfigRecord, records={ABOUT, STUDENT}, keys=keys)
    round_number = read_value(about, ROUND_OF_FLOWER, int)
    if not 0 < round_number <= MOST_ROUNDS:
        raise WireError(f"asks in round {round_number}, expected 1 to {MOST_ROUNDS}; count rounds from 1")
    return *_student(content, keys=keys), round_number


def _student(content: RecordDict, *, keys: set[str]) -> tuple[str, ArrayRecord]:
    about = read_record(content, ABOUT, ConfigRecord, records={ABOUT, STUDENT}, keys=keys)
    check_protocol(read_value(about, "protocol", int), PROTOCOL)
    spec = read_value(about, "spec", str)
    if len(spec) > LONGEST_SPEC:
        raise WireError(
            f"the student's specification has {len(spec)} characters, expected {LONGEST_SPEC} at most; cut it"
        )
    return spec, read_record(content, STUDENT, ArrayRecord, records={ABOUT, STUDENT})


def unpack_state(record: ArrayRecord, *, expected: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Read the student's trained arrays, which must have the names, shapes and kinds of those expected."""
    return read_arrays(record, expected, largest=LARGEST_PARAMETER)


def pack_parameters(state: Mapping[str, np.ndarray], *, examples: int, seconds: float) -> RecordDict:
    """Pack parameters trained on private examples; only federated averaging sends them."""
    return RecordDict(
        {PARAMETERS: pack_arrays(state), TRAINING: MetricRecord({EXAMPLES: examples, "seconds": seconds})}
    )


def check_parameters(content: RecordDict, *, expected: Mapping[str, np.ndarray]) -> tuple[int, float]:
    """Refuse anything but finite parameters of the expected names, shapes and kinds.

    Returns
    -------
    examples
        How many the client trained on, >= 1.
    seconds
        How long it took.

    Raises
    ------
    WireError
        If records, names, dtypes, shapes, sizes or values differ from what was asked.
    """
    records = {PARAMETERS, TRAINING}
    training = read_record(content, TRAINING, MetricRecord, records=records, keys={EXAMPLES, "seconds"})
    read_arrays(read_record(content, PARAMETERS, ArrayRecord, records=records), expected, largest=LARGEST_PARAMETER)
    return read_count(training, EXAMPLES, least=1), read_seconds(training, "seconds")


def pack_metrics(metrics: Metrics) -> RecordDict:
    """Pack the student's metrics on one private test split."""
    return RecordDict({METRICS: MetricRecord({**metrics.to_mapping()})})


def unpack_metrics(content: RecordDict, *, labels: LabelSpace) -> Metrics:
    """Read metrics and refuse values that no test split can give."""
    names = set(Metrics.__dataclass_fields__)
    record = read_record(content, METRICS, MetricRecord, records={METRICS}, keys=names)
    values = {name: read_value(record, name, float) for name in names - {"examples"}}
    farthest = labels.diameter + TOLERANCE
    for name, value in values.items():
        most = farthest if name in ("sd", "sd_calibrated", "w1") else 1 + TOLERANCE
        if not 0 <= value <= most:
            raise WireError(f"has a metric {name} outside 0..{most:.4g}; check the client's evaluation")
    if values["sd"] > values["w1"] + TOLERANCE:
        raise WireError("has an sd above its w1, which cannot be; check the client's evaluation")
    return Metrics(**values, examples=read_count(record, "examples", least=0))
