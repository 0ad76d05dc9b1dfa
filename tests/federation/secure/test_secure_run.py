from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from knot_fed.aggregation import SCORE_BOUNDS, TeacherAnswers, client_weights, pool_soft_labels
from knot_fed.config import RunConfig
from knot_fed.errors import ConfigError, FederationError
from knot_fed.federation.from_answers import distil_from_answers
from knot_fed.federation.secure import sum_wire
from knot_fed.federation.secure.client import STATE
from knot_fed.federation.secure.round import SecureRound
from knot_fed.federation.wire import envelope, exchange
from knot_fed.privacy.ledger.ledger import Ledger
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from tests.fakes import virtual_clients
from tests.federation.secure.secure_parties import (
    CLASSES,
    KEYS,
    MASKED,
    SHARES,
    STAGES,
    TEXTS,
    UNMASK,
    LossyGrid,
    answer_of,
    parties,
    request_of,
    scale_of,
    secure_sum,
    teacher_of,
)

pytestmark = pytest.mark.slow

SECURE = {"privacy.secure-sum": True, "distill.objective": "pooled"}
UNIFORM = SECURE | {"weights.scheme": "uniform"}
WHOLE = {"teacher.epochs": 1, "distill.epochs": 1, "distill.objective": "pooled"}


def whole_run(config, name, clients=3, **grid_options):
    grid = LossyGrid(virtual_clients(config, clients), **grid_options)
    folder = RunFolder.create(Path(config.runs_dir), name)
    folder.write_config(config.to_mapping())
    federate(grid, config, folder)
    return folder, grid


def pooled(folder, round_number=1):
    return np.load(folder.path / f"pooled-soft-labels-{round_number}.npy")


def test_pooled_soft_labels_are_those_of_a_plain_run(run_config):
    plain, _ = whole_run(run_config(keys=WHOLE, rounds=2), "plain")
    secure, grid = whole_run(run_config(keys=WHOLE | SECURE, rounds=2), "secure")
    for round_number in (1, 2):
        assert np.abs(pooled(plain, round_number) - pooled(secure, round_number)).max() < 1e-6
        assert np.abs(pooled(secure, round_number).sum(axis=1) - 1).max() < 1e-12
    assert not any(exchange.SOFT_LABELS.encode() in sent or exchange.CONFIDENCE.encode() in sent for sent in grid.wire)
    summary = secure.read_summary()
    assert summary["privacy"]["guarantee"].startswith("single soft labels were not seen")
    assert {client["status"] for client in summary["clients"]} == {"ok"}
    assert all(client["examples"] == 0 for client in summary["clients"])


@pytest.mark.parametrize(("threshold", "vanished"), [(0, (102,)), (3, (101, 103))])
def test_one_and_two_of_five_clients_vanish_after_masking_and_the_run_completes(run_config, threshold, vanished):
    config = run_config(keys=WHOLE | SECURE | {"privacy.threshold": threshold})
    secure, _ = whole_run(config, "secure", clients=5, dropped=[(MASKED, node) for node in vanished])
    plain, _ = whole_run(run_config(keys=WHOLE), "plain", clients=5, lost=[("train", node) for node in vanished])
    assert np.abs(pooled(plain) - pooled(secure)).max() < 1e-6
    assert [client["status"] for client in secure.read_summary()["clients"]].count("ok") == 5 - len(vanished)


@pytest.mark.parametrize("scheme", sorted(SCORE_BOUNDS))
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_weights_that_each_client_computes_alone_pool_as_the_servers_do(run_config, scheme, power):
    keys = SECURE | {"weights.scheme": scheme, "weights.power": power}
    roster, grid = parties(run_config(keys=keys), 4)
    weighted, weights = secure_sum(roster, grid)
    answers = TeacherAnswers.stack([answer_of(node) for node in range(100, 104)])
    plain = pool_soft_labels(answers.soft_labels, client_weights(scheme, answers, power=power))
    assert np.abs(weighted / weights[:, None] - plain).max() < 1e-4
    assert np.abs(weighted / weights[:, None] - plain)[1:].max() < 1e-6


