"""What a teacher's owner says of it on each text: confidence, or nearness to the data it learnt from."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline

from knot_fed.config import SCHEMES
from knot_fed.models import TextClassifier, predict_logits
from knot_fed.types import SoftLabels, Text

RANDOM_SEQUENCES = 256
NEAREST = 10
HASHED_WORDS = 1 << 18


def teacher_scores(
    scheme: str,
    teacher: TextClassifier,
    soft_labels: SoftLabels,
    *,
    texts: Sequence[Text],
    private: Sequence[Text],
    generator: np.random.Generator,
) -> Float[np.ndarray, "examples"]:
    """Compute the one score per text that a weighting scheme reads, and nothing that it does not.

    Parameters
    ----------
    scheme
        `density`: `text_density`. Schemes that read no score of a client (`SchemeFacts.reads`): zeros. Any other,
        including a plug-in: `prediction_confidence`, with a bias of arg-max predictions under `histogram-confidence`.
    teacher, soft_labels
        The teacher and its soft labels for the texts.
    texts, private
        The public texts that are scored, and the training texts of the teacher's owner.
    generator
        Of the random sequences on which the bias is measured.

    Returns
    -------
    scores
        float32, in [0, sqrt(2)].
    """
    if scheme in SCHEMES and SCHEMES[scheme].reads in ("nothing", "examples"):
        return np.zeros(len(soft_labels), dtype=np.float32)
    if scheme == "density":
        return text_density(texts, private)
    bias = prediction_bias(teacher, generator=generator, histogram=scheme == "histogram-confidence")
    return prediction_confidence(soft_labels, bias)


def prediction_bias(
    model: TextClassifier, *, generator: np.random.Generator, histogram: bool = False
) -> Float[np.ndarray, "classes"]:
    """Return what the model says when nothing is said: its answer to random token sequences.

    Parameters
    ----------
    model
        A trained classifier.
    generator
        Of the sequences.
    histogram
        Whether to count arg-max predictions, one more for each label, as KNOT's public code does, and not to average
        soft labels, as its paper says.
    """
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

    On hashed words, weighted by their inverse frequency in the private texts; pairs are joined. A teacher counts for
    little on texts unlike those it has learnt from: density estimates on the client weigh its predictions in
    Selective-FD (Shao et al. 2024) and UWA (Kovalchuk et al. 2025, arXiv 2509.15147).

    This tells the server more than a confidence does. Soft labels come from the teacher, but this score is read off the
    private texts: it says what they are about, and a score near 1 that they hold this text or nearly so. A server that
    chooses the transfer texts can ask for single words. A client that minds sets `share-confidences = false`.

    Parameters
    ----------
    texts
        Public texts, or pairs.
    private
        The client's own training texts, at least 1; fewer than 10 are all read.

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
    """Return cosine similarities and positions of the nearest texts, on hashed words weighted by their rarity.

    Parameters
    ----------
    texts
        Texts, or pairs, which are joined.
    among
        Where their neighbours are sought and rarity is counted, at least 1.
    count
        Neighbours of each text; fewer texts than that are all returned.
    """
    words = HashingVectorizer(n_features=HASHED_WORDS, alternate_sign=False, norm=None)
    features = make_pipeline(words, TfidfTransformer())
    learnt = features.fit_transform(_joined(among))
    nearest = NearestNeighbors(n_neighbors=min(count, learnt.shape[0]), metric="cosine").fit(learnt)
    distances, rows = nearest.kneighbors(features.transform(_joined(texts)))
    return 1 - distances, rows


def _joined(texts: Sequence[Text]) -> list[str]:
    return [text if isinstance(text, str) else " ".join(text) for text in texts]
