"""The same text gets the same answer, damage is repaired or reported, and a failed request costs nothing."""

import logging
import shutil

import numpy as np
import pytest

from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import ModelError
from knot_fed.federation.client.release import RELEASES, TEACHERS
from knot_fed.models import ModelSpec, build_classifier, trained_state
from knot_fed.privacy.compression import compress
from knot_fed.privacy.ledger.ledger import Ledger
from knot_fed.training.kept_teachers import load_or_train
from tests.federation.client.owners import PUBLIC, Owner, request

GAUSSIAN = {"privacy.mechanism": "gaussian", "privacy.epsilon": 5.0}
DP_SGD = {"privacy.mechanism": "dp-sgd"}
PATE = {"privacy.mechanism": "pate"}
UNREAD = {
    "gaussian": {"privacy.top-k": 3, "privacy.shards": 7, "privacy.clipping-norm": 2.0, "privacy.votes": "labels",
                 "distill.loss": "entropy", "teacher.max-length": 64, "trainable": "head", "data.limit": 50,
                 "transport.cost": "zero-one", "rounds": 3, "privacy.sampling-rate": 0.2, "weights.power": 2.0},
    "dp-sgd": {"privacy.top-k": 3, "privacy.shards": 7, "teacher.patience": 2, "teacher.epochs": 9,
               "teacher.batch-size": 16, "teacher.learning-rate": 0.1, "teacher.weight-decay": 0.5,
               "teacher.max-length": 64, "privacy.votes": "labels", "distill.epochs": 9},
    "pate": {"privacy.top-k": 3, "privacy.clipping-norm": 2.0, "teacher.patience": 2, "teacher.epochs": 9,
             "privacy.sampling-rate": 0.2, "privacy.learning-rate": 0.5, "teacher.max-length": 64},
    "pate labels": {"teacher.temperature": 2.0, "privacy.top-k": 3},
}  # fmt: skip
NAMES = {"labels.names": "a, b, c, d, e"}
"""The owner's file has numbers for labels, so that nothing reads what the server calls them."""
for keys in UNREAD.values():
    keys |= NAMES


@pytest.mark.parametrize(
    ("mechanism", "key", "value"), [(name, *item) for name, keys in UNREAD.items() for item in keys.items()]
)
def test_a_setting_that_the_answer_does_not_read_draws_no_noise_anew(tmp_path_factory, mechanism, key, value):
    owner, (name, *votes) = _owner(tmp_path_factory, mechanism), mechanism.split()
    asked = {"privacy.mechanism": name} | ({"privacy.votes": votes[0]} if votes else {})
    first = owner.run(1, keys=asked).soft_labels()
    again = owner.run(2, keys=asked | {key: value}).soft_labels()
    np.testing.assert_array_equal(again.answer.soft_labels, first.answer.soft_labels)
    assert [entry.fresh for entry in owner.entries() if entry.run == "2" and entry.texts][-1:] == [0]


_OWNERS = {}


def _owner(tmp_path_factory, mechanism):
    if mechanism not in _OWNERS:
        _OWNERS[mechanism] = Owner(tmp_path_factory.mktemp(mechanism) / "mine")
    return _OWNERS[mechanism]


def test_compression_is_done_to_the_kept_release(tmp_path):
    owner = Owner(tmp_path / "mine").run(keys=GAUSSIAN)
    plain = owner.soft_labels().answer.soft_labels
    for scheme in ("float16", "uint8", "top-k", "hard"):
        sent = owner.run(keys=GAUSSIAN | {"privacy.compression": scheme}).ask("train", request())
        arrays = {name: array.numpy() for name, array in sent["soft-labels"].items() if name != "confidence"}
        for name, expected in compress(plain, scheme, top_k=2).items():
            np.testing.assert_array_equal(arrays[name], expected)
    assert sum(entry.fresh for entry in owner.entries()) == len(PUBLIC)