def test_a_secure_sum_leaves_out_the_texts_that_no_client_selected(run_config):
    """Also in a student distilled from the kept sum, with another bound on the entropy."""
    keys = WHOLE | {"weights.scheme": "selective", "student.pretrain": False}
    plain, _ = whole_run(run_config(keys=keys), "plain")
    config = run_config(keys=keys | SECURE)
    secure, _ = whole_run(config, "secure")
    weights = [folder.read_text_weights(1) for folder in (plain, secure)]
    assert 0 < (weights[0] > 0).mean() < 1
    np.testing.assert_allclose(*weights)
    mapping = config.to_mapping() | {"name": "again", "distill.loss": "kl"}
    again = distil_from_answers(secure, RunConfig.from_mapping(mapping), clients=3)
    np.testing.assert_array_equal(again.read_text_weights(1), weights[1])


def expected_sum(nodes):
    return sum(teacher_of(node).astype(np.float64) for node in nodes)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("vanished", [(), (103,), (100, 104)])
@pytest.mark.parametrize("how", ["lost", "dropped"])
def test_the_sum_is_that_of_the_clients_whose_masked_values_arrived(run_config, stage, vanished, how):
    config = run_config(keys=UNIFORM | {"privacy.threshold": 3})
    roster, grid = parties(config, 5, **{how: tuple((stage, node) for node in vanished)})
    weighted, weights = secure_sum(roster, grid)
    present = [node for node in range(100, 105) if node not in vanished or stage == UNMASK]
    assert np.abs(weighted - expected_sum(present)).max() < 1e-8
    assert np.abs(weights - len(present)).max() < 1e-8


@pytest.mark.parametrize("order", [lambda replies: replies, lambda replies: replies[::-1]])
@pytest.mark.parametrize("bits", [24, 56])
def test_the_order_of_replies_does_not_matter_and_words_are_as_short_as_they_can_be(run_config, order, bits):
    roster, grid = parties(run_config(keys=UNIFORM | {"privacy.sum-bits": bits}), 4, order=order)
    weighted, _ = secure_sum(roster, grid)
    assert np.abs(weighted - expected_sum(range(100, 104))).max() < 4 * 2.0 ** -min(bits, 50)
    assert scale_of(roster.config, 4).word.itemsize == (4 if bits == 24 else 8)


@pytest.mark.parametrize("how", ["lost", "dropped"])
@pytest.mark.parametrize(
    ("stage", "what"),
    [(KEYS, "sent keys"), (SHARES, "sealed shares"), (MASKED, "sent masked values"), (UNMASK, "helped to unmask")],
)
def test_under_the_threshold_the_round_stops_and_nothing_is_unmasked(run_config, stage, what, how):
    config = run_config(keys=UNIFORM | {"privacy.threshold": 4})
    roster, grid = parties(config, 5, **{how: ((stage, 100), (stage, 102))})
    with pytest.raises(FederationError, match=rf"3 client\(s\) {what}, the threshold is 4.*nothing revealed"):
        secure_sum(roster, grid)
    asked_to_unmask = [node for kind, node in grid.sent if kind == UNMASK]
    assert bool(asked_to_unmask) == (stage == UNMASK)


def test_secrets_are_wiped_when_the_round_ends(run_config):
    roster, grid = parties(run_config(keys=UNIFORM), 3)
    secure_sum(roster, grid)
    assert not any(STATE in context.state for context in grid.contexts.values())


def masked_round(run_config, **options):
    """Run a round until the masked values have been sent."""
    roster, grid = parties(run_config(keys=UNIFORM), 4, **options)
    secure = SecureRound(roster, grid, 1)
    secure.open(roster.joined())
    replies = grid.send_and_receive(secure.ask_masked(request_of(1)))
    return roster, grid, secure, replies


def ask(grid, kind, content, node=100):
    (reply,) = grid.send_and_receive([Message(content, dst_node_id=node, message_type=kind)])
    return envelope.refusal_of(reply.content)


