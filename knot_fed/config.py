"""Configuration of a run and of a node, parsed once; the defaults of a run live in `pyproject.toml`."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from knot_fed.errors import ConfigError, shown
from knot_fed.labels import MOST_LABELS, LabelSpace
from knot_fed.plugins import is_own

Scalar: TypeAlias = bool | int | float | str
LEAST_EPSILON, MOST_EPSILON = 0.01, 1000.0
LEAST_DELTA, MOST_DELTA = 1e-12, 0.1
MOST_STEPS = 1_000_000
MOST_CLIENTS = 1_000_000
MOST_CLIENTS_IN_SUM = 1000
LONGEST_LIST, LONGEST_STRING, LONGEST_FUNCTION = 20_000, 4096, 200
Clients: TypeAlias = Annotated[int, Field(ge=0, le=MOST_CLIENTS)]
Epochs: TypeAlias = Annotated[int, Field(ge=1, le=10_000)]
BatchSize: TypeAlias = Annotated[int, Field(ge=1, le=65_536)]
Rate: TypeAlias = Annotated[float, Field(ge=0, le=1e3)]
Power: TypeAlias = Annotated[float, Field(ge=0, le=100)]
CommaList: TypeAlias = Annotated[str, Field(max_length=LONGEST_LIST)]
Trainable: TypeAlias = Literal["all", "head"]
CONFIDENCES = ("confidence", "histogram-confidence")
LOSSES = ("ot", "sinkhorn-divergence", "entropy", "kl", "reverse-kl", "jensen-shannon", "mse")
Mechanism: TypeAlias = Literal["none", "dp-sgd", "pate", "gaussian"]
SCHEMES = ("uniform", "size", "confidence", "histogram-confidence", "certainty", "density")


def _kebab(field: str) -> str:
    return field.replace("_", "-")


def _known_or_own(known: tuple[str, ...]) -> AfterValidator:
    """Accept a known name, or one in the form of a user's own function, which is imported where it is used."""

    def check(name: str) -> str:
        if name not in known and not is_own(name):
            raise PydanticCustomError("name", f"use {', '.join(known)}, or your own package.module:function")
        return name

    return AfterValidator(check)


class _Section(BaseModel):
    """Every number has a least and a largest value, and every string a largest length: a peer may have written them."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=_kebab, protected_namespaces=(), allow_inf_nan=False,
        str_max_length=LONGEST_STRING,
    )  # fmt: skip


class LabelsConfig(_Section):
    """The label space, where the task's preset does not fit."""

    names: CommaList
    coordinates: CommaList


class DataConfig(_Section):
    """Which files play which role, and what their columns are called."""

    root: str
    clients: CommaList
    public: str
    transfer: str
    text: str
    text_a: str
    text_b: str
    label: str
    split: str
    separator: str
    limit: Annotated[int, Field(ge=0, le=10**9)]
    partition: Literal["iid", "dirichlet"]
    alpha: Annotated[float, Field(ge=1e-3, le=1e6)]

    @property
    def client_names(self) -> tuple[str, ...]:
        """Names of the private files, in the order given."""
        return tuple(name.strip() for name in self.clients.split(",") if name.strip())


class TeacherConfig(_Section):
    """How a teacher, or the student on the public labelled set, is trained."""

    models: CommaList
    epochs: Epochs
    patience: Epochs
    batch_size: BatchSize
    learning_rate: Rate
    weight_decay: Rate
    class_weights: Literal["none", "balanced"]
    max_length: Annotated[int, Field(ge=8, le=8192)]
    temperature: Annotated[float, Field(ge=0.5, le=20)]


class StudentConfig(_Section):
    """The student's architecture, where it differs from the clients', and its start."""

    model: str
    pretrain: bool


class WeightsConfig(_Section):
    """How much each teacher counts."""

    scheme: Annotated[str, Field(max_length=LONGEST_FUNCTION), _known_or_own(SCHEMES)]
    power: Power
    pooling: Literal["mean", "median", "trimmed-mean"]
    trim: Annotated[float, Field(gt=0, lt=0.5)]


class TransportConfig(_Section):
    """The ground cost between labels and the solver of the transport problem."""

    cost: str
    solver: Literal["auto", "line", "star", "table", "sinkhorn", "lp"]
    divergence_epsilon: Annotated[float, Field(ge=1e-6, le=1e3)]
    entropic_epsilon: Annotated[float, Field(ge=1e-6, le=1e3)]
    marginal_error: Annotated[float, Field(ge=1e-9, le=1)]