@pytest.mark.parametrize("keys", [GAUSSIAN, PATE])
def test_a_text_gets_its_row_again_whatever_is_asked_with_it(tmp_path, keys):
    """Averaging 150 requests once reduced the error to a ninth; now all of them return one row."""
    owner = Owner(tmp_path / "mine").run(keys=keys)
    whole = owner.soft_labels().answer.soft_labels
    for start, stop in ((0, 5), (3, 9), (17, 18)):
        np.testing.assert_array_equal(owner.soft_labels(start=start, stop=stop).answer.soft_labels, whole[start:stop])
    reversed_set = TransferSet(PUBLIC.texts[::-1])
    np.testing.assert_array_equal(owner.run(8, keys=keys).soft_labels(reversed_set).answer.soft_labels, whole[::-1])
    assert sum(entry.fresh for entry in owner.entries()) == len(PUBLIC)
    more = TransferSet((*PUBLIC.texts[:-1], "a new text"))
    rows = owner.run(9, keys=keys).soft_labels(more).answer.soft_labels
    np.testing.assert_array_equal(rows[:-1], whole[:-1])
    assert sum(entry.fresh for entry in owner.entries()) == len(PUBLIC) + 1


def test_another_teacher_or_noise_is_another_release_and_is_charged(tmp_path):
    owner = Owner(tmp_path / "mine").run(keys=GAUSSIAN)
    first = owner.soft_labels().answer.soft_labels
    for number, change in enumerate(({"seed": 2}, {"privacy.epsilon": 4.0}, {"teacher.temperature": 1.5}), start=8):
        other = owner.run(number, keys=GAUSSIAN | change).soft_labels().answer.soft_labels
        assert not np.array_equal(other, first)
    assert sum(entry.fresh for entry in owner.entries()) == 4 * len(PUBLIC)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "flipped": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-7]),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "removed": lambda file: file.unlink(),
}


def files_in(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kept", [TEACHERS, "answers"])
def test_damage_to_what_can_be_computed_again_heals_itself_with_a_line(tmp_path, caplog, kept, damage):
    owner = Owner(tmp_path / "mine")
    first = owner.soft_labels().answer.soft_labels
    for file in files_in(owner.state / kept):
        DAMAGES[damage](file)
        with caplog.at_level(logging.WARNING, logger="knot_fed"):
            caplog.clear()
            np.testing.assert_array_equal(owner.soft_labels().answer.soft_labels, first)
        assert "damaged" in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("keys", "kept"), [(GAUSSIAN, RELEASES), (PATE, RELEASES), (DP_SGD, TEACHERS)])
def test_damage_to_a_noisy_release_is_told_and_nothing_is_drawn_anew(tmp_path, caplog, keys, kept, damage):
    owner = Owner(tmp_path / "mine").run(keys=keys)
    owner.soft_labels()
    charged = owner.client().ledger.released_in_life()
    before = {file: file.read_bytes() for file in files_in(owner.state / kept)}
    file = next(file for file in before if file.suffix in (".npy", ".safetensors"))
    DAMAGES[damage](file)
    with caplog.at_level(logging.WARNING, logger="knot_fed"):
        said = owner.refusal("train", request())
    assert "a kept noisy release of this client is damaged" in said
    assert "remove that folder" in caplog.text
    assert owner.client().ledger.released_in_life() == charged
    owner.state.joinpath(kept).mkdir(exist_ok=True)
    for name, content in before.items():
        name.write_bytes(content)
    assert owner.soft_labels().answer.soft_labels.shape == (len(PUBLIC), 5)


@pytest.mark.parametrize(("keys", "kept"), [(GAUSSIAN, RELEASES), (PATE, RELEASES), (DP_SGD, TEACHERS), ({}, TEACHERS)])
def test_a_kept_folder_in_the_place_of_another_is_never_used(tmp_path, keys, kept):
    """Each is intact and has its digests; only its name is that of another."""
    owner = Owner(tmp_path / "mine")
    first = owner.run(1, keys=keys).soft_labels().answer.soft_labels
    owner.run(2, keys=keys | {"seed": 2}).soft_labels()
    one, other = sorted(path for path in (owner.state / kept).iterdir() if path.is_dir())
    for a, b in ((one, tmp_path / "aside"), (other, one), (tmp_path / "aside", other)):
        a.rename(b)
    if keys:
        assert "a kept noisy release of this client is damaged" in owner.run(1, keys=keys).refusal("train", request())
    else:
        np.testing.assert_array_equal(owner.run(1, keys=keys).soft_labels().answer.soft_labels, first)


