"""The tables of a run's configuration: every key with its default, its bounds and its meaning."""

from typing import Annotated, Literal

from pydantic import Field

from knot_fed.config import choices
from knot_fed.config.choices import described, known_or_plugin, one_of
from knot_fed.config.fields import (
    LEAST_DELTA,
    LEAST_EPSILON,
    LONGEST_FUNCTION,
    MOST_CLIENTS_IN_SUM,
    MOST_DELTA,
    MOST_EPSILON,
    Accumulate,
    BatchSize,
    ClipNorm,
    CommaList,
    Delimiter,
    Epochs,
    FileNames,
    Power,
    Rate,
    RateSchedule,
    Section,
    Warmup,
)
from knot_fed.config.mechanisms import MECHANISMS, NO_MECHANISM, MechanismFacts, MechanismName
from knot_fed.labels import MOST_LABELS

OWN = "your.module:function"
FALLS = "of the learning rate; cosine and linear fall to 0 over the configured epochs"


class LabelsConfig(Section):
    """The label space, unless the task's preset fits."""

    names: CommaList = Field("", description='"bad, good"; empty: the task\'s preset')
    coordinates: CommaList = Field("", description='"-1; 1", or "0.9,0.2; -0.4,0.8" in two dimensions')
    ordered: bool = Field(False, description="names without coordinates: on a line, one apart; else at equal distances")
    geometry: str = Field(
        "auto", description=f"of SD and W1: {described(choices.GEOMETRIES, last='a file with a matrix')}"
    )


class DataConfig(Section):
    """The files of each role and their columns."""

    root: str = Field("builtin", description="folder of the files below, or builtin for the synthetic reviews")
    clients: FileNames = Field(
        "phones,restaurants,hotels", description="private files, one or more virtual clients each"
    )
    public: FileNames = Field("books", description="labelled, on the server")
    transfer: FileNames = Field("forum", description="unlabelled, shared; labels in the file are never read")
    text: str = Field("text", description="column of the texts")
    text_a: str = Field("text_a", description="column of the first texts of pairs")
    text_b: str = Field("text_b", description="column of the second texts of pairs")
    label: str = Field("label", description="column of the labels: names, or in all rows indices from 0")
    split: str = Field("split", description="optional column with train, val and test")
    separator: str = Field(
        "", description='splits a text in two, such as " [SEP] " before the context of a dialogue turn'
    )
    delimiter: Delimiter = Field("", description="of csv and tsv files; empty: a comma, in tsv a tab")
    quoting: Literal["auto", "double", "none"] = Field(
        "auto",
        description="of csv and tsv files: none, double (quoted texts, inner quotes doubled); auto: none with tabs",
    )
    limit: int = Field(0, ge=0, le=10**9, description="training rows of each file, and transfer texts, at most; 0: all")
    partition: Annotated[str, one_of(choices.PARTITIONS)] = Field(
        "iid", description=f"how several virtual clients share a file: {described(choices.PARTITIONS)}"
    )
    alpha: float = Field(0.5, ge=1e-3, le=1e6, description="concentration of dirichlet")
    labels_per_client: int = Field(
        2, ge=1, le=MOST_LABELS, description="pathological: labels of a share; shard: runs of rows sorted by label"
    )
    id: str = Field("", description="natural-id: column; rows with equal values stay with one client")
    min_examples: int = Field(10, ge=1, le=10**6, description="training rows of each share of a file, at least")

    @property
    def id_column(self) -> str:
        """The column by which virtual clients share a file; empty under other partitions."""
        return self.id if self.partition == "natural-id" else ""

    @property
    def client_names(self) -> tuple[str, ...]:
        """Names of the private files, in the given order."""
        return tuple(name.strip() for name in self.clients.split(",") if name.strip())