def test_a_second_unmasking_with_other_survivors_is_refused(run_config):
    roster, grid, secure, replies = masked_round(run_config)
    secure.close(replies, texts=TEXTS, columns=CLASSES + 1, quantisation=scale_of(roster.config, 4))
    content = sum_wire.pack_unmask_request(1, [0, 1, 2])
    assert "has not begun here, or has ended" in ask(grid, UNMASK, content)


def test_a_replayed_stage_is_refused_and_ends_the_round_for_the_client(run_config):
    _, grid, secure, _ = masked_round(run_config)
    sealed = [secure.sealed[other][0] if other else b"" for other in range(4)]
    masked = sum_wire.pack_masked_request(request_of(1)(None), sealed)
    assert "out of turn" in ask(grid, MASKED, masked)
    assert "has not begun here, or has ended" in ask(grid, UNMASK, sum_wire.pack_unmask_request(1, [0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("survivors", "round_number", "reason"),
    [
        ([0, 1], 1, "survive in the secure sum, this client asks for 3"),
        ([1, 2, 3], 1, "vanished although it answers"),
        ([0, 1, 1, 2], 1, "not distinct"),
        ([0, 1, 2, 3], 2, "asks for round 2, the keys are of round 1"),
    ],
)
def test_an_unmasking_that_could_expose_a_client_is_refused_over_the_wire(run_config, survivors, round_number, reason):
    _, grid, _, _ = masked_round(run_config)
    assert reason in ask(grid, UNMASK, sum_wire.pack_unmask_request(round_number, survivors))


def test_a_peer_list_that_differs_between_clients_stops_the_round(run_config):
    def alter(message):
        if message.metadata.message_type == SHARES and message.metadata.dst_node_id == 100:
            keys = message.content[sum_wire.SECURE]["mask_keys"]
            message.content[sum_wire.SECURE]["mask_keys"] = [*keys[:-1], keys[-1][:-1] + bytes([keys[-1][-1] ^ 1])]

    roster, grid = parties(run_config(keys=UNIFORM), 4, alter=alter)
    with pytest.raises(FederationError, match="nothing revealed"):
        secure_sum(roster, grid)


def damaged(kind, key, change):
    def tamper(reply):
        if reply.metadata.src_node_id == 101 and sum_wire.SECURE in reply.content:
            record = reply.content[sum_wire.SECURE]
            if key in record:
                record[key] = change(record[key])
        return reply

    return tamper


@pytest.mark.parametrize(
    ("key", "change", "status"),
    [
        ("seal_key", lambda key: key[:-1], "rejected: holds keys"),
        ("sealed", lambda boxes: boxes[:-1], "rejected: holds 4 entries for 5"),
        ("masked", lambda words: words[:-8], "rejected: holds 376 bytes"),
        ("shares", lambda shares: [b"", *shares[1:]], "ok"),
    ],
)
def test_a_damaged_reply_counts_as_none_and_the_round_goes_on(run_config, key, change, status):
    config = run_config(keys=UNIFORM | {"privacy.threshold": 3})
    roster, grid = parties(config, 5, tamper=damaged(None, key, change))
    weighted, _ = secure_sum(roster, grid)
    present = [node for node in range(100, 105) if node != 101 or key == "shares"]
    assert np.abs(weighted - expected_sum(present)).max() < 1e-8
    assert roster.outcome.clients["client-0101"].status.startswith(status)


def test_masked_values_altered_on_the_way_give_no_result(run_config):
    flip = damaged(None, "masked", lambda words: words[:-1] + bytes([words[-1] ^ 128]))
    roster, grid = parties(run_config(keys=UNIFORM), 3, tamper=flip)
    with pytest.raises(FederationError, match="do not add up"):
        secure_sum(roster, grid)


def policy_file(tmp_path, text):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return str(path)


def test_an_owner_that_asks_for_a_secure_sum_answers_no_plain_request(run_config, tmp_path):
    config = run_config(keys=WHOLE)
    grid = LossyGrid(virtual_clients(config, 3))
    for context in grid.contexts.values():
        context.node_config["policy"] = policy_file(tmp_path, "require-secure-sum = true")
    with pytest.raises(FederationError, match=r"lets soft labels leave only in a secure sum; set privacy\.secure-sum"):
        federate(grid, config, RunFolder.create(Path(config.runs_dir), "plain"))
    assert not any(exchange.SOFT_LABELS.encode() in sent for sent in grid.wire)


@pytest.mark.parametrize(
    ("text", "keys", "reason"),
    [
        ("least-clients = 5", UNIFORM, r"4 client\(s\) take part in the secure sum, this client asks for 5"),
        ("share-example-counts = false", UNIFORM | {"weights.scheme": "size"}, "set share-example-counts"),
        ("share-confidences = false", UNIFORM | {"weights.scheme": "density"}, "set share-confidences"),
    ],
)
def test_a_secure_sum_beyond_the_policy_is_refused_over_the_wire(run_config, tmp_path, text, keys, reason):
    roster, grid = parties(run_config(keys=keys), 4, policy=policy_file(tmp_path, text))
    with pytest.raises(FederationError, match=reason):
        secure_sum(roster, grid)


def test_a_client_whose_ledger_is_full_masks_nothing_and_the_others_go_on(run_config, tmp_path):
    config = run_config(keys=WHOLE | UNIFORM | {"privacy.threshold": 3})
    grid = LossyGrid(virtual_clients(config, 4))
    grid.contexts[101].node_config["policy"] = policy_file(tmp_path, "max-texts-per-run = 10")
    folder = RunFolder.create(Path(config.runs_dir), "full")
    federate(grid, config, folder)
    states = [client["status"] for client in folder.read_summary()["clients"]]
    assert sum("of max-texts-per-run = 10 used" in state for state in states) == 1
    assert states.count("ok") == 3
    counts = [Ledger(path.parent).released_in_life() for path in Path(config.state_dir).glob("*/ledger.jsonl")]
    assert sorted(counts) == [0, 1947, 1947, 1947]


def test_noise_inside_a_secure_sum_keeps_its_guarantee_and_tells_no_time(run_config):
    keys = {"data.limit": 100, "weights.scheme": "uniform", "student.pretrain": False, "privacy.mechanism": "gaussian"}
    folder, _ = whole_run(run_config(keys=WHOLE | SECURE | keys), "noisy")
    told = folder.read_summary()["privacy"]
    assert told["mechanism"] == "secure sum of gaussian"
    assert told["epsilon"] == max(client["epsilon"] for client in told["clients"].values()) <= 8.0 * (1 + 1e-6)
    assert told["guarantee"].startswith("single soft labels were not seen")
    assert "for each client" in told["guarantee"]
    assert {client["seconds"] for client in folder.read_summary()["clients"]} == {0.0}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"privacy.compression": "hard"}, r"privacy\.compression = 'hard'.*use 'none'"),
        ({"distill.objective": "per-teacher"}, r"distill\.objective = 'per-teacher'.*use 'pooled'"),
        ({"weights.pooling": "median"}, r"weights\.pooling = 'median'.*use 'mean'"),
        ({"distill.agreement": 1.0}, r"distill\.agreement = 1\.0.*use 0\.0"),
        ({"weights.scheme": "os:system"}, r"weights\.scheme = 'os:system'.*use 'uniform' or"),
        ({"privacy.sum-bits": 63}, r"privacy\.sum-bits = 63"),
    ],
)
def test_what_needs_single_soft_labels_is_refused_beside_a_secure_sum(run_config, keys, reason):
    with pytest.raises(ConfigError, match=reason):
        run_config(keys=SECURE | keys)


def test_a_sum_that_could_overflow_is_refused_before_any_value_leaves(run_config):
    roster, grid = parties(run_config(keys=UNIFORM | {"privacy.sum-bits": 62}), 4)
    with pytest.raises(
        FederationError, match=r"5 values of 62 bits do not fit a word of 64; set privacy\.sum-bits to 60"
    ):
        secure_sum(roster, grid)
    assert not any(kind == MASKED for kind, _ in grid.sent)
