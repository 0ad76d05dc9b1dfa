import json
import re
import sys

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

from knot_fed import client_app, fedavg_app
from knot_fed.data import transfer_set
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import ConfigError, WireError
from knot_fed.federation.wire import envelope, exchange, student_wire
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec, build_classifier, trained_state
from knot_fed.privacy.policy import ReleasePolicy
from tests.conftest import small_config
from tests.fakes import InProcessGrid, context

LABELS = LabelSpace.preset("sentiment")
PUBLIC = TransferSet(("a good book", "a bad book", "a book"))
PROBE = TransferSet(("is zugzwang 7 in there", "or zugzwang 8"))
QUICK = {"teacher.epochs": 1, "weights.scheme": "confidence"}
SPEC = ModelSpec("ngram-bag", "all", LABELS.names, paired=False, max_length=128)


@pytest.fixture
def owner(tmp_path):
    """A real node: its private file, policy, state, and the context of a run that a server wrote."""

    def build(policy="", keys=None, **node):
        folder = tmp_path / "hospital"
        folder.mkdir(exist_ok=True)
        rows = [
            {
                "text": f"it is {'good' if row % 5 > 2 else 'bad'} zugzwang {row}",
                "label": row % 5,
                "secret": 4 - row % 5,
            }
            for row in range(40)
        ]
        (folder / "private.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (folder / "policy.toml").write_text(policy)
        paths = {"data": folder / "private.jsonl", "state-dir": folder / "state", "policy": folder / "policy.toml"}
        config = small_config(tmp_path / "server", QUICK)
        own = {"name": "hospital", **{key: str(path) for key, path in paths.items()}, **node}
        made = context(config, node={key: value for key, value in own.items() if value}, node_id=100)
        made.run_config |= keys or {}
        return made

    return build


def ask(owner, kind, content, app=client_app.app):
    grid = InProcessGrid({100: owner}, app=app)
    (reply,) = grid.send_and_receive([Message(content, dst_node_id=100, message_type=kind)])
    assert b"zugzwang" not in grid.wire[-1]
    return reply.content


def reason_of(owner, kind, content, app=client_app.app):
    reason = envelope.refusal_of(ask(owner, kind, content, app))
    assert reason is not None
    assert "\n" not in reason
    return reason


def handshake(transfer=PUBLIC, **changes):
    theirs = {
        "protocol": envelope.PROTOCOL,
        "labels": exchange.canonical_labels(LABELS),
        "fingerprint": transfer.fingerprint,
    }
    return exchange.pack_handshake(exchange.Handshake(**{**theirs, **changes}))


def request(transfer=PUBLIC, start=0, stop=None, round_number=1):
    stop = len(transfer) if stop is None else stop
    return exchange.pack_train_request(exchange.TrainRequest(round_number, transfer.fingerprint, start, stop, transfer))


def student(spec=SPEC, arrays=None):
    state = trained_state(build_classifier(SPEC, seed=0)) if arrays is None else arrays
    return student_wire.pack_student(spec if isinstance(spec, str) else spec.to_json(), envelope.pack_arrays(state))


def teachers(tmp_path):
    return list((tmp_path / "hospital" / "state").glob("teachers/*"))


def test_another_transfer_set_than_the_run_began_with_is_refused_before_any_training(owner, tmp_path):
    node = owner()
    assert envelope.refusal_of(ask(node, "query", handshake())) is None
    assert "another transfer set than at the start of this run" in reason_of(node, "train", request(PROBE))
    assert "another transfer set than at the start of this run" in reason_of(node, "query", handshake(PROBE))
    assert not teachers(tmp_path)


def test_a_run_without_a_handshake_is_bound_by_its_first_request_and_over_restarts(owner):
    assert envelope.refusal_of(ask(owner(), "train", request())) is None
    assert "another transfer set" in reason_of(owner(), "train", request(PROBE))
    assert envelope.refusal_of(ask(owner(), "train", request(round_number=2))) is None


def test_a_transfer_set_that_the_owner_has_not_pinned_is_refused_in_every_run(owner):
    node = owner(policy=f'transfer-fingerprint = "{PUBLIC.fingerprint}"')
    assert "pins another transfer set" in reason_of(node, "query", handshake(PROBE))
    assert "pins another transfer set" in reason_of(node, "train", request(PROBE))
    assert envelope.refusal_of(ask(node, "query", handshake())) is None


@pytest.mark.parametrize("fingerprint", ["", "../../x", "a" * 63])
def test_a_server_that_names_no_transfer_set_is_refused(owner, fingerprint):
    assert "transfer set" in reason_of(owner(), "query", handshake(fingerprint=fingerprint))


def test_the_same_rows_asked_again_count_again(owner, tmp_path):
    node = owner(policy="max-texts-per-run = 5")
    assert envelope.refusal_of(ask(node, "train", request())) is None
    assert "3 texts asked with 3 of max-texts-per-run = 5 used" in reason_of(node, "train", request())
    assert envelope.refusal_of(ask(node, "train", request(stop=2))) is None


def test_more_texts_than_the_policy_allows_are_refused_before_any_training(owner, tmp_path):
    assert "max-texts-in-life = 2" in reason_of(owner(policy="max-texts-in-life = 2"), "train", request())
    assert not teachers(tmp_path)


def test_confidences_that_the_owner_keeps_leave_as_zeros(owner):
    content = ask(owner(policy="share-confidences = false"), "train", request())
    assert not content[exchange.SOFT_LABELS][exchange.CONFIDENCE].numpy().any()
    assert ask(owner(), "train", request())[exchange.SOFT_LABELS][exchange.CONFIDENCE].numpy().any()


def test_students_are_counted_and_a_counting_attack_ends_at_the_limit(owner, tmp_path):
    node = owner(policy="max-evaluations-per-run = 2\nleast-test-examples = 1")
    for _ in range(2):
        assert student_wire.METRICS in ask(node, "evaluate", student())
    assert "max-evaluations-per-run = 2: 2 used, 1 more needed" in reason_of(node, "evaluate", student())
    lines = (tmp_path / "hospital" / "state" / "ledger.jsonl").read_text().splitlines()
    assert sum(json.loads(line).get("evaluations", 0) for line in lines) == 2


def test_an_owner_without_a_policy_still_has_a_limit_of_evaluations():
    assert ReleasePolicy.from_mapping({}).max_evaluations_per_run == 50


STUDENTS = {
    "a path": (SPEC.to_json().replace("ngram-bag", "hf:/etc"), "named by the server only"),
    "a hub model": (SPEC.to_json().replace("ngram-bag", "hf:evil/model"), "named by the server only"),
    "a path without hf": (SPEC.to_json().replace("ngram-bag", "../../x"), "no model"),
    "a function": (SPEC.to_json().replace("ngram-bag", "os:system"), "named by the server only"),
    "other labels": (SPEC.to_json().replace("very negative", "x"), "other labels than the run"),
    "endless input": (SPEC.to_json().replace("128", "1" + "0" * 30), "reads not 1 to 8192 tokens"),
    "no input": (SPEC.to_json().replace("128", "0"), "reads not 1 to 8192 tokens"),
    "unknown part": (SPEC.to_json().replace('"all"', '"everything"'), "trains no known part"),
    "many labels": (
        ModelSpec("ngram-bag", "all", tuple(map(str, range(10**5))), paired=False, max_length=9).to_json(),
        "more than 1000 labels",
    ),
    "many words": (
        ModelSpec("tiny-bert", "all", LABELS.names, paired=False, max_length=9, vocabulary=("a",) * 60_000).to_json(),
        "50000 words",
    ),
    "not json": ("{", "is not what ModelSpec.to_json writes"),
    "nested": ("[" * 100_000, "is not what ModelSpec.to_json writes"),
    "long": ("x" * (1 << 23), "characters, expected"),
    "extra field": (SPEC.to_json().replace("{", '{"code": "import os", ', 1), "is not what ModelSpec.to_json writes"),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_that_is_not_one_of_this_run_is_never_built(owner, name):
    spec, reason = STUDENTS[name]
    assert reason in reason_of(owner(), "evaluate", student(spec))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state | {"gift": np.zeros(3, np.float32)}, "exactly the student's arrays"),
        (lambda state: state | {"head.bias": np.zeros((2**20, 4), np.float32)}, "bytes, expected 20"),
        (lambda state: state | {"head.bias": np.full(5, np.nan, np.float32)}, "not finite"),
        (lambda state: state | {"head.bias": np.full(5, 1e30, np.float32)}, "parameters beyond 1e+06"),
        (lambda state: state | {"head.bias": np.zeros(5, np.int32)}, "is int32"),
    ],
)
def test_arrays_that_are_not_the_students_are_refused(owner, change, reason):
    assert reason in reason_of(
        owner(), "evaluate", student(arrays=change(trained_state(build_classifier(SPEC, seed=0))))
    )


