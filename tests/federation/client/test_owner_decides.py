"""The owner, not the server, decides what shapes the private examples and what a request may cost."""

import json
from dataclasses import replace

import numpy as np
import pytest

from knot_fed.config.choices import STARTS
from knot_fed.federation.client.costs import estimate_cost, personal_cost, rounded_up
from knot_fed.federation.client.release import teacher_plan
from knot_fed.federation.wire import envelope, student_wire
from knot_fed.models import ModelSpec, build_classifier, trained_state
from knot_fed.types import LabelledTexts
from tests.federation.client.owners import LABELS, PUBLIC, Owner, request, rows, student


def split_of(owner):
    examples = owner.client().examples()[0]
    return {part: set(getattr(examples, part).texts) for part in ("train", "val", "test")}


@pytest.mark.parametrize(
    "keys",
    [
        {"seed": 5},
        {"data.limit": 10},
        {"data.split": "label"},
        {"data.separator": " is "},
        {"data.delimiter": " "},
        {"data.quoting": "none"},
    ],
)
def test_no_setting_of_a_server_changes_the_split_or_the_examples(tmp_path, keys):
    owner = Owner(tmp_path / "mine")
    before = split_of(owner)
    assert split_of(owner.run(8, **{"keys": keys})) == before
    assert sum(map(len, before.values())) == 300


def test_the_split_is_another_for_another_owner_and_stays_over_restarts(tmp_path):
    first, second = (Owner(tmp_path / name) for name in ("one", "two"))
    assert split_of(first) != split_of(second)
    assert split_of(Owner(tmp_path / "one")) == split_of(first)


def test_one_record_more_moves_no_other(tmp_path):
    """Files that are neighbours give neighbouring training splits, on which a mechanism's epsilon is defined."""
    owner = Owner(tmp_path / "mine")
    before = split_of(owner)
    owner.write(rows(extra=[{"text": "one more", "label": 2}]))
    after = split_of(owner)
    added = {part: after[part] - before[part] for part in before}
    assert sorted(map(len, added.values())) == [0, 0, 1]
    assert not any(before[part] - after[part] for part in before)


def test_a_servers_limit_on_texts_holds_for_no_real_node_and_its_longest_text_neither(tmp_path):
    owner = Owner(tmp_path / "mine", **{"max-length": 32}).run(keys={"teacher.max-length": 8})
    assert owner.client().spec(PUBLIC).max_length == 32


def test_a_separator_is_the_nodes_own(tmp_path):
    owner = Owner(tmp_path / "mine", separator=" number ")
    assert all(isinstance(text, tuple) for text in owner.client().examples()[0].train.texts)


@pytest.mark.parametrize(
    ("keys", "policy", "said"),
    [
        ({"privacy.mechanism": "pate", "privacy.shards": 1000}, "", "more than max-shards = 100"),
        ({"teacher.epochs": 10_000}, "max-steps = 5000", "more than max-steps = 5000"),
        ({"privacy.mechanism": "dp-sgd", "privacy.epochs": 9_000}, "max-steps = 5000", "more than max-steps = 5000"),
        ({}, "max-bytes = 1000", "more than max-bytes = 1000"),
        ({"teacher.epochs": 10_000}, "max-seconds = 1\nmax-steps = 0", "more than max-seconds = 1"),
    ],
)
def test_an_absurd_request_is_refused_before_it_is_charged_or_computed(tmp_path, keys, policy, said):
    owner = Owner(tmp_path / "mine", policy=policy).run(keys=keys)
    assert said in owner.refusal("train", request())
    assert not [entry for entry in owner.entries() if entry.texts]
    assert not (owner.state / "teachers").exists()


def test_no_refusal_of_a_costly_request_tells_how_many_examples_there_are(tmp_path):
    """With batches of one example an epoch has as many steps as examples; a server may request any number of epochs."""
    settings = {"privacy.mechanism": "pate", "privacy.shards": 2, "teacher.batch-size": 1}

    def answers(count):
        owner = Owner(tmp_path / str(count), policy='require = ["pate"]\nmax-steps = 10000', examples=rows(count))
        return [
            owner.run(epochs, keys=settings | {"privacy.epochs": epochs}).refusal("train", request())
            for epochs in (79, 100, 1000, 9999)
        ]

    assert answers(300) == answers(301) == ["the request would take more than max-steps = 10000; ask for less"] * 4


