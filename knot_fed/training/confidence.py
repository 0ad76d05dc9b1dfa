"""Scores that a client reports for each text: confidence, or similarity to its private texts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline

from knot_fed.config.choices import reports_scores, scheme_reads
from knot_fed.models import TextClassifier, predict_logits
from knot_fed.types import SoftLabels, Text

RANDOM_SEQUENCES = 256
NEAREST = 10
HASHED_WORDS = 1 << 18


def teacher_scores(
    scheme: str,
    models: Sequence[TextClassifier],
    soft_labels: SoftLabels,
    *,
    texts: Sequence[Text],
    private: Sequence[Text],
    seed: int,
) -> Float[np.ndarray, "examples"]:
    """Compute the float32 score in [0, sqrt(2)] per text that a weighting scheme reads; 0 if it reads none.

    Parameters
    ----------
    scheme
        By `SchemeFacts.reads`: `text_density` for density; for confidence, and for plug-ins,
        `prediction_confidence`, with the histogram of arg-max predictions as bias under `histogram-confidence`.
    models
        Those whose mean prediction the soft labels are.
    texts, private
        The public texts, and the training texts of the client.
    seed
        Of the random sequences on which the bias is measured.
    """
    if not reports_scores(scheme):
        return np.zeros(len(soft_labels), dtype=np.float32)
    if scheme_reads(scheme) == "density":
        return text_density(texts, private)
    bias = prediction_bias(models, seed=seed, histogram=scheme == "histogram-confidence")
    return prediction_confidence(soft_labels, bias)


def prediction_bias(
    models: Sequence[TextClassifier], *, seed: int, histogram: bool = False
) -> Float[np.ndarray, "classes"]:
    """Return the mean prediction on random token sequences, averaged over the models.

    With `histogram`, return the add-one-smoothed frequencies of arg-max predictions, as KNOT's public code does; its
    paper averages soft labels.
    """
    biases = [_bias_of(model, np.random.default_rng(seed), histogram=histogram) for model in models]
    return np.asarray(np.mean(biases, axis=0))


def _bias_of(model: TextClassifier, generator: np.random.Generator, *, histogram: bool) -> Float[np.ndarray, "classes"]:
    logits = predict_logits(model, model.random_items(generator, RANDOM_SEQUENCES)).astype(np.float64)
    drawn = softmax(logits, axis=1).astype(np.float32)
    counts = np.bincount(drawn.argmax(axis=1), minlength=drawn.shape[1]) + 1
    bias: Float[np.ndarray, classes] = counts / counts.sum() if histogram else drawn.mean(axis=0, dtype=np.float64)
    return bias


def prediction_confidence(soft_labels: SoftLabels, bias: Float[np.ndarray, "classes"]) -> Float[np.ndarray, "examples"]:
    """Return the L2 distance of each soft label from the prediction bias, in [0, sqrt(2)] (KNOT, COLING 2022)."""
    distances: Float[np.ndarray, examples] = np.linalg.norm(soft_labels - bias, axis=1).astype(np.float32)
    return distances


def text_density(texts: Sequence[Text], private: Sequence[Text]) -> Float[np.ndarray, "examples"]:
    """Return the mean cosine similarity of each text to the 10 nearest private ones, in [0, 1].

    Texts are hashed words weighted by their inverse frequency in the private texts, at least 1; pairs are joined. A
    teacher then has little weight on texts unlike its training data: Selective-FD (Shao et al. 2024) and UWA (Kovalchuk
    et al. 2025, arXiv 2509.15147) weight predictions by density estimates on the client.

    This reveals more to the server than a confidence: it is computed from the private texts themselves, shows their
    topics, and near 1 shows that they contain nearly this text. A server that chooses the transfer texts can probe
    single words. The policy `share-confidences = false` withholds it.

    Examples
    --------
    >>> scores = text_density(["a room so clean", "quarterly bond yields"], ["clean room"])
    >>> [round(float(score), 2) for score in scores]
    [0.64, 0.0]
    """
    similarities, _ = nearest_by_words(texts, private, count=NEAREST)
    scores: Float[np.ndarray, examples] = np.clip(similarities.mean(axis=1), 0.0, 1.0).astype(np.float32)
    return scores


def nearest_by_words(
    texts: Sequence[Text], among: Sequence[Text], *, count: int
) -> tuple[Float[np.ndarray, "examples nearest"], Int[np.ndarray, "examples nearest"]]:
    """Return cosine similarities and positions of the `count` nearest texts `among` others, at least 1.

    Words are hashed and weighted by their inverse document frequency `among`; if there are fewer texts than `count`,
    all are returned.
    """
    words = HashingVectorizer(n_features=HASHED_WORDS, alternate_sign=False, norm=None)
    features = make_pipeline(words, TfidfTransformer())
    learnt = features.fit_transform(_joined(among))
    nearest = NearestNeighbors(n_neighbors=min(count, learnt.shape[0]), metric="cosine").fit(learnt)
    distances, rows = nearest.kneighbors(features.transform(_joined(texts)))
    return 1 - distances, rows


def _joined(texts: Sequence[Text]) -> list[str]:
    return [text if isinstance(text, str) else " ".join(text) for text in texts]