@pytest.mark.parametrize("model", ["hf:/etc", "hf:evil/model"])
def test_a_pretrained_teacher_that_only_the_server_names_is_not_loaded(owner, model):
    assert "named by the server only" in reason_of(owner(keys={"model": model}), "query", handshake())
    assert "named by the server only" in reason_of(owner(keys={"model": model}), "train", request())
    allowed = owner(policy=f'models = ["{model}"]', keys={"model": model})
    assert envelope.refusal_of(ask(allowed, "query", handshake())) is None


def test_a_function_that_the_server_names_is_never_imported_on_a_client(owner):
    keys = {"weights.scheme": "antigravity:fly", "distill.loss": "antigravity:fly"}
    assert envelope.refusal_of(ask(owner(keys=keys), "query", handshake())) is None
    assert envelope.refusal_of(ask(owner(keys=keys), "train", request())) is None
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("teacher.temperature", 0.01),
        ("teacher.temperature", 1000.0),
        ("teacher.max-length", 10**9),
        ("teacher.epochs", 10**9),
        ("threads", 10**9),
        ("privacy.shards", 10**7),
        ("privacy.epochs", 10**9),
        ("privacy.sampling-rate", 1e-12),
        ("privacy.clipping-norm", 1e300),
        ("privacy.epsilon", 1e6),
        ("distill.batch-size", 2**62),
        ("timeout", float("inf")),
        ("labels.names", "x," * 10**6),
        ("data.separator", "x" * 2 * 10**6),
        ("model" + "x" * 1000, "ngram-bag"),
    ],
)
def test_a_setting_out_of_range_is_refused_in_a_short_sentence_and_nothing_is_charged(owner, key, value, tmp_path):
    reason = reason_of(owner(keys={key: value}), "train", request())
    assert "run configuration" in reason
    assert len(reason) < envelope.LONGEST_REFUSAL
    assert not (tmp_path / "hospital" / "state").exists()