@pytest.mark.parametrize("keys", [GAUSSIAN, DP_SGD])
def test_what_is_drawn_again_in_a_run_counts_again_against_its_limit(tmp_path, keys):
    policy = 'max-epsilon-per-run = 8.0\nunit = "client"' if keys is GAUSSIAN else "max-epsilon-per-run = 8.0"
    owner = Owner(tmp_path / "mine", policy=policy).run(keys=keys | {"privacy.epsilon": 8.0})
    owner.soft_labels()
    owner.soft_labels()
    shutil.rmtree(owner.state / (RELEASES if keys is GAUSSIAN else TEACHERS))
    assert "beyond max-epsilon-per-run = 8" in owner.refusal("train", request())


def test_a_noisy_release_that_its_owner_removed_is_another_one_and_is_charged(tmp_path):
    owner = Owner(tmp_path / "mine").run(keys=GAUSSIAN)
    first = owner.soft_labels().answer.soft_labels
    shutil.rmtree(owner.state / RELEASES)
    assert not np.array_equal(owner.soft_labels().answer.soft_labels, first)
    assert sum(entry.fresh for entry in owner.entries()) == 2 * len(PUBLIC)


def test_the_claim_of_a_run_counts_a_text_once_and_its_slices_together(tmp_path):
    owner = Owner(tmp_path / "mine").run(keys=GAUSSIAN)
    half = owner.soft_labels(stop=9).claim.epsilon
    whole = owner.soft_labels(start=9).claim.epsilon
    assert half < whole == pytest.approx(5.0, rel=1e-6)
    assert owner.soft_labels().claim.epsilon == pytest.approx(5.0, rel=1e-6)


@pytest.mark.parametrize(("keys", "kept"), [(GAUSSIAN, RELEASES), (PATE, RELEASES), (DP_SGD, TEACHERS)])
def test_a_release_that_is_removed_between_charge_and_answer_is_not_drawn_for_nothing(
    tmp_path, monkeypatch, keys, kept
):
    owner = Owner(tmp_path / "mine").run(keys=keys)
    owner.soft_labels()
    charge = Ledger.charge

    def charged_and_removed(self, decide):
        done = charge(self, decide)
        shutil.rmtree(owner.state / kept)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "charge", charged_and_removed)
        assert "removed while" in owner.refusal("train", request())
    assert not list((owner.state / kept).rglob("*.npy"))
    assert owner.soft_labels().answer.soft_labels.shape == (len(PUBLIC), 5)


def test_a_dp_sgd_teacher_that_cannot_be_loaded_is_not_trained_again(tmp_path, monkeypatch):
    owner = Owner(tmp_path / "mine").run(keys=DP_SGD)
    owner.soft_labels()

    def unreadable(*_, **__):
        raise ModelError("of another release")

    with monkeypatch.context() as patch:
        patch.setattr("knot_fed.training.kept_teachers.load_classifier", unreadable)
        assert "a kept noisy release of this client is damaged" in owner.refusal("train", request())
    assert len(list((owner.state / TEACHERS).iterdir())) == 1


def test_where_two_processes_train_one_teacher_both_answer_with_the_one_that_is_kept(tmp_path):
    spec = ModelSpec("ngram-bag", "all", ("bad", "good"), False, 16)
    first, second = (build_classifier(spec, seed=seed) for seed in (1, 2))

    def meanwhile():
        load_or_train(tmp_path / "kept", lambda: first, heal=False)
        return second

    loaded, reused = load_or_train(tmp_path / "kept", meanwhile, heal=False)
    assert reused
    np.testing.assert_array_equal(trained_state(loaded)["head.weight"], trained_state(first)["head.weight"])
