"""Scores that a client reports for each text, by which the server weighs its answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.special import softmax
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from knot_fed.config.choices import reports_scores, scheme_reads
from knot_fed.models import TextClassifier, predict_logits
from knot_fed.training.calibration import negative_log_likelihood
from knot_fed.types import LabelledTexts, SoftLabels, SplitExamples, Text

RANDOM_SEQUENCES = 256
NEAREST = 10
HASHED_WORDS = 1 << 18
DOMAIN_REGULARISATION, DOMAIN_STEPS = 1e-3, 200
MOST_DEVIATION = 4.0
FIRST_QUARTILE = 0.25


def teacher_scores(
    scheme: str,
    models: Sequence[TextClassifier],
    soft_labels: SoftLabels,
    *,
    texts: Sequence[Text],
    transfer: Sequence[Text],
    examples: SplitExamples,
    seed: int,
    temperature: float = 1.0,
) -> Float[np.ndarray, "examples"]:
    """Compute the float32 score in [0, sqrt(2)] per text that a weighting scheme reads; 0 if it reads none.

    Parameters
    ----------
    scheme
        By `SchemeFacts.reads`: `text_density` for density, `domain_scores` for domain; for confidence, and for
        plug-ins, `prediction_confidence`, with the histogram of arg-max predictions as bias under
        `histogram-confidence`; `selected_texts` for selective, `training_fit` for adafd, `expected_reliability` for
        reliability. The last two are 0 for a teacher trained on one label, which fits it and predicts it by answering
        nothing else.
    models
        Those whose mean prediction the soft labels are.
    texts, transfer
        The public texts to score, and the whole transfer set, against which `domain` tells the private texts.
    examples
        The client's own; the test split is not read.
    seed
        Of the random sequences on which the bias is measured.
    temperature
        That of the soft labels, at which the bias is measured too.
    """
    if not reports_scores(scheme):
        return np.zeros(len(soft_labels), dtype=np.float32)
    reads = scheme_reads(scheme)
    if reads == "density":
        return text_density(texts, examples.train.texts)
    if reads == "domain":
        return domain_scores(texts, examples.train.texts, models, transfer=transfer)
    if reads == "selection":
        return selected_texts(texts, examples)
    trained = any(model.trains for model in models)
    if trained and reads in ("training-loss", "reliability") and len(np.unique(examples.train.labels)) == 1:
        return np.zeros(len(soft_labels), dtype=np.float32)
    if reads == "training-loss":
        return np.full(len(soft_labels), training_fit(models, examples.train), dtype=np.float32)
    if reads == "reliability":
        return expected_reliability(soft_labels, label_precision(models, examples.val))
    bias = prediction_bias(models, seed=seed, temperature=temperature, histogram=scheme == "histogram-confidence")
    return prediction_confidence(soft_labels, bias)


def prediction_bias(
    models: Sequence[TextClassifier], *, seed: int, temperature: float = 1.0, histogram: bool = False
) -> Float[np.ndarray, "classes"]:
    """Return the mean of `softmax(logits / temperature)` on random token sequences, averaged over the models.

    With `histogram`, return the add-one-smoothed frequencies of arg-max predictions, as KNOT's public code does; its
    paper averages soft labels.
    """
    biases = [_bias_of(model, np.random.default_rng(seed), temperature, histogram=histogram) for model in models]
    return np.asarray(np.mean(biases, axis=0))


def _bias_of(
    model: TextClassifier, generator: np.random.Generator, temperature: float, *, histogram: bool
) -> Float[np.ndarray, "classes"]:
    logits = predict_logits(model, model.random_items(generator, RANDOM_SEQUENCES)).astype(np.float64)
    drawn = softmax(logits / max(temperature, model.least_temperature), axis=1).astype(np.float32)
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


def domain_scores(
    texts: Sequence[Text], private: Sequence[Text], models: Sequence[TextClassifier], *, transfer: Sequence[Text]
) -> Float[np.ndarray, "examples"]:
    """Return `exp(z - 4)` for each text, in [exp(-8), 1], where z says how much it is like the private texts.

    A linear classifier is trained to tell the private texts from the transfer set, on the models' frozen features, or
    else on hashed words. Its log-odds estimate the ratio of the two densities (Sugiyama et al. 2012); z is that,
    standardised over the transfer set and cut at -4 and 4, so that clients with more or fewer texts are comparable, and
    a text has one score whichever others are asked with it. Weights are then `softmax(power * z)` over the teachers:
    each answers for its own domain, as in a mixture of local experts (Jacobs et al. 1991). Shao et al. 2024 select
    texts by such a ratio.

    It reveals what `text_density` does: which of the texts are like the private ones.

    Examples
    --------
    >>> transfer = ["a clean room", "bond yields fell"]
    >>> scores = domain_scores(transfer, ["clean room", "room with a view"], [], transfer=transfer)
    >>> bool(scores[0] > scores[1])
    True
    """
    found, own, asked = _features([*transfer], [*private], [*texts], models)
    classifier = LogisticRegression(C=DOMAIN_REGULARISATION, max_iter=DOMAIN_STEPS)
    classifier.fit(_stacked(own, found), np.repeat([1, 0], [len(private), len(transfer)]))
    usual = classifier.decision_function(found)
    deviation = float(usual.std())
    z = (classifier.decision_function(asked) - usual.mean()) / deviation if deviation > 0 else np.zeros(len(texts))
    scores: Float[np.ndarray, examples] = np.exp(np.clip(z, -MOST_DEVIATION, MOST_DEVIATION) - MOST_DEVIATION)
    return scores.astype(np.float32)


def _features(
    transfer: list[Text], private: list[Text], texts: list[Text], models: Sequence[TextClassifier]
) -> tuple[Any, Any, Any]:
    """Return rows for the three lists: the models' frozen features, standardised over the transfer set, or TF-IDF."""
    frozen = models[0].frozen_features if models else None
    if frozen is None:
        words = HashingVectorizer(n_features=HASHED_WORDS, alternate_sign=False, norm=None)
        pipeline = make_pipeline(words, TfidfTransformer()).fit(_joined(transfer))
        return tuple(pipeline.transform(_joined(each)) for each in (transfer, private, texts))
    found = frozen(transfer)
    scaler = StandardScaler().fit(found)
    asked = found if texts == transfer else frozen(texts)
    return scaler.transform(found), scaler.transform(frozen(private)), scaler.transform(asked)