class TeacherConfig(Section):
    """Training of a teacher, and of the student on the public labelled set."""

    models: CommaList = Field("", description="one model for each of data.clients, in order; empty: model")
    start: Annotated[str, one_of(choices.STARTS)] = Field(
        "scratch", description=f"what a round's teacher starts from: {described(choices.STARTS)}"
    )
    round_epochs: int = Field(
        0,
        ge=0,
        le=10_000,
        description="epochs of a teacher that starts from the student or a personal model, at most; 0: epochs",
    )
    epochs: int = Field(30, ge=0, le=10_000, description="at most; 0: use a ready model without training")
    patience: Epochs = Field(5, description="epochs without a better validation macro-F1 before stopping")
    batch_size: BatchSize = Field(64, description="examples in a step")
    learning_rate: Rate = Field(0.0, description="0: the model's own default")
    warmup: Warmup = 0.0
    schedule: RateSchedule = Field("constant", description=FALLS)
    clip_norm: ClipNorm = 0.0
    accumulate: Accumulate = 1
    weight_decay: Rate = Field(0.01, description="of AdamW")
    class_weights: Literal["auto", "none", "balanced", "logit-adjusted"] = Field(
        "auto",
        description="none, balanced (inverse frequency), logit-adjusted; auto: the last, or none with a mechanism",
    )
    calibrate: bool = Field(
        False, description="fit the temperature on the own validation split; it stays on the client"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of a label's mass spread over all labels")
    max_length: int = Field(128, ge=8, le=8192, description="tokens of one text (hf: and tiny-bert)")
    temperature: float = Field(
        1.0,
        ge=0.5,
        le=20,
        description="of the softmax of soft labels; at least 0.5, so that no server can sharpen them",
    )

    @property
    def epochs_from_student(self) -> int:
        """Epochs of a teacher that starts from the student or from a personal model, at most."""
        return self.round_epochs or self.epochs

    @property
    def epochs_of_round(self) -> int:
        """Epochs that a client may train in one round; a teacher of another architecture starts from nothing."""
        if self.start == "both":
            return self.epochs + self.epochs_from_student
        return self.epochs if self.start == "scratch" else max(self.epochs, self.epochs_from_student)


class StudentConfig(Section):
    """The student's architecture and initialisation."""

    model: str = Field("", description="empty: model")
    pretrain: bool = Field(True, description="on the public labelled set; it then counts as one more teacher")
    calibrate: bool = Field(True, description="fit the pretrained student's temperature on the public validation split")
    restart: bool = Field(False, description="distil each round's student from the start, not from the round before")


class WeightsConfig(Section):
    """Weights of the teachers."""

    scheme: Annotated[str, known_or_plugin(choices.SCHEMES)] = Field(
        "confidence", max_length=LONGEST_FUNCTION, description=described(choices.SCHEMES, last=OWN)
    )
    power: Power = Field(1.0, description="exponent of the scheme's scores; above 1 sharpens the weights")
    pooling: Annotated[str, one_of(choices.POOLINGS)] = Field(
        "mean",
        description=f"{described(choices.POOLINGS)}; the last two ignore weights and resist bad teachers",
    )
    era_temperature: float = Field(0.1, ge=0.01, le=100, description="of era; lower is sharper")
    most_entropy: float = Field(
        1.0,
        gt=0,
        le=1,
        description="of a text's pooled soft label, as a share of the largest entropy; others are left out",
    )
    trim: float = Field(
        0.2, gt=0, lt=0.5, description="share that trimmed-mean cuts off at each end, at least one teacher"
    )

    @property
    def effective_scheme(self) -> str:
        """The scheme, or `uniform` where the pooling reads no weights."""
        return self.scheme if self.pooling in choices.WEIGHTED else "uniform"

    @property
    def weighting(self) -> str:
        """The scheme, and the pooling unless it is the mean; for tables and summaries."""
        if self.pooling not in choices.WEIGHTED:
            return f"unweighted {self.pooling}"
        return self.scheme if self.pooling == "mean" else f"{self.pooling} of {self.scheme}"


class TransportConfig(Section):
    """The ground cost between labels, and the solver. Accuracies are shares of the largest ground cost."""

    cost: str = Field("augmented", description=described(choices.GROUND_COSTS, last="a file with a matrix"))
    encoder: str = Field("", description="hf: encoder that reads the label names; empty: the run's own hf: model")
    solver: Annotated[str, one_of(choices.SOLVERS)] = Field("auto", description=described(choices.SOLVERS))
    divergence_epsilon: float = Field(
        0.1, ge=1e-6, le=1e3, description="blur of sinkhorn-divergence, as a share of the largest ground cost"
    )
    entropic_epsilon: float = Field(
        0.00167,
        ge=1e-6,
        le=1e3,
        description="of sinkhorn, as a share of the largest ground cost; 0.0091 with marginal-error 0.03 is faster",
    )
    marginal_error: float = Field(
        0.01, ge=1e-9, le=1, description="at which sinkhorn stops: L1, relative to the mass moved"
    )


class DistillConfig(Section):
    """Training of the student on soft labels."""

    loss: Annotated[str, known_or_plugin(choices.LOSSES)] = Field(
        "ot", max_length=LONGEST_FUNCTION, description=described(choices.LOSSES, last=OWN)
    )
    objective: Literal["pooled", "per-teacher"] = Field(
        "per-teacher", description="per-teacher: weighted sum of costs; pooled: one cost to the weighted mean"
    )
    epochs: Epochs = Field(30, description="at most")
    patience: Epochs = Field(5, description="epochs without a lower held-out loss before stopping")
    least_steps: int = Field(0, ge=0, le=100_000, description="more epochs, and patience, where they have fewer steps")
    batch_size: BatchSize = Field(128, description="transfer texts in a step")
    learning_rate: Rate = Field(0.0, description="0: the model's own default")
    warmup: Warmup = 0.0
    schedule: RateSchedule = Field("constant", description=FALLS)
    clip_norm: ClipNorm = 0.0
    accumulate: Accumulate = 1
    dropout: bool = Field(True, description="false: none, so that the student can fit soft labels exactly")
    validation: float = Field(0.1, gt=0, lt=1, description="share of the transfer set that selects the epoch")
    agreement: Power = Field(0.0, description="exponent of text weights by the teachers' agreement; 0: equal weights")
    supervised: Rate = Field(
        0.0, description="weight of cross-entropy on the public labelled examples, added to the loss"
    )


class PersonalConfig(Section):
    """Personal models: what the clients distil beside their own examples, and keep."""

    consensus: Annotated[str, one_of(choices.CONSENSUSES)] = Field(
        "none", description=f"soft labels that go back to the clients: {described(choices.CONSENSUSES)}"
    )
    when: Literal["end", "rounds"] = Field("end", description="after the last round, or after each round")
    loss: Annotated[str, known_or_plugin(choices.LOSSES)] = Field(
        "ot", max_length=LONGEST_FUNCTION, description="as distill.loss"
    )
    weight: Rate = Field(1.0, description="of the loss on the consensus, beside the own cross-entropy")
    epochs: Epochs = Field(10, description="over the texts of the consensus, at most")
    learning_rate: Rate = Field(0.0, description="0: the model's own default")


class FedAvgConfig(Section):
    """The federated averaging baseline."""

    rounds: int = Field(10, ge=1, le=10_000, description="of averaging")
    epochs: Epochs = Field(1, description="of each client in each round")
    learning_rate: Rate = Field(0.0, description="0: the model's own default")


class PrivacyConfig(Section):
    """Protection of soft labels before they leave a client, whose policy may ask for more, never less."""

    mechanism: MechanismName = Field(NO_MECHANISM, description=described(MECHANISMS))
    epsilon: float = Field(
        8.0,
        ge=LEAST_EPSILON,
        le=MOST_EPSILON,
        description="of one run; dp-sgd: of one teacher, for any number of texts",
    )
    delta: float = Field(1e-05, ge=LEAST_DELTA, le=MOST_DELTA, description="below one over the private examples")
    clipping_norm: float = Field(1.0, ge=1e-6, le=1e6, description="dp-sgd: largest L2 norm of one example's gradient")
    sampling_rate: float = Field(
        0.05, ge=1e-4, le=1, description="dp-sgd: probability of each example in a step, instead of a batch size"
    )
    epochs: Epochs = Field(20, description="dp-sgd and pate: always all, without early stopping")
    learning_rate: float = Field(0.01, gt=0, le=1e3, description="dp-sgd")
    shards: int = Field(20, ge=2, le=1000, description="pate: teachers on disjoint shards of the private examples")
    votes: Literal["distributions", "labels"] = Field(
        "distributions", description="pate: the noisy mean of the distributions, or the label with the most noisy votes"
    )
    compression: Annotated[str, one_of(choices.COMPRESSIONS)] = Field(
        "none", description=f"{described(choices.COMPRESSIONS)}: fewer bytes, no guarantee"
    )
    top_k: int = Field(2, ge=1, le=MOST_LABELS, description="labels kept by top-k; the others share the remaining mass")
    secure_sum: bool = Field(False, description="clients send masked integers; the server learns only the weighted sum")
    threshold: int = Field(
        0, ge=0, le=MOST_CLIENTS_IN_SUM, description="clients needed to unmask the sum; 0: more than two thirds"
    )
    sum_bits: int = Field(
        56,
        ge=20,
        le=62,
        description="of the largest weight as an integer; 24 suffices for uniform weights, at half the traffic",
    )

    @property
    def facts(self) -> MechanismFacts:
        """The declaration of the mechanism."""
        return MECHANISMS[self.mechanism]

    @property
    def steps(self) -> int:
        """Optimiser steps of DP-SGD: each example is used `epochs` times on average."""
        return max(1, round(self.epochs / self.sampling_rate))