def test_one_example_more_hardly_ever_changes_what_a_cost_is_estimated_for():
    keys = [number.to_bytes(2) for number in range(2000)]
    changed = sum(rounded_up(1024, key=key) != rounded_up(1025, key=key) for key in keys)
    assert changed <= 12  # 1.44 / 1024 of 2,000 are 2.8
    assert all(count <= rounded_up(count, key=keys[1]) <= 2 * count + 1 for count in range(1, 3000))
    assert rounded_up(0, key=keys[1]) == 0


def test_a_cost_is_not_hidden_behind_short_texts(tmp_path):
    """The seconds are estimated on texts of all lengths, whatever their order."""
    owner = Owner(tmp_path / "mine")
    client, short = owner.client(), tuple(f"short {number}" for number in range(32))
    plan = teacher_plan(client, client.examples()[0], PUBLIC, seed=1, asked=len(PUBLIC))
    model = build_classifier(plan.spec, seed=0)
    long = tuple(" ".join(f"word{number}x{place}" for place in range(2000)) for number in range(60))
    seconds = [estimate_cost(plan, model, texts, key=b"secret").seconds for texts in (short, short + long)]
    assert seconds[1] > 5 * seconds[0]


def test_a_refused_request_leaves_no_file_behind(tmp_path):
    owner = Owner(tmp_path / "mine", policy="max-texts-per-run = 1")
    assert "max-texts-per-run" in owner.refusal("train", request())
    assert not (owner.state / "ledger-texts").exists()


def test_an_estimate_is_of_the_order_of_what_is_done(tmp_path):
    owner = Owner(tmp_path / "mine").run(keys={"teacher.epochs": 3, "teacher.batch-size": 32})
    client = owner.client()
    examples = client.examples()[0]
    plan = teacher_plan(client, examples, PUBLIC, seed=1, asked=len(PUBLIC))
    cost = estimate_cost(plan, build_classifier(plan.spec, seed=0), PUBLIC.texts, key=b"secret")
    done = 3 * int(np.ceil(len(examples.train) / 32))
    assert done <= cost.steps <= 2 * done + 3
    assert cost.bytes >= 4 * sum(p.numel() for p in build_classifier(plan.spec, seed=0).parameters())
    assert 0 < cost.seconds < 60


@pytest.mark.parametrize("personal", [False, True])
def test_a_cost_covers_the_validation_split_which_is_scored_after_each_epoch(tmp_path, personal):
    seconds = []
    for epochs in (1, 200):
        keys = {"teacher.epochs": epochs, "personal.epochs": epochs, "personal.consensus": "pooled"}
        client = Owner(tmp_path / "mine", examples=rows(20)).run(keys=keys).client()
        plan = teacher_plan(client, client.examples()[0], PUBLIC, seed=1, asked=len(PUBLIC))
        val = LabelledTexts(("it is good",) * 20_000, np.zeros(20_000, dtype=np.int64))
        plan = replace(plan, examples=replace(plan.examples, val=val))
        model = build_classifier(plan.spec, seed=0)
        if personal:
            cost = personal_cost(plan, model, PUBLIC.texts, teachers=[], key=b"secret")
        else:
            cost = estimate_cost(plan, model, PUBLIC.texts, key=b"secret")
        seconds.append(cost.seconds)
    assert seconds[1] > 20 * seconds[0]


@pytest.mark.parametrize("start", STARTS)
def test_a_cost_covers_the_epochs_of_teachers_from_every_start(tmp_path, start):
    keys = {"teacher.start": start, "teacher.epochs": 1, "teacher.round-epochs": 50, "teacher.batch-size": 32}
    keys |= {"personal.consensus": "pooled", "personal.when": "rounds"} if start == "personal" else {}
    client = Owner(tmp_path / "mine").run(keys=keys | {"round-texts": "all"}).client()
    examples = client.examples()[0]
    plan = teacher_plan(client, examples, PUBLIC, seed=1, asked=len(PUBLIC))
    steps = estimate_cost(plan, build_classifier(plan.spec, seed=0), PUBLIC.texts, key=b"secret").steps
    epochs = {"scratch": 1, "student": 50, "both": 51, "personal": 50}[start]
    assert steps >= epochs * int(np.ceil(len(examples.train) / 32))


def test_a_model_that_dp_sgd_cannot_train_is_refused_before_it_is_charged(tmp_path, monkeypatch):
    monkeypatch.setattr("knot_fed.training.dp_sgd.find_spec", lambda name: None)
    owner = Owner(tmp_path / "mine").run(keys={"privacy.mechanism": "dp-sgd"})
    assert "needs Opacus" in owner.refusal("train", request())
    assert not [entry for entry in owner.entries() if entry.texts]


