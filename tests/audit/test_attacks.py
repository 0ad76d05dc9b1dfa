import base64
import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from knot_fed.audit.attacks.findings import Effort
from knot_fed.audit.attacks.registry import ATTACKS, POISONS
from knot_fed.audit.folder import AuditFolder
from knot_fed.audit.report import roc_figure
from knot_fed.audit.study import Audit, run_part
from knot_fed.audit.subject import OpenedRun
from knot_fed.cli.main import app
from knot_fed.config import RunConfig
from knot_fed.config.choices import POOLINGS
from knot_fed.data.reviews import builtin_examples
from knot_fed.federation.server.public_owner import PublicOwner
from knot_fed.federation.server.run import start_student
from knot_fed.labels import LabelSpace, check_soft_labels
from knot_fed.sweep.references import open_owners
from knot_fed.training.teacher import predict_soft_labels

pytestmark = pytest.mark.slow

EFFORT = Effort(shadows=6, candidates=30, nearest=2, canaries=40, references=4, delta=1e-5)
ROLES = {"phones": 80, "restaurants": 60, "hotels": 60, "books": 60, "forum": 40}


@pytest.fixture
def config(run_config, tmp_path):
    """A run on a few built-in reviews, written to files."""
    for name, size in ROLES.items():
        examples = builtin_examples(name, LabelSpace.preset("sentiment"))
        parts = {part: getattr(examples, part).select(range(size)) for part in ("train", "val", "test")}
        rows = [
            {"text": text, "label": int(label), "split": part}
            for part, held in parts.items()
            for text, label in zip(held.texts, held.labels, strict=True)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return run_config(keys={"data.root": str(tmp_path), "distill.epochs": 1, "teacher.epochs": 3})


@pytest.fixture
def audit(config, tmp_path):
    folder = AuditFolder.open(tmp_path / "audit", config=config, effort=EFFORT, client="phones", clients=3)
    return Audit(folder, config, 3, "phones", list(ATTACKS), [1], EFFORT, 1)


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_on_a_run_leaves_finite_rows_and_is_kept(audit, attack):
    assert not audit.folder.finished(attack, 1)
    run_part(audit, attack, 1)
    assert audit.folder.finished(attack, 1)
    table = audit.folder.table()
    assert np.isfinite(table["value"]).all()
    assert set(table["client"]) == ({"phones", "restaurants", "hotels"} if attack == "label-mix" else {"phones"})
    if attack == "poisoning":
        cases = {f"{kind}, {pooling}" for kind in ("honest", *POISONS) for pooling in POOLINGS}
        assert set(table["case"]) == cases
    for scores, members in audit.folder.scores(attack).values():
        assert scores.shape == members.shape
        assert 0 < members.mean() < 1


def test_curves_have_plain_numbers_on_both_axes():
    members = np.arange(40)[None] % 2 == 0
    source = roc_figure({"own row": (members + 0.0, members)}, "membership").source
    drawn = base64.b64decode(source.partition("base64,")[2]).decode()
    assert drawn.count(">0.001<") == 2
    assert "mathdefault" not in drawn


def test_confidences_tell_the_prediction_bias(audit):
    run_part(audit, "label-mix", 1)
    table = audit.folder.table().set_index(["client", "case", "measure"])["value"]
    for client in ("phones", "restaurants", "hotels"):
        told, kept = (table[client, case, "kl"] for case in ("soft labels and confidences", "prediction bias"))
        assert told == pytest.approx(kept, abs=0.01)


def test_an_audited_teacher_is_the_runs_own_and_a_student_is_distilled_anew_each_time(config):
    federation = OpenedRun.open(config, clients=3)
    subject = federation.subjects[0]
    texts = federation.transfer.texts[:20]
    again = subject.train(subject.examples.train, subject.client.seed())
    np.testing.assert_array_equal(subject.run_teacher()(texts), again(texts))
    answers = {it.client.name: it.run_teacher().answer(federation.transfer.texts) for it in federation.subjects}
    before = predict_soft_labels(start_student(config, federation.public, federation.transfer), texts)
    students = [federation.distil(federation.transfer.texts, answers) for _ in range(2)]
    told = [predict_soft_labels(student, texts) for student in students]
    np.testing.assert_array_equal(*told)
    assert np.abs(told[0] - before).max() > 0


@pytest.mark.parametrize("calibrate", [False, True])
def test_the_public_teacher_of_audits_and_baselines_answers_as_the_servers_own(config, calibrate):
    config = RunConfig.from_mapping(config.to_mapping() | {"teacher.calibrate": calibrate, "student.pretrain": True})
    opened = OpenedRun.open(config, clients=3)
    owner = PublicOwner(config, opened.pretrained(), opened.public, opened.transfer)
    asked = owner.answer(opened.pretrained()).soft_labels
    texts = opened.transfer.texts
    (audited,) = opened.public_answers(texts)
    np.testing.assert_array_equal(audited.soft_labels, asked)
    *_, server = open_owners(config, opened.transfer, opened.public, 3)
    np.testing.assert_array_equal(server.answer(texts, config.weights).soft_labels, asked)


@pytest.mark.parametrize("mechanism", ["dp-sgd", "pate", "gaussian"])
def test_a_teacher_is_attacked_behind_the_runs_own_mechanism(config, mechanism):
    keys = {"privacy.mechanism": mechanism, "privacy.epsilon": 2.0, "privacy.epochs": 1, "weights.scheme": "uniform"}
    private = RunConfig.from_mapping(config.to_mapping() | keys)
    plain, noisy = (OpenedRun.open(chosen, clients=3).subjects[0] for chosen in (config, private))
    texts = plain.transfer.texts[:10]
    answers = [subject.train(subject.examples.train, 1)(texts) for subject in (plain, noisy, noisy)]
    for answer in answers:
        check_soft_labels(answer)
    assert np.abs(answers[1] - answers[0]).max() > 0
    assert np.abs(answers[1] - answers[2]).max() > 0


def command(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_an_audit_goes_on_where_it_stopped_and_refuses_another_configuration(config, tmp_path):
    pairs = f"data.root='{tmp_path}' teacher.epochs=2 distill.epochs=1 state-dir='{tmp_path / 'state'}'"
    options = ["--attacks", "label-mix", "--seeds", "1", "--jobs", "1", "--out", tmp_path / "out"]
    first = command(pairs, *options)
    assert first.exit_code == 0, first.output
    assert "label-mix, seed 1" in first.output
    written = next((tmp_path / "out/parts").glob("*.json")).stat().st_mtime_ns
    second = command(pairs, *options)
    assert second.exit_code == 0, second.output
    assert "label-mix, seed 1" not in second.output
    assert next((tmp_path / "out/parts").glob("*.json")).stat().st_mtime_ns == written
    table = pd.read_csv(tmp_path / "out/attacks.csv")
    assert set(table["attack"]) == {"label-mix"}
    assert (tmp_path / "out/report.html").is_file()
    more = command(pairs, *options, "--attacks", "poisoning", "--seeds", "2,")
    assert more.exit_code == 0, more.output
    joined = pd.read_csv(tmp_path / "out/attacks.csv")
    assert set(zip(joined["attack"], joined["seed"], strict=True)) == {("label-mix", 1), ("poisoning", 2)}
    pd.testing.assert_frame_equal(joined[joined["attack"] == "label-mix"], table)
    other = command(pairs + " rounds=2", *options)
    assert other.exit_code == 1
    assert "another audit's folder (config differs in rounds)" in " ".join(other.output.split())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--attacks", "membership,gossip"], "no attack gossip; use membership, student, label-mix"),
        (["--client", "nobody"], "no such client; use one of phones, restaurants, hotels"),
        (["--seeds", "0"], "no seed"),
    ],
)
def test_what_cannot_be_attacked_is_refused_in_one_sentence(options, reason, tmp_path):
    result = command("rounds=1", *options, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert reason in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