def changed_request(**changes):
    content = request()
    for key, value in changes.items():
        content[envelope.ABOUT][key] = value
    return content


def texts(*columns):
    content = request()
    content[exchange.TEXTS] = ConfigRecord({f"column-{place}": column for place, column in enumerate(columns)})
    return content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: texts([]), "0 transfer texts, expected 1"),
        (lambda: texts(["x" * 10**8]), "longer than 100000 characters"),
        (lambda: texts([1, 2, 3]), "not lists of strings"),
        (lambda: texts(["a"], ["b", "c"]), "1 first texts and 2 second ones"),
        (lambda: texts(["a"], ["b"], ["c"]), "not one column or two"),
        (lambda: texts(["another"]), "do not have the fingerprint"),
        (lambda: changed_request(start=2, stop=2), "not a slice"),
        (lambda: changed_request(start=-1), "not a slice"),
        (lambda: changed_request(stop=2**62), "not a slice"),
        (lambda: changed_request(round=-1), "expected 1 to"),
        (lambda: changed_request(protocol=1), "speaks protocol 1"),
        (lambda: changed_request(temperature=0.01), "other keys"),
    ],
)
def test_a_request_that_cannot_be_is_refused_by_its_size_or_form(content, reason):
    with pytest.raises(WireError, match=reason):
        exchange.unpack_train_request(content())


