"""Rounds that carry the student down to the clients, whose teachers start from it."""

import numpy as np
import pytest

from knot_fed.config import RunConfig
from knot_fed.errors import ConfigError
from knot_fed.federation.from_answers import question
from knot_fed.federation.server.kept_answers import KeptAnswers
from knot_fed.federation.server.public_owner import PublicOwner
from knot_fed.federation.server.run import pretrained_student, read_server_data
from knot_fed.federation.wire import exchange, student_wire
from knot_fed.models import trained_state
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from knot_fed.training.calibration import temper
from knot_fed.training.teacher import best_temperature, predict_soft_labels, train_teacher
from tests.fakes import InProcessGrid, virtual_clients
from tests.federation.server.test_federated_run import folder_of, run, timeless

ROUNDS = {"rounds": 2, "round-texts": "all", "teacher.round-epochs": 1, "student.pretrain": False, "distill.epochs": 4}


def answers(folder, round_number):
    kept = KeptAnswers.load(folder, round_number).answers
    return {name: answer.soft_labels for name, answer in kept.items()}


class Recording(InProcessGrid):
    """Notes the contents of all requests for soft labels."""

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        self.asked = [*getattr(self, "asked", []), *(m for m in messages if m.metadata.message_type == "train")]
        return super().send_and_receive(messages, timeout=timeout)


def recorded(config, name):
    grid = Recording(virtual_clients(config, 3))
    folder = RunFolder.create(folder_of(config), name)
    folder.write_config(config.to_mapping())
    federate(grid, config, folder)
    return folder, grid.asked


def student_of(message):
    return exchange.unpack_train_request(message.content).student


@pytest.mark.parametrize("start", ["student", "both"])
def test_each_round_carries_the_student_of_the_round_before_and_only_soft_labels_come_back(small, start):
    folder, asked = recorded(small(ROUNDS | {"teacher.start": start}), "rounds")
    assert len(asked) == 6
    first, second = ({student_of(m).spec for m in asked[at : at + 3]} for at in (0, 3))
    assert first == second
    states = [student_of(asked[place]).arrays for place in (0, 3)]
    assert any((states[0][name].numpy() != states[1][name].numpy()).any() for name in states[0])
    plain, _ = run(small(ROUNDS | {"teacher.start": "scratch"}), "plain")
    up = [{c["name"]: c["bytes_up"] for c in each.read_summary()["clients"]} for each in (folder, plain)]
    assert up[0] == up[1]
    assert all((answers(folder, 1)[name] != answers(folder, 2)[name]).any() for name in up[0])
    assert all((answers(plain, 1)[name] == answers(plain, 2)[name]).all() for name in up[1])


def test_a_teacher_that_starts_from_the_student_is_trained_from_its_parameters(small):
    config = small(ROUNDS | {"teacher.start": "student"})
    folder, asked = recorded(config, "by-hand")
    sent = student_of(asked[3])
    client = virtual_client(config, 0)
    state = student_wire.unpack_state(sent.arrays, expected=trained_state(client.build_student(sent.spec, sent.arrays)))
    transfer = RunFolder.open(folder.path).read_pooled(2)
    teacher = train_teacher(
        client.spec(texts_of(config)), client.examples()[0], config.teacher, seed=client.seed(), start=state
    )
    expected = predict_soft_labels(teacher, texts_of(config).texts)
    assert len(transfer) == len(expected)
    np.testing.assert_array_equal(answers(folder, 2)["phones"], expected)


def test_both_answers_by_the_mean_of_the_two_teachers(small):
    each = {
        start: run(small(ROUNDS | {"teacher.start": start, "rounds": 1}), start)[0]
        for start in ("scratch", "student", "both")
    }
    rows = {start: answers(folder, 1) for start, folder in each.items()}
    for name, mean in rows["both"].items():
        np.testing.assert_allclose(mean, (rows["scratch"][name] + rows["student"][name]) / 2, atol=1e-7)


def virtual_client(config, index):
    from knot_fed.sweep.references import open_client

    return open_client(config, index, 3)


def texts_of(config):
    return read_server_data(config)[0]


def test_a_restarted_student_learns_each_round_from_the_start(small):
    first, second = (
        [
            facts["validation_losses"]
            for facts in run(small(ROUNDS | {"student.restart": restart}), name)[0].read_rounds()
        ]
        for restart, name in ((True, "restarted"), (False, "continued"))
    )  # teachers from nothing answer the same in both rounds, and another part of the texts is held out
    assert min(first[0]) < 0.9 * first[0][0], "it learns"
    assert first[1][0] > 0.95 * first[0][0]
    assert second[1][0] < 0.95 * second[0][0]


def test_a_teacher_of_another_architecture_starts_from_nothing_and_is_trained_once(small, caplog):
    keys = {"teacher.models": "tiny-bert,ngram-bag,ngram-bag", "teacher.epochs": 1}
    config = small(ROUNDS | keys | {"teacher.start": "student"})
    with caplog.at_level("INFO", "knot_fed"):
        folder, _ = run(config, "mixed")
    same = {name: (answers(folder, 1)[name] == answers(folder, 2)[name]).all() for name in answers(folder, 1)}
    assert same == {"phones": True, "restaurants": False, "hotels": False}
    told = [record.message for record in caplog.records if "another architecture" in record.message]
    assert len(told) == 1
    assert told[0].startswith("phones:")


