import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.training.cross_entropy import CrossEntropy

COUNTS = st.lists(st.integers(20, 400), min_size=2, max_size=6)


def pull(scheme, labels, logits):
    """Return the gradient with respect to logits that all examples share."""
    shared = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    rows = np.arange(len(labels))
    CrossEntropy(labels, len(logits), scheme)(shared.expand(len(labels), -1), rows).backward()
    return shared.grad.numpy()


@given(COUNTS)
def test_a_classifier_that_knows_nothing_answers_evenly_or_by_frequency(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    even, frequent = np.zeros(len(counts)), np.log(counts)
    for scheme, resting in (("auto", even), ("logit-adjusted", even), ("balanced", even), ("none", frequent)):
        assert np.abs(pull(scheme, labels, resting)).max() < 0.02, scheme
    if max(counts) > 2 * min(counts):
        assert np.abs(pull("logit-adjusted", labels, frequent)).max() > 0.01
        assert np.abs(pull("none", labels, even)).max() > 0.01


@pytest.mark.parametrize("scheme", ["auto", "none", "balanced", "logit-adjusted"])
def test_one_class_alone_or_missing_classes_give_a_finite_loss(scheme):
    labels = np.array([2, 2, 2])
    loss = CrossEntropy(labels, 4, scheme)(torch.zeros(3, 4), np.arange(3))
    assert torch.isfinite(loss)
