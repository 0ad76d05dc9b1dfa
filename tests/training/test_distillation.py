import numpy as np
import pytest
import torch

from knot_fed.errors import SoftLabelsError
from knot_fed.labels import LabelSpace
from knot_fed.losses import ForwardKL
from knot_fed.models import ModelSpec, build_classifier
from knot_fed.training.cross_entropy import class_weights
from knot_fed.training.distillation import PublicCrossEntropy, distil_student
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.transport import OTLoss, make_ground_cost
from knot_fed.types import LabelledTexts

LABELS = LabelSpace.preset("sentiment").names
GOOD = LabelledTexts(("lovely",) * 30, np.full(30, 4))


def new_student():
    return build_classifier(ModelSpec("ngram-bag", "all", LABELS, False, 32, ()), seed=0)


def distil(student, run_config, texts, labels, weights, *, supervision=None, loss=None):
    settings = run_config(keys={"distill.epochs": 15, "distill.batch-size": 16}).distill
    loss, soft_labels = loss or ForwardKL(), np.eye(5)[labels][None]
    return distil_student(student, texts, soft_labels, weights, loss, settings, seed=1, supervision=supervision)


def public_loss(student, weight=1.0, examples=GOOD):
    return PublicCrossEntropy(student, examples, weight=weight, weigh_classes="none", seed=1)


def test_texts_of_weight_zero_teach_nothing(run_config):
    texts, labels = ["dreadful", "lovely"] * 30, [0, 4] * 30
    taught, half_taught = new_student(), new_student()
    distil(taught, run_config, texts, labels, np.ones((1, 60)))
    distil(half_taught, run_config, texts, labels, np.array([[1.0, 0.0] * 30]))
    assert predict_soft_labels(taught, ["dreadful", "lovely"]).argmax(axis=1).tolist() == [0, 4]
    bad, good = predict_soft_labels(half_taught, ["dreadful", "lovely"])
    assert bad.argmax() == 0
    assert good.argmax() != 4


def test_only_texts_that_teach_are_held_out(run_config):
    weights = np.zeros((1, 60))
    weights[0, [3, 4]] = 1.0
    for seed in range(8):
        seen = {True: 0, False: 0}

        def counting(logits, soft_labels, weights, seen=seen):
            assert (weights > 0).all()
            seen[torch.is_grad_enabled()] = len(logits)
            return ForwardKL()(logits, soft_labels, weights)

        settings = run_config(keys={"distill.epochs": 1}).distill
        soft_labels = np.eye(5)[[0, 4] * 30][None]
        distil_student(new_student(), ["bad", "fine"] * 30, soft_labels, weights, counting, settings, seed=seed)
        assert seen == {True: 1, False: 1}


def test_a_single_text_with_a_weight_is_refused(run_config):
    weights = np.zeros((1, 60))
    weights[0, 3] = 1.0
    with pytest.raises(SoftLabelsError, match="1 of 60 texts have a weight above 0; give at least 2"):
        distil(new_student(), run_config, ["dreadful"] * 60, [0] * 60, weights)


def test_public_examples_teach_what_no_teacher_says(run_config):
    alone, with_public = new_student(), new_student()
    distil(alone, run_config, ["dreadful"] * 60, [0] * 60, np.ones((1, 60)))
    distil(with_public, run_config, ["dreadful"] * 60, [0] * 60, np.ones((1, 60)), supervision=public_loss(with_public))
    assert predict_soft_labels(alone, ["lovely"]).argmax() != 4
    assert predict_soft_labels(with_public, ["dreadful", "lovely"]).argmax(axis=1).tolist() == [0, 4]


def test_public_examples_take_no_part_in_the_choice_of_the_epoch(run_config):
    student = new_student()
    calls = []

    def counting(logits, soft_labels, weights):
        calls.append(torch.is_grad_enabled())
        return ForwardKL()(logits, soft_labels, weights)

    supervision = public_loss(student, weight=1e3)
    result = distil(
        student, run_config, ["dreadful"] * 60, [0] * 60, np.ones((1, 60)), supervision=supervision, loss=counting
    )
    assert max(result.validation_losses) < 20 < result.train_losses[0]
    assert calls.count(False) == len(result.validation_losses)


def test_public_cross_entropy_is_torchs_on_its_batch_times_its_weight():
    student = new_student()
    student.eval()
    mixed = LabelledTexts(("lovely", "dreadful", "fine", "so so"), np.array([4, 0, 3, 3]))
    loss = PublicCrossEntropy(student, mixed, weight=0.3, weigh_classes="balanced", seed=5)
    rows = np.random.default_rng(5).integers(4, size=8)
    expected = torch.nn.functional.cross_entropy(
        student.logits(student.encode([mixed.texts[row] for row in rows])),
        torch.from_numpy(mixed.labels[rows]),
        class_weights(mixed.labels, 5),
    )
    torch.testing.assert_close(loss(8), 0.3 * expected)


def test_a_distillation_that_lowers_no_held_out_loss_is_told_with_its_saturated_rows(run_config):
    student = new_student()
    with torch.no_grad():
        student.head.bias[2] = 60.0
    before = predict_soft_labels(student, ["lovely"])
    cost = make_ground_cost("augmented", LabelSpace.preset("sentiment"))
    result = distil(student, run_config, ["lovely"] * 60, [4] * 60, np.ones((1, 60)), loss=OTLoss(cost))
    assert (result.unmoved, result.saturated) == (True, 1.0)
    np.testing.assert_array_equal(predict_soft_labels(student, ["lovely"]), before)
    moved = distil(new_student(), run_config, ["lovely"] * 60, [4] * 60, np.ones((1, 60)), loss=OTLoss(cost))
    assert not moved.unmoved


@pytest.mark.parametrize(("rows", "texts"), [(3, 4), (1, 1)])
def test_soft_labels_that_do_not_fit_the_texts_are_refused_in_one_sentence(run_config, rows, texts):
    with pytest.raises(SoftLabelsError, match=rf"soft_labels of shape \(1, {rows}, 5\) .* for {texts} texts; use"):
        distil(new_student(), run_config, ["lovely"] * texts, [4] * rows, np.ones((1, rows)))


def test_balanced_classes_weigh_the_same_in_sum():
    labels = np.array([0, 0, 0, 2])
    weights = class_weights(labels, 3).numpy()
    assert weights[0] * 3 == pytest.approx(weights[2] * 1)
    assert weights[labels].mean() == pytest.approx(1)


@pytest.mark.parametrize(("least", "steps"), [(0, 8), (8, 8), (9, 16), (50, 56)])
def test_a_small_transfer_set_is_distilled_for_the_least_steps(run_config, least, steps):
    """54 of 60 texts in batches of 16 are 4 steps an epoch."""
    taken = []

    def counting(logits, soft_labels, weights):
        taken.append(torch.is_grad_enabled())
        return ForwardKL()(logits, soft_labels, weights)

    keys = {"distill.epochs": 2, "distill.patience": 2, "distill.batch-size": 16, "distill.least-steps": least}
    soft_labels = np.eye(5)[[0, 4] * 30][None]
    result = distil_student(
        new_student(),
        ["bad", "fine"] * 30,
        soft_labels,
        np.ones((1, 60)),
        counting,
        run_config(keys=keys).distill,
        seed=1,
    )
    assert taken.count(True) == steps
    assert result.epochs_run == steps // 4
