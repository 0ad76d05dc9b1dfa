"""Students distilled from kept answers equal those of whole federations, to the last bit."""

from pathlib import Path

import numpy as np
import pytest

from knot_fed.aggregation import consensus_of_pooled
from knot_fed.config import RunConfig, WeightsConfig
from knot_fed.errors import ConfigError, RunFolderError
from knot_fed.federation.from_answers import distil_from_answers, question, unserved
from knot_fed.federation.server.checkpoint import Received
from knot_fed.federation.server.facts import privacy_facts
from knot_fed.federation.server.kept_answers import KeptAnswers
from knot_fed.federation.server.roster import ClientRecord, Roster
from knot_fed.federation.wire.exchange import Claim
from knot_fed.runs.arrays import pack_file, read_file
from knot_fed.runs.run_folder import RunFolder
from tests.federation.server.test_federated_run import folder_of, run, timeless

STUDENT = "student/parameters.safetensors"
POOLED = "pooled-soft-labels-{}.npy"


def again(source, config, name, *, clients=3, **keys):
    mapping = config.to_mapping() | {"name": name, "runs-dir": str(source.path.parent), "keep-answers": False} | keys
    return distil_from_answers(source, RunConfig.from_mapping(mapping), clients=clients)


def told(folder):
    summary = timeless(folder.read_summary())
    del summary["answers_of"]
    return summary


def named(folder, name, run):
    """Return a file's content; the model card bears the run's name, which is taken out."""
    content = (folder.path / name).read_bytes()
    return content.replace(run.encode(), b"RUN") if Path(name).name == "README.md" else content


@pytest.mark.slow
def test_answers_outlive_a_filter_that_leaves_no_text(small, tmp_path):
    keys = {"distill.objective": "pooled", "weights.most-entropy": 0.01}
    config = small(keys | {"weights.scheme": "uniform", "state-dir": str(tmp_path / "state")})
    with pytest.raises(ConfigError, match=r"weights leave none of .* transfer texts"):
        run(config, "filtered")
    source = RunFolder.open(folder_of(config) / "filtered")
    second = again(source, config, "unfiltered", **{"weights.most-entropy": 1.0})
    assert second.read_summary()["clients_answered"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "other"),
    [
        ({}, {"distill.loss": "entropy", "distill.objective": "pooled"}),
        ({"weights.scheme": "confidence", "rounds": 2}, {"weights.scheme": "size", "weights.power": 2.0}),
        ({"weights.scheme": "density"}, {"weights.scheme": "certainty", "distill.agreement": 1.0}),
        ({}, {"student.model": "tiny-bert", "student.pretrain": False, "distill.epochs": 1}),
        ({"privacy.compression": "uint8"}, {"weights.pooling": "median", "distill.objective": "pooled"}),
        ({"privacy.mechanism": "gaussian", "weights.scheme": "uniform"}, {"distill.loss": "kl"}),
        ({"privacy.secure-sum": True, "distill.objective": "pooled"}, {"distill.loss": "jensen-shannon"}),
        ({"distill.supervised": 0.5}, {"transport.cost": "semantic", "student.calibrate": False}),
        ({"teacher.start": "both", "distill.epochs": 2}, {"distill.loss": "entropy", "distill.dropout": False}),
        ({"teacher.start": "student"}, {"weights.scheme": "size", "distill.objective": "pooled"}),
    ],
    ids=lambda keys: ",".join(keys) or "defaults",
)
def test_a_student_from_answers_equals_that_of_a_federation(small, asked, other, tmp_path):
    once = {"state-dir": str(tmp_path / "first")} if "privacy.secure-sum" in asked else {}  # no rows are summed twice
    source, _ = run(small(asked | once), "source")
    config = small(asked | other)
    whole, _ = run(config, "run-whole")
    second = again(source, config, "run-second")
    assert told(second) == told(whole)
    assert second.read_summary()["answers_of"] == "source"
    names = [file.relative_to(whole.path) for file in whole.student.rglob("*") if file.is_file()]
    for name in [*names, *(POOLED.format(number + 1) for number in range(config.rounds))]:
        assert named(second, name, "run-second") == named(whole, name, "run-whole")
    assert not second.answers(1).exists()


