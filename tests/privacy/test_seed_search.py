"""The attack that DP-SGD's noise must withstand: a search over all seeds, from the soft labels alone."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import t

from knot_fed.data.reviews import builtin_examples, builtin_texts
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec, build_classifier, trained_state
from knot_fed.privacy.noise import GRID_BITS, KEY_BYTES, NoiseSource
from knot_fed.training.dp_sgd import PrivateSchedule, fit_privately
from knot_fed.training.teacher import predict_soft_labels

LABELS = LabelSpace.preset("sentiment")
SPEC = ModelSpec("ngram-bag", "all", LABELS.names, paired=False, max_length=128)
CLASSES, WIDTH = 5, 32
SPACE = 2**20
SCHEDULE = PrivateSchedule(steps=2, sampling_rate=1.0, clipping_norm=1.0, noise_multiplier=4.0, learning_rate=0.01)
TEXTS = builtin_texts("forum")[:600]


class TorchSource(NoiseSource):
    """The former source: a torch generator on the CPU, whose seed has 32 bits, here reduced to `SPACE` values."""

    def __init__(self, seed):
        super().__init__()
        self._generator = torch.Generator(device="cpu").manual_seed(seed)

    def steps(self, count):
        drawn = torch.normal(0.0, 1.0, (count,), generator=self._generator).double().numpy()
        return np.rint(drawn * 2.0**GRID_BITS).astype(np.int64)

    def coins(self, count, *, probability):
        assert probability == 1.0
        return np.ones(count, dtype=bool)


def released_by(source):
    """Train a teacher by DP-SGD on 80 reviews and return its soft labels on public texts."""
    model = build_classifier(SPEC, seed=1)
    train = builtin_examples("phones", LABELS).train
    fit_privately(model, model.encode(train.texts[:80]), train.labels[:80], SCHEDULE, source=source)
    return predict_soft_labels(model, TEXTS)


def moves_read_off(soft_labels):
    """Solve for the update of the last layer: logits are linear in the features, which the server knows.

    Softmax hides an update common to all labels, so the mean over labels is subtracted.
    """
    start = build_classifier(SPEC, seed=1)
    features = []
    hook = start.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].detach().numpy()))
    before = predict_soft_labels(start, TEXTS)
    hook.remove()
    known = np.concatenate(features)
    order = sorted(range(len(TEXTS)), key=lambda row: -start.item_length(start.encode([TEXTS[row]])[0]))
    known = known[np.argsort(order)].astype(np.float64)
    system = np.column_stack([known, np.ones(len(known))])
    change = np.log(soft_labels.astype(np.float64)) - np.log(before.astype(np.float64))
    solved, *_ = np.linalg.lstsq(system, change - change.mean(axis=1, keepdims=True), rcond=None)
    return solved[:-1].T.ravel()


def moves_of_seed(seed):
    """Return the update after two AdamW steps on noise alone, drawn from a seed as before."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    sizes = (CLASSES * WIDTH, CLASSES, CLASSES * WIDTH)
    first, _, second = (torch.normal(0.0, 1.0, (size,), generator=generator).numpy() for size in sizes)
    return np.stack([first, second])


def best_guess(soft_labels):
    """Return the seed whose noise fits best, and the correlation of its updates with the recovered ones."""
    moved = moves_read_off(soft_labels)
    moved /= np.linalg.norm(moved)
    best, highest = -1, -1.0
    for start in range(0, SPACE, 1 << 14):
        noise = np.stack([moves_of_seed(seed) for seed in range(start, start + (1 << 14))])
        first, second = noise[:, 0], noise[:, 1]
        mean = (0.09 * first + 0.1 * second) / 0.19
        spread = np.sqrt((0.000999 * first**2 + 0.001 * second**2) / 0.001999)
        steps = -(np.sign(first) + mean / spread).reshape(-1, CLASSES, WIDTH)
        apart = (steps - steps.mean(axis=1, keepdims=True)).reshape(len(steps), -1)
        fits = apart @ moved / np.linalg.norm(apart, axis=1)
        if fits.max() > highest:
            best, highest = start + int(fits.argmax()), float(fits.max())
    return best, highest


def chance_of(fit):
    """Bound the probability that any seed of the space fits this well by chance."""
    degrees = (CLASSES - 1) * WIDTH - 1
    return SPACE * float(t.sf(fit * math.sqrt(degrees / (1 - fit**2)), degrees))


@pytest.mark.long
def test_the_seed_of_a_torch_generator_is_found_from_the_soft_labels():
    seed = 777_216
    guess, fit = best_guess(released_by(TorchSource(seed)))
    assert guess == seed
    assert chance_of(fit) < 1e-6


@pytest.mark.long
def test_there_is_no_seed_to_find_in_the_noise_that_is_drawn_now():
    _, fit = best_guess(released_by(NoiseSource()))
    assert chance_of(fit) > 1e-6
    assert KEY_BYTES * 8 >= 128


def test_the_moves_of_the_last_layer_can_be_read_off_the_soft_labels():
    """Shows that the attack fails because there is no seed, not because the updates are hidden."""
    model = build_classifier(SPEC, seed=1)
    train = builtin_examples("phones", LABELS).train
    fit_privately(model, model.encode(train.texts[:80]), train.labels[:80], SCHEDULE, source=NoiseSource())
    moved = trained_state(model)["head.weight"] - trained_state(build_classifier(SPEC, seed=1))["head.weight"]
    seen = moves_read_off(predict_soft_labels(model, TEXTS))
    assert np.corrcoef(seen, (moved - moved.mean(axis=0)).ravel())[0, 1] > 0.999
