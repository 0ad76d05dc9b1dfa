"""Settings that have no effect in a run."""

from collections.abc import Callable, Mapping, Sequence

from knot_fed.config import PrivacyConfig, RunConfig, kebab, readers_of
from knot_fed.losses import TRANSPORT_KEYS
from knot_fed.preflight.models import named_models

Condition = Callable[[RunConfig], bool]


def _transport(key: str) -> Condition:
    return lambda run: key in TRANSPORT_KEYS.get(run.distill.loss, frozenset())


def _mechanism(setting: str) -> tuple[Condition, str]:
    needs = f"privacy.mechanism = {' or '.join(readers_of(setting))}"
    return lambda run: setting in run.privacy.facts.reads, needs


FILES: tuple[Condition, str] = (lambda run: run.data.root != "builtin", "data.root other than builtin")
NOISE: tuple[Condition, str] = (lambda run: run.privacy.facts.has_guarantee, "a privacy.mechanism")
SUM: tuple[Condition, str] = (lambda run: run.privacy.secure_sum, "privacy.secure-sum = true")
MEAN: tuple[Condition, str] = (lambda run: run.weights.pooling == "mean", "weights.pooling = mean")
SOLVER: tuple[Condition, str] = (
    lambda run: run.distill.loss == "ot" and run.transport.solver in ("auto", "sinkhorn"),
    "distill.loss = ot with Sinkhorn",
)
READERS: Mapping[str, tuple[Condition, str]] = {
    "labels.coordinates": (lambda run: bool(run.labels.names), "labels.names"),
    **{
        f"data.{key}": FILES
        for key in ("text", "text-a", "text-b", "label", "split", "separator", "delimiter", "quoting")
    },
    "labels.ordered": (
        lambda run: bool(run.labels.names) and not run.labels.coordinates,
        "labels.names without labels.coordinates",
    ),
    "data.alpha": (lambda run: run.data.partition == "dirichlet", "data.partition = dirichlet"),
    "data.labels-per-client": (
        lambda run: run.data.partition in ("pathological", "shard"),
        "data.partition = pathological or shard",
    ),
    "data.id": (lambda run: run.data.partition == "natural-id", "data.partition = natural-id"),
    "compile": (
        lambda run: run.device != "cpu" and run.trainable == "all" and named_models(run) != {"ngram-bag"},
        "device other than cpu, and a transformer with trainable = all",
    ),
    "teacher.max-length": (lambda run: named_models(run) != {"ngram-bag"}, "a model other than ngram-bag"),
    **{
        f"teacher.{key}": (lambda run: run.teacher.epochs > 0, "teacher.epochs above 0")
        for key in ("patience", "class-weights")
    },
    "teacher.round-epochs": (lambda run: run.sends_student, "teacher.start = student or both"),
    "resend-above": (lambda run: run.slices < run.rounds, "round-texts = all and rounds above 1"),
    "student.restart": (lambda run: run.rounds > 1, "rounds above 1"),
    "student.calibrate": (lambda run: run.student.pretrain, "student.pretrain = true"),
    "weights.scheme": MEAN,
    "weights.power": (
        lambda run: run.weights.pooling == "mean" and run.weights.scheme != "uniform",
        "a weights.scheme other than uniform, with weights.pooling = mean",
    ),
    "weights.trim": (lambda run: run.weights.pooling == "trimmed-mean", "weights.pooling = trimmed-mean"),
    "transport.cost": (_transport("transport.cost"), "distill.loss = ot or sinkhorn-divergence"),
    "transport.solver": (_transport("transport.solver"), "distill.loss = ot"),
    "transport.divergence-epsilon": (_transport("transport.divergence-epsilon"), "distill.loss = sinkhorn-divergence"),
    "transport.entropic-epsilon": SOLVER,
    "transport.marginal-error": SOLVER,
    **{f"privacy.{key}": NOISE for key in ("epsilon", "delta")},
    **{
        f"privacy.{kebab(setting)}": _mechanism(setting)
        for setting in PrivacyConfig.model_fields
        if readers_of(setting)
    },
    "privacy.top-k": (lambda run: run.privacy.compression == "top-k", "privacy.compression = top-k"),
    **{f"privacy.{key}": SUM for key in ("threshold", "sum-bits")},
}
"""For each key that is not always read: the condition, and its description."""


def unread_settings(runs: Sequence[RunConfig]) -> list[str]:
    """Return a sentence for each setting that differs from the default and that none of these runs reads.

    Examples
    --------
    >>> unread_settings([RunConfig.from_mapping({"weights.trim": 0.3})])
    ['weights.trim = 0.3 has no effect; it needs weights.pooling = trimmed-mean']
    """
    defaults = RunConfig().to_mapping()
    told = []
    for key, (reads, needs) in READERS.items():
        values = {run.to_mapping()[key] for run in runs} - {defaults[key]}
        if values and not any(reads(run) for run in runs):
            told.append(f"{key} = {', '.join(map(str, sorted(values, key=str)))} has no effect; it needs {needs}")
    return told