class DistillConfig(_Section):
    """How the student learns from the soft labels."""

    loss: Annotated[str, Field(max_length=LONGEST_FUNCTION), _known_or_own(LOSSES)]
    objective: Literal["pooled", "per-teacher"]
    epochs: Epochs
    patience: Epochs
    batch_size: BatchSize
    learning_rate: Rate
    validation: Annotated[float, Field(gt=0, lt=1)]
    agreement: Power
    supervised: Rate


class FedAvgConfig(_Section):
    """The reference line: rounds of federated averaging, and how each client trains in one."""

    rounds: Annotated[int, Field(ge=1, le=10_000)]
    epochs: Epochs
    learning_rate: Rate


class PrivacyConfig(_Section):
    """What each client does to its soft labels before they leave, and what the server is kept from seeing.

    A client's policy may ask for more, never less.
    """

    mechanism: Mechanism
    epsilon: Annotated[float, Field(ge=LEAST_EPSILON, le=MOST_EPSILON)]
    delta: Annotated[float, Field(ge=LEAST_DELTA, le=MOST_DELTA)]
    clipping_norm: Annotated[float, Field(ge=1e-6, le=1e6)]
    sampling_rate: Annotated[float, Field(ge=1e-4, le=1)]
    epochs: Epochs
    learning_rate: Annotated[float, Field(gt=0, le=1e3)]
    shards: Annotated[int, Field(ge=2, le=1000)]
    votes: Literal["distributions", "labels"]
    compression: Literal["none", "float16", "uint8", "top-k", "hard"]
    top_k: Annotated[int, Field(ge=1, le=MOST_LABELS)]
    secure_sum: bool
    threshold: Annotated[int, Field(ge=0, le=MOST_CLIENTS_IN_SUM)]
    sum_bits: Annotated[int, Field(ge=20, le=62)]

    @property
    def steps(self) -> int:
        """Optimiser steps of DP-SGD: `epochs` mean uses of each example, whatever their number; at most a million."""
        return max(1, round(self.epochs / self.sampling_rate))


class RunConfig(_Section):
    """Everything that the server and all clients agree on for one run."""

    name: str
    resume: str
    task: str
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    model: str
    trainable: Trainable
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    fraction: Annotated[float, Field(gt=0, le=1)]
    min_teachers: Annotated[int, Field(ge=1, le=MOST_CLIENTS)]
    wait_for: Clients
    timeout: Annotated[float, Field(gt=0, le=30 * 86_400)]
    threads: Annotated[int, Field(ge=0, le=1024)]
    runs_dir: str
    state_dir: str
    labels: LabelsConfig
    data: DataConfig
    teacher: TeacherConfig
    student: StudentConfig
    weights: WeightsConfig
    transport: TransportConfig
    distill: DistillConfig
    privacy: PrivacyConfig
    fedavg: FedAvgConfig

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Scalar]) -> "RunConfig":
        """Parse a flat mapping with dotted, kebab-case keys, as Flower hands it over.

        Raises
        ------
        ConfigError
            If a key is unknown (the nearest known keys are named), missing, or has a value out of range, or two
            values do not go together.
        """
        check_known_keys(mapping, known=known_keys(cls), where="run configuration")
        config = _validated(cls, nested(mapping), where="run configuration")
        if config.weights.pooling != "mean" and config.distill.objective != "pooled":
            raise ConfigError(
                f"run configuration: weights.pooling = {config.weights.pooling!r} pools nothing under"
                f" distill.objective = {config.distill.objective!r}; use distill.objective = 'pooled'"
            )
        _check_privacy(config)
        if config.privacy.secure_sum:
            _check_secure_sum(config)
        return config

    def to_mapping(self) -> dict[str, Scalar]:
        """Return the flat mapping that `from_mapping` reads."""
        return flattened(self.model_dump(by_alias=True))

    def label_space(self) -> LabelSpace:
        """Return the label space named by `labels.names`, or else the task's preset."""
        if self.labels.names:
            return LabelSpace.from_text(self.labels.names, self.labels.coordinates)
        return LabelSpace.preset(self.task)

    @property
    def student_model(self) -> str:
        """The student's architecture."""
        return self.student.model or self.model


def _check_privacy(config: RunConfig) -> None:
    """Refuse settings by which something not covered by the mechanism would shape what leaves."""
    mechanism, scheme, steps = config.privacy.mechanism, config.weights.scheme, config.privacy.steps
    if mechanism == "none":
        return
    if mechanism == "dp-sgd" and steps > MOST_STEPS:
        raise ConfigError(
            f"run configuration: privacy.epochs = {config.privacy.epochs} at privacy.sampling-rate ="
            f" {config.privacy.sampling_rate:g} are {steps} steps, more than {MOST_STEPS}; use fewer epochs or a higher"
            " rate"
        )
    covered = ("uniform", "certainty", *(CONFIDENCES if mechanism == "dp-sgd" else ()))
    if scheme in SCHEMES and scheme not in covered:
        raise ConfigError(
            f"run configuration: weights.scheme = {scheme!r} reads what privacy.mechanism = {mechanism!r} does not"
            f" cover; use {' or '.join(covered)}"
        )
    if config.teacher.class_weights != "none":
        raise ConfigError(
            f"run configuration: teacher.class-weights = {config.teacher.class_weights!r} tells the private mix of"
            f" labels beside privacy.mechanism = {mechanism!r}; use none"
        )