@pytest.fixture
def source(small):
    config = small()
    folder, grid = run(config, "source")
    return folder, config, grid


def test_the_file_holds_the_soft_labels_that_the_server_read_for_its_owner_only(source):
    folder, config, _ = source
    kept = KeptAnswers.load(folder, 1)
    assert list(kept.answers) == sorted(kept.answers) == ["hotels", "phones", "restaurants"]
    assert all(client.reused is False and client.bytes_up > 0 for client in kept.clients.values())
    texts = len(np.load(folder.path / POOLED.format(1)))
    assert {(a.soft_labels.shape, a.scores.shape) for a in kept.answers.values()} == {((texts, 5), (texts,))}
    assert oct(folder.answers(1).stat().st_mode & 0o777) == "0o600"
    assert config.keep_answers


def test_after_a_secure_sum_only_the_sum_is_kept(small):
    folder, _ = run(small({"privacy.secure-sum": True, "distill.objective": "pooled"}), "summed")
    kept = KeptAnswers.load(folder, 1)
    assert not kept.answers
    assert (kept.pooled == np.load(folder.path / POOLED.format(1))).all()


def test_answers_of_version_0_1_can_be_distilled(small):
    """They do not say whether they have scores, which then all had."""
    folder, _ = run(small({"weights.scheme": "confidence"}), "older")
    facts, arrays = read_file(folder.answers(1))
    folder.write_answers(1, pack_file({key: facts[key] for key in facts if key != "scored"}, arrays))
    assert KeptAnswers.load(folder, 1).scored


def test_the_answers_of_a_resumed_run_state_the_epsilon_that_its_summary_states(small):
    config = small({"privacy.mechanism": "gaussian", "weights.scheme": "uniform", "resume": "interrupted"})
    roster = Roster(config, rounds=1)
    roster.outcome.clients["phones"] = ClientRecord("phones", 1, claim=Claim("gaussian", 2.0, 1e-6), rounds=1)
    received = Received(
        {"phones": {"reused": False, "seconds": 0.0}}, consensus_of_pooled(np.full((2, 5), 0.2), WeightsConfig())
    )
    kept = KeptAnswers.of(received, roster, "0" * 64)
    told = privacy_facts(config, roster.outcome)
    assert (
        kept.clients["phones"].claim
        == Claim("gaussian", told["epsilon"], told["delta"])
        == Claim("gaussian", 8.0, 1e-5)
    )


def test_without_clients_only_the_public_split_is_measured_and_no_message_is_counted(source):
    folder, config, _ = source
    second = again(folder, config, "second", clients=0)
    summary, first = second.read_summary(), folder.read_summary()
    assert list(summary["domains"]) == ["books"]
    assert summary["domains"]["books"] == first["domains"]["books"]
    assert all("run that asked it" in client["unmeasured"] for client in summary["clients"])
    assert all(0 < c["bytes_down"] < f["bytes_down"] for c, f in zip(summary["clients"], first["clients"], strict=True))
    assert (second.path / STUDENT).read_bytes() == (folder.path / STUDENT).read_bytes()


@pytest.mark.parametrize(
    ("keys", "named"),
    [({"model": "tiny-bert"}, "model"), ({"seed": 2}, "seed"), ({"weights.scheme": "density"}, "weights.scheme"),
     ({"teacher.temperature": 2.0}, "teacher.temperature"), ({"privacy.compression": "hard"}, "privacy.compression")],
)  # fmt: skip
def test_a_setting_that_changes_the_answers_is_refused_by_name(source, keys, named):
    folder, config, _ = source
    with pytest.raises(ConfigError, match=f"asked under another {named}, which changes their answers"):
        again(folder, config, "second", **keys)
    assert not (folder.path.parent / "second").exists()


@pytest.mark.parametrize("count", [2, 5])
def test_another_number_of_clients_is_refused(source, count):
    folder, config, _ = source
    with pytest.raises(ConfigError, match=r"the run had 3 client\(s\), hotels, phones, restaurants; give their number"):
        again(folder, config, "second", clients=count)