@pytest.mark.parametrize(
    ("request_for", "reason"),
    [
        (exchange.TrainRequest(1, "", 0, 1_000_001), "1000001 transfer texts, of which clients label 1000000 at most"),
        (
            exchange.TrainRequest(1, "", 0, 1, TransferSet(("x" * 100_001,))),
            "give each client of a deployment the file",
        ),
    ],
)
def test_an_honest_server_does_not_send_what_clients_refuse(request_for, reason):
    with pytest.raises(ConfigError, match=reason):
        exchange.pack_train_request(request_for)


def test_a_clients_own_file_may_be_longer_than_a_message(owner, tmp_path, monkeypatch):
    sent = request()
    monkeypatch.setattr(transfer_set, "MOST_LETTERS", 10)
    assert "characters, more than 10" in reason_of(owner(), "train", sent)
    (tmp_path / "texts.csv").write_text("\n".join(["text", *PUBLIC.texts]))
    node = owner(transfer=str(tmp_path / "texts.csv"))
    assert envelope.refusal_of(ask(node, "query", handshake())) is None
    without_texts = exchange.pack_train_request(exchange.TrainRequest(1, PUBLIC.fingerprint, 0, 3))
    assert envelope.refusal_of(ask(node, "train", without_texts)) is None


def test_a_slice_beyond_the_transfer_set_is_refused(owner):
    assert "another transfer set than the one held" in reason_of(owner(), "train", changed_request(stop=4))


def test_parameters_are_refused_by_an_owner_who_has_not_allowed_them(owner):
    reason = reason_of(owner(), "query", handshake(), app=fedavg_app.client_app)
    assert "set share-parameters to join" in reason


@pytest.mark.parametrize(("key", "name"), [("name", "../../x"), ("resume", "/abs"), ("data.clients", "passwd,../x")])
def test_a_name_that_leads_out_of_its_folder_is_refused_by_a_node_too(owner, key, name):
    node = owner()
    node.run_config[key] = name
    assert re.search(rf"{key} = '[\w,]+': use ", reason_of(node, "query", handshake()))


def test_a_real_node_reads_only_its_own_file_and_writes_only_in_its_own_folder(owner, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths = {"state-dir": str(elsewhere / "state"), "runs-dir": str(elsewhere / "runs"), "data.root": "/etc"}
    node = owner(
        keys={**paths, "name": "elsewhere", "data.clients": "passwd,shadow", "transport.cost": "/etc/passwd"},
        policy="least-test-examples = 1",
    )
    assert envelope.refusal_of(ask(node, "query", handshake())) is None
    assert envelope.refusal_of(ask(node, "train", request())) is None
    assert student_wire.METRICS in ask(node, "evaluate", student())
    assert not list(elsewhere.iterdir())
    written = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {("hospital", "private.jsonl"), ("hospital", "policy.toml"), ("hospital", "state")}


def test_a_real_node_without_a_folder_of_its_own_refuses(owner, tmp_path):
    node = owner(keys={"state-dir": str(tmp_path / "elsewhere")}, **{"state-dir": ""})
    assert "state-dir is missing" in reason_of(node, "query", handshake())
    assert not (tmp_path / "elsewhere").exists()


def test_a_node_without_a_file_of_its_own_reads_none_that_the_server_names(owner):
    node = owner(keys={"data.root": "/etc", "data.clients": "passwd"}, data="")
    assert "data is missing" in reason_of(node, "train", request())


def test_a_server_cannot_choose_the_column_that_a_teacher_learns(owner):
    honest = ask(owner(), "train", request())[exchange.SOFT_LABELS][exchange.SOFT_LABELS].numpy()
    asked = ask(owner(keys={"data.label": "secret", "data.text": "label"}), "train", request(round_number=2))
    np.testing.assert_array_equal(asked[exchange.SOFT_LABELS][exchange.SOFT_LABELS].numpy(), honest)
