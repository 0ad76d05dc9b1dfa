"""Personal models: trained on own examples and a consensus, kept under what determines them."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from knot_fed.config import PersonalConfig, TeacherConfig
from knot_fed.errors import ModelError
from knot_fed.files import keep_folder
from knot_fed.losses import ForwardKL
from knot_fed.models import ModelSpec, build_classifier, load_classifier, train_vocabulary, trained_state
from knot_fed.training.kept_teachers import load_or_train
from knot_fed.training.personal.distilling import selects_epoch, train_personal
from knot_fed.training.personal.kept import PersonalModels, personal_digest
from knot_fed.training.teacher import best_temperature, predict_soft_labels
from knot_fed.types import LabelledTexts, SplitExamples

NAMES = ("bad", "plain", "good")
SPEC = ModelSpec("ngram-bag", "all", NAMES, paired=False, max_length=16)
PUBLIC = tuple(f"a {NAMES[row % 3]} book {row}" for row in range(30))
CONSENSUS = np.float32(0.9 * np.eye(3)[np.arange(30) % 3] + 0.1 / 3)
TEACHER = TeacherConfig(batch_size=10)
FEW = PersonalConfig(epochs=30, loss="kl")


def labelled(count, labels=(0, 2)):
    found = np.array([labels[row % len(labels)] for row in range(count)])
    return LabelledTexts(tuple(f"my {NAMES[label]} room {row}" for row, label in enumerate(found)), found)


def split(train=20, val=4, labels=(0, 2)):
    return SplitExamples(labelled(train, labels), labelled(val, labels), labelled(4, labels))


def made(settings=FEW, *, examples=None, soft_labels=CONSENSUS, seed=1):
    model = build_classifier(SPEC, seed=0)
    train_personal(model, examples or split(), PUBLIC, soft_labels, ForwardKL(), settings, TEACHER, seed=seed)
    return model


def test_it_learns_its_own_labels_and_those_that_only_the_consensus_has():
    soft_labels = predict_soft_labels(made(), ["my bad room", "my good room", "a plain book"])
    assert soft_labels.argmax(axis=1).tolist() == [0, 2, 1]


def test_without_weight_the_consensus_is_not_read():
    states = [
        trained_state(made(PersonalConfig(epochs=2, weight=0.0), soft_labels=soft_labels))
        for soft_labels in (CONSENSUS, CONSENSUS[::-1])
    ]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


def test_the_test_split_is_never_read_and_the_same_seed_gives_the_same_model():
    other = split()
    other = SplitExamples(other.train, other.val, labelled(40, (1,)))
    states = [trained_state(made(examples=examples)) for examples in (split(), other)]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


def test_an_epoch_is_selected_only_where_the_validation_split_is_large_enough():
    assert selects_epoch(labelled(20))
    assert not selects_epoch(labelled(19))
    assert not selects_epoch(labelled(200, (1,)))


def test_a_consensus_that_harms_leaves_the_start_where_the_own_validation_split_tells():
    """The start knows the own labels; a consensus of nonsense with all the weight is not kept."""
    examples, start = split(60, 40), build_classifier(SPEC, seed=0)
    train_personal(start, examples, PUBLIC, CONSENSUS, ForwardKL(), FEW, TEACHER, seed=1)
    before = trained_state(start)
    swapped = CONSENSUS[:, ::-1].copy()
    train_personal(
        start, examples, PUBLIC, swapped, ForwardKL(), PersonalConfig(epochs=5, weight=1000.0), TEACHER, seed=1
    )
    assert all(np.array_equal(before[name], value) for name, value in trained_state(start).items())


@pytest.mark.parametrize(("val", "calibrated"), [(40, True), (19, False)])
def test_a_model_is_calibrated_as_its_teacher_is(val, calibrated):
    """A third of the validation labels are noise, so that no label is certain."""
    held = labelled(val)
    noisy = LabelledTexts(held.texts, np.where(np.arange(val) % 3 == 0, 2 - held.labels, held.labels))
    models = []
    for calibrate in (False, True):
        models.append(build_classifier(SPEC, seed=0))
        settings = TEACHER.model_copy(update={"calibrate": calibrate})
        examples = SplitExamples(labelled(60), noisy, labelled(4))
        train_personal(models[-1], examples, PUBLIC, CONSENSUS, ForwardKL(), FEW, settings, seed=1)
    temperature = best_temperature(models[0], noisy)
    assert not 0.8 < temperature < 1.25
    expected = predict_soft_labels(models[0], PUBLIC, temperature=temperature if calibrated else 1.0)
    np.testing.assert_allclose(predict_soft_labels(models[1], PUBLIC), expected, atol=1e-5)


def test_the_loss_of_a_step_is_the_cross_entropy_plus_the_weight_times_the_loss():
    """One step from zero logits: the gradient in the biases is that of the formula."""
    calls = []

    def loss(logits, soft_labels, weights):
        calls.append((logits.shape, soft_labels.shape, weights.shape, float(weights.sum())))
        return ForwardKL()(logits, soft_labels, weights)

    model = build_classifier(SPEC, seed=0)
    train_personal(model, split(), PUBLIC, CONSENSUS, loss, PersonalConfig(epochs=1), TEACHER, seed=1)
    assert calls == [(torch.Size([10, 3]), torch.Size([10, 1, 3]), torch.Size([10, 1]), 10.0)] * 3


def test_a_transformers_personal_model_loads_without_this_package(tmp_path):
    spec = ModelSpec("tiny-bert", "all", NAMES, paired=False, max_length=8, vocabulary=train_vocabulary(PUBLIC))

    def train():
        model = build_classifier(spec, seed=0)
        train_personal(model, split(), PUBLIC, CONSENSUS, ForwardKL(), PersonalConfig(epochs=1), TEACHER, seed=1)
        return model

    models, digest = PersonalModels(tmp_path), personal_digest(["", "start"], CONSENSUS, "settings")
    kept, loaded = load_or_train(models.folder(digest), train, what="personal model")
    models.enter("7", 1, digest, folder="first")
    assert not loaded
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "personal")
    assert found.config.num_labels == 3
    again = load_classifier(tmp_path / "personal")
    assert np.array_equal(predict_soft_labels(again, PUBLIC), predict_soft_labels(kept, PUBLIC))


def entered(models, *made_models):
    for run, number, digest in made_models:
        keep_folder(models.folder(digest), lambda folder: (folder / "parameters").write_text("7"))
        models.enter(run, number, digest, folder=f"folder-{run}")


def test_the_model_of_an_earlier_round_of_the_same_run_is_found_also_when_it_is_asked_again(tmp_path):
    models, (one, two, other) = PersonalModels(tmp_path), (letter * 64 for letter in "abc")
    entered(models, ("7", 1, one), ("7", 2, two), ("8", 1, other))
    assert models.before("7", 1) == ""
    assert models.before("7", 2) == one
    assert models.before("7", 3) == two
    assert models.before("9", 2) == ""
    assert models.current.resolve() == models.folder(other).resolve()


def test_a_resumed_run_goes_on_from_the_models_of_its_own_folder_whatever_ran_in_between(tmp_path):
    models, (one, other, again) = PersonalModels(tmp_path), (letter * 64 for letter in "abc")
    entered(models, ("7", 1, one), ("8", 1, other), ("8", 2, other))
    assert models.before("9", 2, resumed="folder-7") == one
    entered(models, ("9", 2, again))
    models.enter("9", 2, again, folder="folder-7")
    assert models.before("10", 2, resumed="folder-7") == one
    assert models.before("10", 3, resumed="folder-7") == again
    assert models.before("10", 3, resumed="folder-of-no-run") == ""


def test_a_model_that_was_deleted_and_damaged_lines_are_left_out(tmp_path):
    models = PersonalModels(tmp_path)
    entered(models, ("7", 1, "a" * 64))
    history = tmp_path / "personal-models" / "history.jsonl"
    history.write_text(history.read_text() + '{"run": "7", "round": 1, "digest": "../../x"}\n{half')
    assert models.before("7", 2) == "a" * 64
    shutil.rmtree(models.folder("a" * 64))
    assert models.before("7", 2) == ""


def test_the_newest_model_that_is_not_damaged_is_found_and_the_others_are_reported(tmp_path, caplog):
    models = PersonalModels(tmp_path, client="phones")
    entered(models, ("7", 1, "a" * 64), ("7", 2, "b" * 64))
    (models.folder("b" * 64) / "parameters").write_text("8")
    assert models.before("7", 3) == "a" * 64
    assert "phones: a personal model of an earlier round cannot be used" in caplog.text


def test_a_disk_that_takes_nothing_is_told(tmp_path):
    models = PersonalModels(tmp_path)
    (tmp_path / "personal-models").write_text("a file")
    with pytest.raises(ModelError, match="a personal model cannot be kept in state-dir"):
        models.enter("7", 1, "a" * 64, folder="first")


def test_the_digest_changes_with_everything_that_training_reads():
    digest = partial(personal_digest, ["a", "b"], CONSENSUS)
    starts = [["c", "b"], ["a", "c"], ["", "b"]]
    found = {digest(1), digest(2), *(personal_digest(start, CONSENSUS, 1) for start in starts)}
    assert len(found | {personal_digest(["a", "b"], CONSENSUS[::-1], 1)}) == 6
    assert digest(1) in found