def _check_secure_sum(config: RunConfig) -> None:
    """Refuse what needs single soft labels where the server sees their sum only."""
    for key, found, works in (
        ("distill.objective", config.distill.objective, ("pooled",)),
        ("weights.pooling", config.weights.pooling, ("mean",)),
        ("distill.agreement", config.distill.agreement, (0.0,)),
        ("weights.scheme", config.weights.scheme, SCHEMES),
        ("privacy.compression", config.privacy.compression, ("none",)),
    ):
        if found not in works:
            raise ConfigError(
                f"run configuration: {key} = {found!r} needs single soft labels, which privacy.secure-sum = true hides"
                f" from the server; use {' or '.join(map(repr, works))}"
            )


class NodeConfig(_Section):
    """What one node knows about itself: `--node-config` of a SuperNode, or a virtual client's partition.

    What shapes the private examples is a real node's own: the run's columns, separator, limit and longest text are
    those of virtual clients.
    """

    name: str = ""
    data: str = ""
    transfer: str = ""
    state_dir: str = ""
    model: str = ""
    trainable: Trainable | Literal[""] = ""
    policy: str = ""
    text: str = ""
    text_a: str = ""
    text_b: str = ""
    label: str = ""
    split: str = ""
    separator: str = ""
    max_length: Annotated[int, Field(ge=8, le=8192)] = 128
    partition_id: Clients = 0
    num_partitions: Clients = 0

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Scalar]) -> "NodeConfig":
        """Parse a node's configuration.

        Raises
        ------
        ConfigError
            If a key is unknown, a value has the wrong type, or a path is not absolute.
        """
        check_known_keys(mapping, known=known_keys(cls), where="node configuration")
        config = _validated(cls, dict(mapping), where="node configuration")
        for key in ("data", "transfer", "state_dir", "policy"):
            path = getattr(config, key)
            if path and not Path(path).is_absolute():
                raise ConfigError(
                    f"node configuration: {_kebab(key)} is a relative path;"
                    " give an absolute one, since the app runs from a copy"
                )
        return config


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """List a configuration's dotted keys."""
    keys: list[str] = []
    for field, info in model.model_fields.items():
        nested = info.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            keys += known_keys(nested, prefix=f"{prefix}{_kebab(field)}.")
        else:
            keys.append(prefix + _kebab(field))
    return keys


def check_known_keys(mapping: Mapping[str, Scalar], *, known: list[str], where: str) -> None:
    """Refuse keys that nothing reads.

    Raises
    ------
    ConfigError
        If a key is unknown; the message names the nearest known keys.
    """
    for key in mapping:
        if key not in known:
            key = key[:LONGEST_FUNCTION]
            last = key.rpartition(".")[2]
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5) or [
                name for name in known if difflib.get_close_matches(last, [name.rpartition(".")[2]], cutoff=0.6)
            ]
            hint = f"; nearest known: {', '.join(near)}" if near else "; see the table of keys in README.md"
            raise ConfigError(f"{where}: unknown key {shown(key)}{hint}")


def flattened(tree: Mapping[str, object], prefix: str = "") -> dict[str, Scalar]:
    """Turn nested tables into dotted keys."""
    flat: dict[str, Scalar] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, prefix=f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            flat[prefix + key] = value
        else:
            raise ConfigError(
                f"run configuration: {shown(prefix + key)} is a {type(value).__name__}; use a string or a number"
            )
    return flat


def nested(flat: Mapping[str, Scalar]) -> dict[str, Any]:
    """Turn dotted keys into tables, one level deep."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, field = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[field] = value
    return tree


_Model = TypeVar("_Model", bound=BaseModel)


def _validated(model: type[_Model], tree: Mapping[str, object], *, where: str) -> _Model:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = shown(".".join(str(part) for part in first["loc"])).strip("'")
        if first["type"] == "missing":
            raise ConfigError(f"{where}: {key} is missing; give it a value") from None
        private = model is NodeConfig and isinstance(first["input"], str)  # a client's errors go to the server
        found = "" if private else f" = {shown(first['input'])}"
        raise ConfigError(f"{where}: {key}{found}: {first['msg'].lower()}") from None
