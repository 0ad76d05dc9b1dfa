"""Small mechanisms that train in milliseconds, so that a test can audit many trainings."""

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import norm
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from knot_fed.models import ModelSpec, TextClassifier
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.privacy.noise import NoiseSource
from knot_fed.privacy.row_noise import noisy_soft_labels, noisy_votes
from knot_fed.training.dp_sgd import PrivateSchedule, fit_privately
from knot_fed.training.shards import train_shards
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.types import LabelledTexts

CLASSES = 5
SPEC = ModelSpec("ngram-bag", "all", tuple("abcde"), False, 32)
WORDS = HashingVectorizer(n_features=1 << 10, alternate_sign=False, norm="l2", analyzer="word", token_pattern=r"\S+")


def source_of(seed):
    """Return a source with the same noise in each run of a test."""
    return NoiseSource(int(seed).to_bytes(32, "big"))


def made_up(count, generator, *, words=6):
    """Make texts of random words with random labels, which can only be memorised."""
    texts = tuple(" ".join(f"w{word}" for word in generator.integers(900, size=words)) for _ in range(count))
    return LabelledTexts(texts, generator.integers(CLASSES, size=count).astype(np.int64))


def by_heart(train, seed):
    """A logistic regression with hardly any regularisation, which memorises its texts."""
    everything = np.arange(CLASSES)
    order = np.random.default_rng(seed).permutation(len(train))[: int(0.9 * len(train))]
    kept = np.union1d(order, [np.flatnonzero(train.labels == label)[0] for label in everything])
    model = LogisticRegression(C=30.0, max_iter=300).fit(WORDS.transform(train.select(kept).texts), train.labels[kept])
    return lambda texts: model.predict_proba(WORDS.transform(texts)).astype(np.float32)


def blind(train, seed):
    """A teacher trained on other texts only."""
    generator = np.random.default_rng(seed)
    return by_heart(made_up(100, generator), seed)


def gaussian_prototypes(noise):
    """Train by one Gaussian release: the sum of unit vectors by label, whose sensitivity to one record is 1."""

    def train(examples, seed):
        vectors = WORDS.transform(examples.texts)
        sums = np.stack([np.asarray(vectors[examples.labels == label].sum(axis=0))[0] for label in range(CLASSES)])
        sums += noise * np.random.default_rng(seed).standard_normal(sums.shape)
        return lambda texts: softmax(4 * np.asarray(WORDS.transform(texts) @ sums.T), axis=1).astype(np.float32)

    return train


def gaussian_epsilon(noise, delta):
    """Epsilon of one Gaussian release of sensitivity 1 (Balle and Wang 2018, theorem 8)."""

    def excess(epsilon):
        upper, lower = 0.5 / noise - epsilon * noise, -0.5 / noise - epsilon * noise
        return norm.cdf(upper) - np.exp(epsilon) * norm.cdf(lower) - delta

    return brentq(excess, 0.0, 50.0)


class LinearBag(TextClassifier):
    """One weight for each hashed word and label, so that a rare word is memorised independently of the others."""

    default_learning_rate = 0.05

    def __init__(self):
        super().__init__(SPEC)
        self.head = torch.nn.Linear(WORDS.n_features, CLASSES)

    def encode(self, texts):
        return list(WORDS.transform(texts).toarray().astype(np.float32))

    def collate(self, items):
        return {"features": torch.from_numpy(np.stack(items))}

    def item_length(self, item):
        return 1

    def random_items(self, generator, count):
        return list(generator.random((count, WORDS.n_features), dtype=np.float32))

    @property
    def output_layer(self):
        return self.head

    def forward(self, features):
        return self.head(features)


def dp_sgd(event: NoiseEvent):
    """Teachers trained by the package's DP-SGD on the word weights."""

    def train(examples, seed):
        model = LinearBag()
        schedule = PrivateSchedule(event.count, event.sampling_rate, 1.0, event.noise_multiplier, 0.05)
        fit_privately(model, model.encode(examples.texts), examples.labels, schedule, source=source_of(seed))
        return lambda texts: predict_soft_labels(model, texts)

    return train


def pate(event: NoiseEvent, settings, *, shards):
    """Teachers on the package's shards and models, with the mechanism's noise on their votes."""

    def train(examples, seed):
        teachers = train_shards(SPEC, examples, settings, shards=shards, seed=seed, folder=None)
        source = source_of(seed)
        return lambda texts: noisy_votes(
            teachers(texts, temperature=1.0), noise_multiplier=event.noise_multiplier, labels_only=False, source=source
        )

    return train


def gaussian(event: NoiseEvent):
    """A teacher that memorises, with the mechanism's noise on its soft labels."""

    def train(examples, seed):
        teacher, source = by_heart(examples, seed), source_of(seed)
        return lambda texts: noisy_soft_labels(teacher(texts), noise_multiplier=event.noise_multiplier, source=source)

    return train
