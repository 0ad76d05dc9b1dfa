"""The wire format of the student, its metrics, and the parameters that only federated averaging sends."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from knot_fed.errors import LabelSpaceError, WireError
from knot_fed.federation.wire.checks import check_count, check_seconds, read_array, read_record, read_values
from knot_fed.federation.wire.envelope import ABOUT, PROTOCOL, check_protocol, pack_arrays
from knot_fed.labels import LabelSpace
from knot_fed.training.calibration import LEAST_TEMPERATURE, MOST_TEMPERATURE
from knot_fed.types import Metrics

STUDENT = "student"
METRICS = "metrics"
PARAMETERS = "parameters"
TRAINING = "training"
TEMPERATURE = "temperature"
GEOMETRY = "geometry"
COORDINATES = "coordinates"
EXAMPLES = "num-examples"
ROUND_OF_FLOWER = "server-round"
LONGEST_SPEC = 1 << 22
MOST_ROUNDS = 1_000_000
LARGEST_PARAMETER = 1e6
TOLERANCE = 1e-4


def pack_student(
    spec: str, state: ArrayRecord, *, temperature: float = 1.0, geometry: LabelSpace | None = None
) -> RecordDict:
    """Pack the student's specification (JSON), its trained arrays, and the temperature of `sd_calibrated`.

    `geometry` is that of SD and W1 if clients cannot know it from the run's configuration; its coordinates are sent.
    """
    about = ConfigRecord({"protocol": PROTOCOL, "spec": spec, TEMPERATURE: temperature})
    content = RecordDict({STUDENT: state, ABOUT: about})
    if geometry is not None:
        content[GEOMETRY] = pack_geometry(geometry)
    return content


def pack_geometry(geometry: LabelSpace) -> ArrayRecord:
    """Pack the coordinates of the labels."""
    return pack_arrays({COORDINATES: geometry.coordinates})


def unpack_geometry(content: RecordDict, *, names: tuple[str, ...]) -> LabelSpace | None:
    """Read the coordinates of the labels for SD and W1; None if there are none."""
    if GEOMETRY not in content:
        return None
    only = RecordDict({GEOMETRY: content[GEOMETRY]})
    array = read_record(only, GEOMETRY, ArrayRecord, records={GEOMETRY}, keys={COORDINATES})[COORDINATES]
    dimensions = array.shape[1] if len(array.shape) == 2 else 0
    if not 0 < dimensions < len(names):
        raise WireError(f"has coordinates that are not rows of 1 to {len(names) - 1} numbers; send evaluation_labels")
    try:
        return LabelSpace(names, read_array(array, shape=(len(names), dimensions), dtype=np.dtype(np.float64)))
    except LabelSpaceError as error:
        raise WireError(str(error)) from None


def unpack_student(content: RecordDict) -> tuple[str, ArrayRecord, float]:
    """Read the student's specification (JSON), its arrays for `unpack_state`, and the temperature."""
    about, arrays = _student(content, {TEMPERATURE: float}, others={GEOMETRY})
    if not LEAST_TEMPERATURE <= about[TEMPERATURE] <= MOST_TEMPERATURE:
        raise WireError(
            f"has a temperature outside {LEAST_TEMPERATURE:g}..{MOST_TEMPERATURE:g}; send what fit_temperature returns"
        )
    return about["spec"], arrays, about[TEMPERATURE]


def unpack_averaging_request(content: RecordDict) -> tuple[str, ArrayRecord, int]:
    """Read the specification and arrays of the student to train, and the round."""
    about, arrays = _student(content, {ROUND_OF_FLOWER: int})
    round_number = about[ROUND_OF_FLOWER]
    if not 0 < round_number <= MOST_ROUNDS:
        raise WireError(f"asks in round {round_number}, expected 1 to {MOST_ROUNDS}; count rounds from 1")
    return about["spec"], arrays, round_number


def _student(
    content: RecordDict, kinds: dict[str, type], *, others: Collection[str] = ()
) -> tuple[dict[str, Any], ArrayRecord]:
    records = {ABOUT, STUDENT, *others}
    about = read_values(content, ABOUT, {"protocol": int, "spec": str, **kinds}, records=records)
    check_protocol(about["protocol"])
    check_spec(about["spec"])
    return about, read_record(content, STUDENT, ArrayRecord, records=records)


def check_spec(spec: str) -> None:
    """Refuse a specification that is too long to parse."""
    if len(spec) > LONGEST_SPEC:
        raise WireError(
            f"the student's specification has {len(spec)} characters, expected {LONGEST_SPEC} at most; cut it"
        )


def unpack_state(record: ArrayRecord, *, expected: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Read finite arrays of at most 1e6 in magnitude, with exactly the expected names, shapes and dtypes."""
    if set(record) != set(expected):
        raise WireError("does not hold exactly the student's arrays; send those of its specification")
    arrays = {name: read_array(record[name], shape=value.shape, dtype=value.dtype) for name, value in expected.items()}
    for array in arrays.values():
        if not np.isfinite(array).all():
            raise WireError("has parameters that are not finite; lower the learning rates")
        if array.size and float(np.abs(array).max()) > LARGEST_PARAMETER:
            raise WireError(f"has parameters beyond {LARGEST_PARAMETER:g}; lower the learning rates")
    return arrays


def pack_parameters(state: Mapping[str, np.ndarray], *, examples: int, seconds: float) -> RecordDict:
    """Pack parameters trained on private examples; only federated averaging sends them."""
    training = MetricRecord({EXAMPLES: examples, "seconds": seconds})
    return RecordDict({PARAMETERS: pack_arrays(state), TRAINING: training})


def check_parameters(content: RecordDict, *, expected: Mapping[str, np.ndarray]) -> tuple[int, float]:
    """Refuse anything but finite parameters as expected; return the number of training examples and the seconds."""
    records, kinds = {PARAMETERS, TRAINING}, {EXAMPLES: int, "seconds": float}
    training = read_values(content, TRAINING, kinds, records=records, kind=MetricRecord)
    unpack_state(read_record(content, PARAMETERS, ArrayRecord, records=records), expected=expected)
    return check_count(training[EXAMPLES], least=1), check_seconds(training["seconds"])


def pack_metrics(metrics: Metrics, *, key: str = METRICS) -> RecordDict:
    """Pack a model's metrics on one private test split."""
    return RecordDict({key: MetricRecord({**metrics.to_mapping()})})


def unpack_metrics(content: RecordDict, *, labels: LabelSpace) -> Metrics:
    """Read the student's metrics and refuse values that no test split can give."""
    return read_metrics(content, METRICS, labels=labels, records={METRICS})


def read_metrics(content: RecordDict, key: str, *, labels: LabelSpace, records: set[str]) -> Metrics:
    """Read the metrics of record `key` of a message that may hold only `records`; refuse what no test split gives."""
    kinds = {name: int if name == "examples" else float for name in Metrics.__dataclass_fields__}
    values = read_values(content, key, kinds, records=records, kind=MetricRecord)
    check_count(values["examples"], least=0)
    farthest = labels.diameter + TOLERANCE
    for name in kinds.keys() - {"examples"}:
        most = farthest if name in ("sd", "sd_calibrated", "w1") else 1 + TOLERANCE
        if not 0 <= values[name] <= most:
            raise WireError(f"has a metric {name} outside 0..{most:.4g}; check the client's evaluation")
    if values["sd"] > values["w1"] + TOLERANCE:
        raise WireError("has an sd above its w1, which is impossible; check the client's evaluation")
    return Metrics(**values)
