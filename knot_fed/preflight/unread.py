"""Settings that have no effect in a run."""

from collections.abc import Callable, Mapping, Sequence

from knot_fed.config import PROMPT, PrivacyConfig, RunConfig, kebab, known_keys, readers_of
from knot_fed.config.choices import WEIGHTED
from knot_fed.losses import TRANSPORT_KEYS, loss_keys, reads_cost
from knot_fed.preflight.models import named_models

Condition = Callable[[RunConfig], bool]


def _transport(key: str) -> Condition:
    return lambda run: any(key in TRANSPORT_KEYS.get(loss, frozenset()) for loss in loss_keys(run).values())


def _reads_any_cost(run: RunConfig) -> bool:
    return any(reads_cost(run, key=key) for key in loss_keys(run))


def _mechanism(setting: str) -> tuple[Condition, str]:
    needs = f"privacy.mechanism = {' or '.join(readers_of(setting))}"
    return lambda run: setting in run.privacy.facts.reads, needs


def _starts_from_a_model(run: RunConfig) -> bool:
    """Return whether teachers start from the student, or from a personal model, which the first round has not yet."""
    return run.sends_student or (run.teacher.start == "personal" and run.rounds > 1)


OWN_OPTIMISER: Condition = lambda run: "learning_rate" in run.privacy.facts.reads  # noqa: E731
FILES: tuple[Condition, str] = (lambda run: run.data.root != "builtin", "data.root other than builtin")
NOISE: tuple[Condition, str] = (lambda run: run.privacy.facts.has_guarantee, "a privacy.mechanism")
SUM: tuple[Condition, str] = (lambda run: run.privacy.secure_sum, "privacy.secure-sum = true")
PERSONAL: tuple[Condition, str] = (lambda run: run.personal.consensus != "none", "personal.consensus other than none")
MEAN: tuple[Condition, str] = (
    lambda run: run.weights.pooling in WEIGHTED,
    f"weights.pooling = {' or '.join(WEIGHTED)}",
)
SOLVER: tuple[Condition, str] = (
    lambda run: "ot" in loss_keys(run).values() and run.transport.solver in ("auto", "sinkhorn"),
    "distill.loss = ot with Sinkhorn",
)
LORA: tuple[Condition, str] = (lambda run: run.trainable == "lora", "trainable = lora")
PROMPTED: tuple[Condition, str] = (
    lambda run: any(name.startswith(PROMPT) for name in named_models(run)),
    "a teacher prompt:<hub id or absolute folder>",
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
    **{f"lora.{key}": LORA for key in ("rank", "alpha", "dropout", "targets", "quantize")},
    **{f"prompt.{key}": PROMPTED for key in ("template", "words", "calibrate")},
    "compile": (
        lambda run: run.device != "cpu" and run.trainable != "head" and named_models(run) != {"ngram-bag"},
        "device other than cpu, and a transformer with trainable = all or lora",
    ),
    "teacher.max-length": (lambda run: named_models(run) != {"ngram-bag"}, "a model other than ngram-bag"),
    **{
        f"teacher.{key}": (
            lambda run: run.teacher.epochs > 0 or PERSONAL[0](run),
            f"teacher.epochs above 0, or {PERSONAL[1]}",
        )
        for key in ("patience", "class-weights", "calibrate")
    },
    **{
        f"teacher.{key}": (
            lambda run: run.teacher.epochs > 0 and (not OWN_OPTIMISER(run) or run.student.pretrain),
            "teacher.epochs above 0, and student.pretrain = true or a privacy.mechanism other than"
            f" {' or '.join(readers_of('learning_rate'))}",
        )
        for key in ("warmup", "schedule", "clip-norm", "accumulate", "label-smoothing")
    },
    "teacher.start": (_starts_from_a_model, "rounds above 1"),
    "teacher.round-epochs": (
        lambda run: _starts_from_a_model(run) and "epochs" not in run.privacy.facts.reads,
        "teacher.start = student or both, or personal with rounds above 1, and a privacy.mechanism other than"
        f" {' or '.join(readers_of('epochs'))}",
    ),
    "resend-above": (lambda run: run.slices < run.rounds, "round-texts = all and rounds above 1"),
    "student.restart": (lambda run: run.rounds > 1, "rounds above 1"),
    "student.calibrate": (lambda run: run.student.pretrain, "student.pretrain = true"),
    "weights.scheme": MEAN,
    "weights.power": (
        lambda run: run.weights.pooling in WEIGHTED and run.weights.scheme != "uniform",
        f"a weights.scheme other than uniform, with {MEAN[1]}",
    ),
    "weights.era-temperature": (lambda run: run.weights.pooling == "era", "weights.pooling = era"),
    "weights.trim": (lambda run: run.weights.pooling == "trimmed-mean", "weights.pooling = trimmed-mean"),
    "transport.cost": (
        lambda run: _reads_any_cost(run) or (run.labels.geometry == "auto" and run.geometry == "embedding"),
        "distill.loss = ot or sinkhorn-divergence",
    ),
    "transport.encoder": (
        lambda run: run.geometry == "embedding" or (run.transport.cost == "embedding" and _reads_any_cost(run)),
        "transport.cost = embedding",
    ),
    "transport.solver": (_transport("transport.solver"), "distill.loss = ot"),
    "transport.divergence-epsilon": (_transport("transport.divergence-epsilon"), "distill.loss = sinkhorn-divergence"),
    "transport.entropic-epsilon": SOLVER,
    "transport.marginal-error": SOLVER,
    **{f"personal.{key}": PERSONAL for key in ("when", "loss", "weight", "epochs", "learning-rate")},
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
AVERAGING: Mapping[str, tuple[Condition, str]] = {
    key: (lambda _: False, "flower-simulation --strategy fedavg")
    for key in known_keys(RunConfig)
    if key.startswith("fedavg.")
}
"""The keys that only the baseline reads."""


def unread_settings(runs: Sequence[RunConfig], *, averages: bool = True) -> list[str]:
    """Return a sentence for each setting that differs from the default and that none of these runs reads.

    Parameters
    ----------
    runs
        The runs, such as the cells of a sweep.
    averages
        Whether federated averaging may read them; False: they only distil.

    Examples
    --------
    >>> unread_settings([RunConfig.from_mapping({"weights.trim": 0.3})])
    ['weights.trim = 0.3 has no effect; it needs weights.pooling = trimmed-mean']
    """
    defaults = RunConfig().to_mapping()
    told = []
    for key, (reads, needs) in {**READERS, **({} if averages else AVERAGING)}.items():
        values = {run.to_mapping()[key] for run in runs} - {defaults[key]}
        if values and not any(reads(run) for run in runs):
            told.append(f"{key} = {', '.join(map(str, sorted(values, key=str)))} has no effect; it needs {needs}")
    return told