def _stacked(first: Any, second: Any) -> Any:
    return sparse.vstack([first, second]) if sparse.issparse(first) else np.concatenate([first, second])


def selected_texts(texts: Sequence[Text], examples: SplitExamples) -> Float[np.ndarray, "examples"]:
    """Return 1 for each text that is as near to the training texts as most validation texts are, and 0 for others.

    The client's selector of Selective-FD (Shao et al. 2024, Nature Communications 15:349): a teacher answers only for
    texts like its own. As in the authors' code, the threshold is the first quartile over the own validation split. The
    density ratio is not theirs (KuLSIF against uniform noise, on images): it is `text_density`. Without validation
    texts, all are selected.
    """
    if not len(examples.val):
        return np.ones(len(texts), dtype=np.float32)
    threshold = np.quantile(text_density(examples.val.texts, examples.train.texts), FIRST_QUARTILE)
    selected: Float[np.ndarray, texts] = text_density(texts, examples.train.texts) >= threshold
    return selected.astype(np.float32)


def training_fit(models: Sequence[TextClassifier], train: LabelledTexts) -> float:
    """Return `exp(-loss)`, in [0, 1], of the cross-entropy of the models' mean prediction on the training split.

    AdaFD (Xiao and Liu 2025, arXiv 2508.20557) weighs teachers by their training losses; in the authors' code
    `w_k = exp(-5 loss_k) / sum_j exp(-5 loss_j)`, which is this score with `weights.power = 5`. Theirs is the lowest
    loss of an epoch while it trains; this is the finished teacher's, which a kept teacher has too.
    """
    return float(np.exp(-negative_log_likelihood(_mean_prediction(models, train.texts), train.labels)))


def label_precision(models: Sequence[TextClassifier], validation: LabelledTexts) -> Float[np.ndarray, "classes"]:
    """Return, for each label, the share of the validation texts predicted as it that have it.

    With one more hit and one more prediction of each label: `(hits + 1) / (predictions + L)`.
    """
    rows = _mean_prediction(models, validation.texts)
    predicted, classes = rows.argmax(axis=1), rows.shape[1]
    hits = np.bincount(predicted[predicted == validation.labels], minlength=classes)
    precision: Float[np.ndarray, classes] = (hits + 1) / (np.bincount(predicted, minlength=classes) + classes)
    return precision


def _mean_prediction(models: Sequence[TextClassifier], texts: Sequence[Text]) -> SoftLabels:
    rows = [softmax(predict_logits(model, model.encode(texts)).astype(np.float64), axis=1) for model in models]
    return np.asarray(np.mean(rows, axis=0))


def expected_reliability(
    soft_labels: SoftLabels, precision: Float[np.ndarray, "classes"]
) -> Float[np.ndarray, "examples"]:
    """Return `sum_c q_c r_c` for each soft label q, in [0, 1]; r is `label_precision`.

    With as many texts as labels, a server can solve for r: it learns how often each label's prediction is right.
    """
    scores: Float[np.ndarray, examples] = np.clip(soft_labels @ precision, 0.0, 1.0).astype(np.float32)
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