def test_a_charge_is_taken_back_where_nothing_was_computed_and_stays_where_something_was(tmp_path, monkeypatch):
    owner = Owner(tmp_path / "mine")

    def fails(*_, **__):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("knot_fed.federation.client.release._Release.compute", fails)
        assert "failed with OSError" in owner.refusal("train", request())
    assert owner.client().ledger.released_in_life() == 0
    with monkeypatch.context() as patch:
        patch.setattr("knot_fed.mechanisms.base.load_or_train_teacher", fails)
        assert "failed with OSError" in owner.refusal("train", request())
    assert owner.client().ledger.released_in_life() == len(PUBLIC)


def test_under_a_guarantee_no_student_is_measured_whatever_the_server_asks(tmp_path):
    for number, policy in enumerate(('require = ["dp-sgd"]', "max-epsilon = 1.0", "max-epsilon-per-run = 1.0")):
        owner = Owner(tmp_path / str(number), policy=policy)
        assert "set evaluate-without-guarantee" in owner.refusal("evaluate", student())
    allowed = Owner(tmp_path / "allowed", policy="max-epsilon = 1.0\nevaluate-without-guarantee = true")
    assert student_wire.METRICS in allowed.ask("evaluate", student())


def test_evaluations_are_counted_over_runs(tmp_path):
    """An attack with 560 crafted students over 12 runs ends at the life's limit, whatever the runs."""
    owner = Owner(tmp_path / "mine", policy="max-evaluations-in-life = 3")
    for number in range(3):
        assert student_wire.METRICS in owner.run(number).ask("evaluate", student())
    assert "max-evaluations-in-life = 3: 3 used, 1 more needed" in owner.run(99).refusal("evaluate", student())
    assert sum(entry.evaluations for entry in owner.entries()) == 3


def test_metrics_of_a_real_node_are_rounded_and_of_few_examples_withheld(tmp_path):
    metrics = Owner(tmp_path / "mine").ask("evaluate", student())[student_wire.METRICS]
    assert all(round(float(value), 2) == value for name, value in metrics.items() if name != "examples")
    few = Owner(tmp_path / "few", examples=rows(40))
    assert "least-test-examples" in few.refusal("evaluate", student())
    assert not [entry for entry in few.entries() if entry.evaluations]


def test_no_coordinates_that_a_server_gives_the_labels_make_metrics_finer(tmp_path):
    """An SD of 614625.01 once left with eight digits where the owner allows two, revealing more about private texts."""
    owner = Owner(tmp_path / "mine")
    for run, scale in enumerate((1e-3, 0.5, 3.0, 1e3, 1e6)):
        places = ";".join(str(scale * place) for place in (-1, -0.4, 0, 0.3, 1))
        owner.run(run, keys={"labels.names": ",".join(LABELS.names), "labels.coordinates": places})
        content = owner.ask("evaluate", student())
        told = student_wire.unpack_metrics(content, labels=owner.client().run.label_space())
        step = 10.0 ** (np.floor(np.log10(max(2 * scale, 1.0))) - 2)
        for value in (told.sd, told.w1):
            assert value == 2 * scale or abs(value / step - round(value / step)) < 1e-6


@pytest.mark.parametrize(("model", "longest", "said"), [("tiny-bert", 513, "reads 513 tokens"), ("tiny-bert", 512, "")])
def test_a_student_reads_no_more_of_a_private_text_than_the_owner_lets(tmp_path, model, longest, said):
    owner = Owner(tmp_path / "mine", **{"max-length": 16})
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "it", "is")
    spec = ModelSpec(model, "all", LABELS.names, paired=False, max_length=longest, vocabulary=words)
    arrays = envelope.pack_arrays(trained_state(build_classifier(spec, seed=0)))
    content = student_wire.pack_student(spec.to_json(), arrays)
    if said:
        assert said in owner.refusal("evaluate", content)
    else:
        assert student_wire.METRICS in owner.ask("evaluate", content)
        read = owner.client().build_student(spec.to_json(), arrays)
        assert len(read.encode(["it is " * 600])[0]["input_ids"]) == 16


def test_a_student_that_cannot_be_built_is_not_charged(tmp_path):
    owner = Owner(tmp_path / "mine")
    wrong = json.loads(student()["about"]["spec"]) | {"labels": ["a", "b"]}
    content = student()
    content["about"]["spec"] = json.dumps(wrong)
    assert "other labels" in owner.refusal("evaluate", content)
    assert not [entry for entry in owner.entries() if entry.evaluations]