def test_a_client_that_the_run_could_not_reach_is_left_out_again(small):
    config = small()
    partial, _ = run(config, "partial", silent=(102,))
    second = again(partial, config, "second")
    assert told(second) == told(partial)


def test_a_student_of_a_student_is_distilled_from_the_same_answers(source):
    folder, config, _ = source
    second = again(folder, config, "second", **{"keep-answers": True, "distill.loss": "mse"})
    third, direct = again(second, config, "third"), again(folder, config, "direct")
    assert (third.path / STUDENT).read_bytes() == (direct.path / STUDENT).read_bytes()


def test_answers_in_the_place_of_others_are_refused(small):
    config = small({"rounds": 2})
    folder, _ = run(config, "source")
    first, second = folder.answers(1), folder.answers(2)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(RunFolderError, match=r"answers-1.*damaged \(it holds round 2\)"):
        again(folder, config, "second")
    other, _ = run(small({"rounds": 1}), "other")
    first.write_bytes(other.answers(1).read_bytes())
    with pytest.raises(RunFolderError, match=r"have shapes .* expected"):
        again(folder, config, "third")
    first.write_bytes(kept)


def test_a_student_from_answers_is_not_resumed(source):
    folder, config, _ = source
    with pytest.raises(ConfigError, match="a student from answers is not resumed"):
        again(folder, config, "second", resume="second")


def test_another_transfer_set_is_refused(source):
    folder, config, _ = source
    file = next(path for path in (folder_of(config).parent / "data").iterdir() if path.stem == "forum")
    file.write_text(file.read_text().replace("the", "a"))
    with pytest.raises(RunFolderError, match="the kept answers label another one"):
        again(folder, config, "second")


def test_damaged_and_missing_answers_are_told(source):
    folder, config, _ = source
    whole = folder.answers(1).read_bytes()
    folder.answers(1).write_bytes(whole[:-4] + b"\x00\x00\x80\x3f")
    with pytest.raises(RunFolderError, match=r"answers-1\.safetensors: the kept answers are damaged"):
        again(folder, config, "second")
    folder.answers(1).unlink()
    with pytest.raises(RunFolderError, match="no answers of round 1 are kept"):
        again(folder, config, "second")


def test_no_answers_are_kept_if_the_run_says_so(small):
    folder, _ = run(small({"keep-answers": False}), "forgetful")
    assert not list(folder.path.glob("answers*"))


def test_a_client_that_failed_is_told_as_the_run_told_it(small):
    config = small()
    folder, _ = run(config, "source", silent=())
    partial, _ = run(config, "partial", tamper=_fails)
    second = again(partial, config, "second", clients=0)
    status = {client["name"]: client["status"] for client in second.read_summary()["clients"]}
    assert status == {client["name"]: client["status"] for client in partial.read_summary()["clients"]}
    assert sum(value == "ok" for value in status.values()) == 2
    assert second.read_summary()["clients_answered"] == 2
    assert (second.path / STUDENT).read_bytes() == (partial.path / STUDENT).read_bytes()
    assert (second.path / STUDENT).read_bytes() != (folder.path / STUDENT).read_bytes()


def _fails(reply):
    if reply.metadata.src_node_id == 101 and reply.metadata.message_type == "train":
        reply.content["answer"]["examples"] = -1
    return reply


def test_scores_serve_schemes_that_read_none_and_not_the_reverse():
    def asked(**keys):
        return question(RunConfig.from_mapping({key.replace("_", "."): value for key, value in keys.items()}))

    confidence, uniform, density = (asked(weights_scheme=name) for name in ("confidence", "uniform", "density"))
    assert unserved(confidence, uniform) == []
    assert unserved(uniform, confidence) == unserved(density, confidence) == ["weights.scheme"]
    assert unserved(uniform, asked(weights_scheme="size", distill_loss="kl")) == []
    assert unserved(uniform, asked(weights_scheme="uniform", task="nli")) == ["task"]