def test_an_owner_of_one_label_trains_the_student_and_is_no_constant(small):
    config = small(ROUNDS | {"teacher.start": "student"})
    folder = folder_of(config).parent / "data" / "phones.csv"
    rows = folder.read_text().splitlines()
    label = rows[0].split(",").index("label")
    kept = [row for row in rows[1:] if row.split(",")[label] == rows[1].split(",")[label]]
    folder.write_text("\n".join([rows[0], *kept]) + "\n")
    ran, _ = run(config, "one-label")
    assert len(np.unique(answers(ran, 1)["phones"], axis=0)) > 1


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"privacy.mechanism": "dp-sgd", "teacher.start": "both"}, "use scratch or student"),
        ({"privacy.mechanism": "pate", "teacher.start": "student"}, "use scratch"),
        ({"teacher.epochs": 0, "teacher.start": "student"}, "start = 'scratch'"),
        (
            {"privacy.secure-sum": True, "distill.objective": "pooled", "rounds": 2, "round-texts": "all"},
            "enters a secure sum once",
        ),
        ({"teacher.start": "teacher"}, "'scratch', 'student', 'both' or 'personal'"),
        ({"teacher.start": "personal"}, "needs a personal model after each round"),
    ],
)
def test_what_cannot_be_carried_over_rounds_is_refused_in_one_sentence(keys, told):
    with pytest.raises(ConfigError, match=told):
        RunConfig.from_mapping({"weights.scheme": "uniform"} | keys)


def test_answers_of_rounds_with_the_student_serve_no_other_student():
    plain, sent = (RunConfig.from_mapping({"teacher.start": start, "rounds": 2}) for start in ("scratch", "student"))
    assert "distill.loss" not in question(plain)
    assert {"distill.loss", "student.restart", "transport.cost", "weights.power"} <= set(question(sent))


def test_answers_of_one_round_serve_all_students_of_one_start():
    asked = set(question(RunConfig.from_mapping({"teacher.start": "both"})))
    assert {"student.pretrain", "data.public"} <= asked
    assert not {"distill.loss", "transport.cost", "weights.power"} & asked


@pytest.mark.slow
def test_rounds_with_the_student_run_in_a_secure_sum(small):
    keys = {"rounds": 2, "teacher.start": "student", "privacy.secure-sum": True, "distill.objective": "pooled"}
    folder, _ = run(small(keys | {"distill.learning-rate": 0.05}), "summed")
    assert folder.read_summary()["status"] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "trainings"),
    [({"privacy.mechanism": "dp-sgd", "privacy.epochs": 2}, 2), ({"privacy.mechanism": "gaussian"}, 2)],
    ids=["dp-sgd", "gaussian"],
)
def test_epsilon_is_spread_over_all_rounds(small, keys, trainings):
    keys = keys | {"teacher.start": "student", "weights.scheme": "uniform", "privacy.epsilon": 4.0}
    folder, _ = run(small(ROUNDS | keys), "private")
    claimed = [answers["epsilon"] for answers in folder.read_summary()["privacy"]["clients"].values()]
    assert all(3.9 < epsilon <= 4.0 for epsilon in claimed), claimed
    half = KeptAnswers.load(folder, 1).clients
    assert all(client.claim.epsilon < 3.5 for client in half.values() if client.claim)


def test_the_summary_is_the_same_whatever_order_replies_arrive_in(small):
    config = small(ROUNDS | {"teacher.start": "both"})
    first, _ = run(config, "first")
    second, _ = run(config, "second", order=lambda replies: replies[::-1])
    assert timeless(first.read_summary()) == timeless(second.read_summary())


def test_a_teacher_goes_on_from_the_personal_model_of_the_round_before(small):
    personal = {"personal.consensus": "pooled", "personal.when": "rounds", "personal.epochs": 8, "teacher.epochs": 1}
    folder, asked = recorded(small(ROUNDS | personal | {"teacher.start": "personal"}), "personal")
    assert all(student_of(message) is None for message in asked)
    assert any((answers(folder, 1)[name] != answers(folder, 2)[name]).any() for name in answers(folder, 1))
    plain, _ = run(small(ROUNDS | {"teacher.epochs": 1}), "plain")
    for name, rows in answers(plain, 1).items():
        np.testing.assert_array_equal(answers(folder, 1)[name], rows)


def test_the_servers_own_teacher_answers_calibrated_where_teachers_are(small):
    rows = {}
    for calibrate in (False, True):
        config = small({"teacher.calibrate": calibrate, "teacher.epochs": 3})
        transfer, public = read_server_data(config)
        student = pretrained_student(config, public, transfer)
        before = trained_state(student)
        rows[calibrate] = PublicOwner(config, student, public, transfer).answer(student).soft_labels
        assert all((before[name] == value).all() for name, value in trained_state(student).items())
    temperature = best_temperature(student, public.val)
    np.testing.assert_allclose(rows[True], temper(rows[False], temperature), atol=1e-5)
