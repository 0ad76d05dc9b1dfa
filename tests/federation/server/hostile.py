"""Replies of hostile clients: a table of kinds, each a change of an honest answer and the expected refusal."""

import io
import pickle

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from knot_fed.federation.wire import envelope, exchange, student_wire

MARKER = "/tmp/knot-fed-was-unpickled"


class Bomb:
    """Creates a file if it is unpickled."""

    def __reduce__(self):
        return open, (MARKER, "w")


def arrays(content):
    return {key: array.numpy().copy() for key, array in content[exchange.SOFT_LABELS].items()}


def with_array(change, key=exchange.SOFT_LABELS):
    """Replace the array of the soft labels, or of the confidence."""

    def send(content):
        changed = change(arrays(content)[key])
        content[exchange.SOFT_LABELS][key] = changed if isinstance(changed, Array) else Array(changed)
        return content

    return send


def with_rows(value):
    def change(rows):
        rows[:3] = value
        return rows

    return with_array(change)


def with_value(key, value, record=exchange.ANSWER):
    def send(content):
        content[record][key] = value
        return content

    return send


def saved(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def archive(rows):
    stream = io.BytesIO()
    np.savez_compressed(stream, rows=np.zeros((2**12, 2**10), np.float32))
    return Array("float32", rows.shape, "numpy.ndarray", stream.getvalue())


def lying_header(rows, shape, body):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    prefix = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    return Array("float32", rows.shape, "numpy.ndarray", prefix + header.encode() + body)


def pickled(rows):
    return Array("object", rows.shape, "numpy.ndarray", saved(np.array([Bomb()], dtype=object), allow_pickle=True))


def pickled_as_floats(rows):
    return Array("float32", rows.shape, "numpy.ndarray", saved(np.array([Bomb()], dtype=object), allow_pickle=True))


def many_arrays(content):
    content[exchange.SOFT_LABELS] = ArrayRecord(
        {f"a{number}": Array(np.zeros(1, np.float32)) for number in range(5_000)}
    )
    return content


def many_keys(content):
    content[exchange.ANSWER] = ConfigRecord({f"key-{number}": number for number in range(30_000)})
    return content


def many_records(content):
    for number in range(5_000):
        content[f"record-{number}"] = ConfigRecord({})
    return content


def wrong_kind(content):
    content[exchange.SOFT_LABELS] = ConfigRecord({exchange.SOFT_LABELS: [0.2] * 5})
    return content


def extra_record(content):
    content["gift"] = ConfigRecord({"parameters": 1})
    return content


def of_metric(name, value):
    return with_value(name, value, record=student_wire.METRICS)


def refusal(reason):
    return lambda content: RecordDict({envelope.REFUSAL: ConfigRecord({"reason": reason})})


ANSWERS = {
    "nan": (with_rows(np.nan), "not finite"),
    "infinity": (with_rows([np.inf, 0, 0, 0, 0]), "not finite"),
    "1e38": (with_rows(1e38), "sums to"),
    "negative": (with_rows([-1, 2, 0, 0, 0]), "expected >= 0"),
    "unnormalised": (with_rows(0.5), "sums to 2.5"),
    "too-few-rows": (with_array(lambda rows: rows[:-1]), r"expected float32"),
    "too-many-rows": (with_array(lambda rows: np.concatenate([rows, rows[:1]])), "expected float32"),
    "too-few-columns": (with_array(lambda rows: rows[:, :-1]), "expected float32"),
    "transposed": (with_array(lambda rows: np.ascontiguousarray(rows.T)), "expected float32"),
    "float64": (with_array(lambda rows: rows.astype(np.float64)), "bytes, expected"),
    "complex": (with_array(lambda rows: rows.astype(np.complex64)), "bytes, expected"),
    "half": (with_array(lambda rows: rows.astype(np.float16)), "is float16"),
    "big-endian": (with_array(lambda rows: rows.astype(">f4")), "is >f4"),
    "big-endian-as-float32": (
        with_array(lambda rows: Array("float32", rows.shape, "numpy.ndarray", saved(rows.astype(">f4")))),
        "does not match its data",
    ),
    "fortran-order": (with_array(np.asfortranarray), "does not match its data"),
    "zero-dimensional": (with_array(lambda rows: np.array(0.2, np.float32)), r"0 dimension\(s\)"),
    "object-pickle": (with_array(pickled), "is object"),
    "object-pickle-as-floats": (with_array(pickled_as_floats), "does not match its data"),
    "pickle": (
        with_array(lambda rows: Array("float32", rows.shape, "pickle", pickle.dumps(Bomb()))),
        "is not a NumPy array but 'pickle'",
    ),
    "archive": (with_array(archive), "cannot be read as an array|bytes, expected"),
    "claims-1-gib": (
        with_array(lambda rows: Array("float32", (53_687_091, 5), "numpy.ndarray", saved(rows))),
        "expected float32",
    ),
    "header-claims-1-gib": (
        with_array(lambda rows: lying_header(rows, (53_687_091, 5), rows.tobytes())),
        "does not match its data",
    ),
    "header-claims-less": (
        with_array(lambda rows: lying_header(rows, (1, 5), rows.tobytes())),
        "does not match its data",
    ),
    "data-cut": (
        with_array(lambda rows: lying_header(rows, rows.shape, rows.tobytes()[:-4])),
        "does not match its data",
    ),
    "header-of-code": (
        with_array(
            lambda rows: Array("float32", rows.shape, "numpy.ndarray", b"\x93NUMPY\x01\x00\x40\x00" + b"(" * 64)
        ),
        "cannot be read",
    ),
    "16-mib": (with_array(lambda rows: np.zeros((2**20, 4), np.float32)), "holds 16777344 bytes|more than"),
    "many-arrays": (many_arrays, "other keys"),
    "many-keys": (many_keys, "other keys"),
    "many-records": (many_records, r"5000 record\(s\) that nobody asked for"),
    "extra-record": (extra_record, r"1 record\(s\) that nobody asked for"),
    "extra-key": (with_value("name", "someone-else"), "other keys"),
    "empty-string": (with_value("round", ""), "round is a str"),
    "wrong-kind": (wrong_kind, "has no record 'soft-labels'"),
    "nothing": (lambda content: RecordDict(), "has no record 'answer'"),
    "wrong-protocol": (with_value("protocol", 999), "speaks protocol 999"),
    "old-round": (with_value("round", 0), "answers another round than 1"),
    "count-negative": (with_value("examples", -5), "not a plausible number"),
    "count-huge": (with_value("examples", 10**15), "not a plausible number"),
    "count-bool": (with_value("examples", True), "examples is a bool"),
    "seconds-nan": (with_value("seconds", float("nan")), "a time that is not"),
    "seconds-negative": (with_value("seconds", -1.0), "a time that is not"),
    "another-mechanism": (with_value("mechanism", "\x1b[31mdp-sgd" + "x" * 10**5), r"claims mechanism '\[31mdp-sgdx"),
    "epsilon-finite": (with_value("epsilon", 1.0), "an epsilon or a delta out of range"),
    "epsilon-nan": (with_value("epsilon", float("nan")), "an epsilon or a delta out of range"),
    "epsilon-int": (with_value("epsilon", 1), "epsilon is a int"),
    "delta-negative": (with_value("delta", -1e-5), "an epsilon or a delta out of range"),
    "confidence-high": (with_array(lambda scores: scores + 3, exchange.CONFIDENCE), r"confidence outside 0\.\.2"),
    "confidence-nan": (with_array(lambda scores: scores * np.nan, exchange.CONFIDENCE), r"confidence outside 0\.\.2"),
    "confidence-count": (with_array(lambda scores: scores[:-1], exchange.CONFIDENCE), "expected float32"),
    "refusal-ansi-markup": (
        refusal("\x1b[31m[bold]no[/italic]\r\n\u202e<script>alert(1)</script>" + "x" * 10**6),
        r"^rejected: \[31m\[bold\]no\[/italic\]<script>",
    ),
    "refusal-without-words": (refusal([1, 2, 3]), "refused and gave no reason"),
}

HANDSHAKES = {
    "path": (with_value("name", "../../x", envelope.ABOUT), "has a name that is not"),
    "absolute-path": (with_value("name", "/etc/passwd", envelope.ABOUT), "has a name that is not"),
    "nul": (with_value("name", "a\0b", envelope.ABOUT), "has a name that is not"),
    "look-alike": (with_value("name", "рhones", envelope.ABOUT), "has a name that is not"),  # noqa: RUF001
    "long": (with_value("name", "x" * 10**6, envelope.ABOUT), "has a name that is not"),
    "dots": (with_value("name", "..", envelope.ABOUT), "has a name that is not"),
    "log-line": (with_value("name", 'x"\nknot_fed: event=result seal=x', envelope.ABOUT), "has a name that is not"),
    "nameless": (with_value("name", "", envelope.ABOUT), "has no name"),
    "name-of-another": (with_value("name", "honest-0", envelope.ABOUT), "calls itself honest-0, as another node does"),
    "other-protocol": (with_value("protocol", 2**40, envelope.ABOUT), "speaks protocol 1099511627776"),
    "other-labels": (with_value("labels", "\x1b[31m" + "x" * 10**6, envelope.ABOUT), r"has labels \[31mxxx"),
    "no-fingerprint": (with_value("fingerprint", "\x1b[2J", envelope.ABOUT), "not a SHA-256"),
    "other-transfer-set": (with_value("fingerprint", "a" * 64, envelope.ABOUT), "holds transfer set aaaaaaaaaaaa"),
    "extra-handshake": (extra_record, "nobody asked for"),
}

METRICS = {
    "accuracy-above-1": (of_metric("accuracy", 1.5), "accuracy outside"),
    "metric-nan": (of_metric("ece", float("nan")), "ece outside"),
    "metric-negative": (of_metric("macro_f1", -0.1), "macro_f1 outside"),
    "sd-huge": (of_metric("sd", 1e300), "sd outside"),
    "calibrated-sd-huge": (of_metric("sd_calibrated", 1e300), "sd_calibrated outside"),
    "sd-above-w1": (of_metric("sd", 3.9), "sd above its w1"),
    "metric-int": (of_metric("accuracy", 1), "accuracy is a int"),
    "metric-list": (of_metric("accuracy", [0.5] * 1000), "accuracy is a list"),
    "examples-huge": (of_metric("examples", 2**62), "not a plausible number"),
    "examples-float": (of_metric("examples", 3.5), "examples is a float"),
    "extra-metric": (of_metric("auc", 0.5), "other keys"),
    "metrics-as-configuration": (
        lambda content: RecordDict({student_wire.METRICS: ConfigRecord({})}),
        "no record 'metrics'",
    ),
    "no-metrics": (lambda content: RecordDict({student_wire.METRICS: MetricRecord({})}), "other keys"),
}
