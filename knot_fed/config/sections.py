"""The tables of a run's configuration: every key with its default, its bounds and its meaning."""

from typing import Annotated, Literal

from pydantic import Field

from knot_fed.config.choices import (
    COMPRESSIONS,
    GROUND_COSTS,
    LOSSES,
    PARTITIONS,
    POOLINGS,
    SCHEMES,
    SOLVERS,
    described,
    known_or_own,
    one_of,
)
from knot_fed.config.fields import (
    LEAST_DELTA,
    LEAST_EPSILON,
    LONGEST_FUNCTION,
    MOST_CLIENTS_IN_SUM,
    MOST_DELTA,
    MOST_EPSILON,
    BatchSize,
    CommaList,
    Delimiter,
    Epochs,
    FileNames,
    Power,
    Rate,
    Section,
)
from knot_fed.config.mechanisms import MECHANISMS, NO_MECHANISM, MechanismFacts, MechanismName
from knot_fed.labels import MOST_LABELS

OWN = "your.module:function"


class LabelsConfig(Section):
    """The label space, where the task's preset does not fit."""

    names: CommaList = Field("", description='"bad, good"; empty: the task\'s preset')
    coordinates: CommaList = Field("", description='"-1; 1", or "0.9,0.2; -0.4,0.8" in two dimensions')
    ordered: bool = Field(
        False, description="whether names without coordinates lie on a line, one apart; else all are equally far apart"
    )


class DataConfig(Section):
    """Which files play which role, and what their columns are called."""

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
        "", description='cuts a text in two, such as " [SEP] " a dialogue\'s newest turn from the turns before it'
    )
    delimiter: Delimiter = Field("", description="of csv and tsv files; empty: a comma, in tsv a tab")
    quoting: Literal["auto", "double", "none"] = Field(
        "auto",
        description="of csv and tsv files: none, double (texts in marks, marks within doubled); auto: none with tabs",
    )
    limit: int = Field(0, ge=0, le=10**9, description="training rows of each file, and transfer texts, at most; 0: all")
    partition: Annotated[str, one_of(PARTITIONS)] = Field(
        "iid", description=f"how several virtual clients share a file: {described(PARTITIONS)}"
    )
    alpha: float = Field(0.5, ge=1e-3, le=1e6, description="concentration of dirichlet")
    labels_per_client: int = Field(
        2, ge=1, le=MOST_LABELS, description="pathological: labels of a share; shard: runs of rows sorted by label"
    )
    id: str = Field(
        "", description="natural-id: column that names whose row it is; rows of one value stay with one client"
    )
    min_examples: int = Field(10, ge=1, le=10**6, description="training rows of each share of a file, at least")

    @property
    def id_column(self) -> str:
        """The column by which virtual clients share a file; empty: they share it otherwise."""
        return self.id if self.partition == "natural-id" else ""

    @property
    def client_names(self) -> tuple[str, ...]:
        """Names of the private files, in the order given."""
        return tuple(name.strip() for name in self.clients.split(",") if name.strip())


class TeacherConfig(Section):
    """How a teacher, or the student on the public labelled set, is trained."""

    models: CommaList = Field("", description="one model for each of data.clients, in order; empty: model")
    epochs: int = Field(30, ge=0, le=10_000, description="at most; 0: a ready model is used as it is")
    patience: Epochs = Field(5, description="epochs without a better validation macro-F1 before stopping")
    batch_size: BatchSize = Field(64, description="examples in a step")
    learning_rate: Rate = Field(0.0, description="0: the model's own default")
    weight_decay: Rate = Field(0.01, description="of AdamW")
    class_weights: Literal["auto", "none", "balanced", "logit-adjusted"] = Field(
        "auto",
        description="none, balanced (inverse frequency) or logit-adjusted, which auto is without a privacy mechanism",
    )
    max_length: int = Field(128, ge=8, le=8192, description="tokens of one text (hf: and tiny-bert)")
    temperature: float = Field(
        1.0,
        ge=0.5,
        le=20,
        description="of the softmax that makes soft labels; 0.5 to 20, so that no server sharpens what leaves",
    )


class StudentConfig(Section):
    """The student's architecture, where it differs from the clients', and its start."""

    model: str = Field("", description="empty: model")
    pretrain: bool = Field(True, description="on the public labelled set; it then counts as one more teacher")
    calibrate: bool = Field(
        True,
        description="divide the pretrained student's logits by the temperature that fits the public validation split",
    )


class WeightsConfig(Section):
    """How much each teacher counts."""

    scheme: Annotated[str, known_or_own(SCHEMES)] = Field(
        "confidence", max_length=LONGEST_FUNCTION, description=described(SCHEMES, last=OWN)
    )
    power: Power = Field(1.0, description="raises the scheme's scores; above 1 sharpens the weights")
    pooling: Annotated[str, one_of(POOLINGS)] = Field(
        "mean",
        description=f"{described(POOLINGS)}; all but mean are unweighted and tolerate a minority of bad teachers",
    )
    trim: float = Field(
        0.2, gt=0, lt=0.5, description="share of the teachers that trimmed-mean cuts off at each end, at least one"
    )

    @property
    def weighting(self) -> str:
        """What the teachers count by: the scheme, which only `mean` reads, or else the pooling."""
        return self.scheme if self.pooling == "mean" else f"unweighted {self.pooling}"


class TransportConfig(Section):
    """The ground cost between labels and the solver of the transport problem."""

    cost: str = Field("augmented", description=described(GROUND_COSTS, last="a file with a matrix"))
    solver: Annotated[str, one_of(SOLVERS)] = Field("auto", description=described(SOLVERS))
    divergence_epsilon: float = Field(
        0.1,
        ge=1e-6,
        le=1e3,
        description="of the sinkhorn-divergence loss, as a share of the largest ground cost: its blur",
    )
    entropic_epsilon: float = Field(
        0.00167,
        ge=1e-6,
        le=1e3,
        description="of sinkhorn, as a share of the largest ground cost; 0.0091 with 0.03 below is the fast mode",
    )
    marginal_error: float = Field(
        0.01, ge=1e-9, le=1, description="where sinkhorn stops: L1, relative to the mass moved"
    )


class DistillConfig(Section):
    """How the student learns from the soft labels."""

    loss: Annotated[str, known_or_own(LOSSES)] = Field(
        "ot", max_length=LONGEST_FUNCTION, description=described(LOSSES, last=OWN)
    )
    objective: Literal["pooled", "per-teacher"] = Field(
        "per-teacher", description="per-teacher: weighted sum of costs; pooled: one cost to the weighted mean"
    )
    epochs: Epochs = Field(30, description="at most")
    patience: Epochs = Field(5, description="epochs without a lower held-out loss before stopping")
    batch_size: BatchSize = Field(128, description="transfer texts in a step")
    learning_rate: Rate = Field(0.0, description="0: the model's own default")
    validation: float = Field(0.1, gt=0, lt=1, description="share of the transfer set that chooses the epoch")
    agreement: Power = Field(
        0.0, description="power by which a text counts for its teachers' agreement; 0: all texts the same"
    )
    supervised: Rate = Field(0.0, description="weight of cross-entropy on the public labelled examples beside the loss")


class FedAvgConfig(Section):
    """The reference line: rounds of federated averaging, and how each client trains in one."""

    rounds: int = Field(10, ge=1, le=10_000, description="of averaging")
    epochs: Epochs = Field(1, description="of each client in each round")
    learning_rate: Rate = Field(0.0, description="0: the model's own default")


class PrivacyConfig(Section):
    """What each client does to its soft labels before they leave, and what the server is kept from seeing.

    A client's policy may ask for more, never less.
    """

    mechanism: MechanismName = Field(NO_MECHANISM, description=described(MECHANISMS))
    epsilon: float = Field(
        8.0,
        ge=LEAST_EPSILON,
        le=MOST_EPSILON,
        description="of one run; dp-sgd: of one teacher, however many texts it answers",
    )
    delta: float = Field(1e-05, ge=LEAST_DELTA, le=MOST_DELTA, description="below one over the private examples")
    clipping_norm: float = Field(1.0, ge=1e-6, le=1e6, description="dp-sgd: largest L2 norm of one example's gradient")
    sampling_rate: float = Field(
        0.05,
        ge=1e-4,
        le=1,
        description="dp-sgd: probability with which an example takes part in a step, instead of a batch size",
    )
    epochs: Epochs = Field(20, description="dp-sgd and pate: all are done, nothing stops early")
    learning_rate: float = Field(0.01, gt=0, le=1e3, description="dp-sgd")
    shards: int = Field(20, ge=2, le=1000, description="pate: teachers on disjoint shards of the private examples")
    votes: Literal["distributions", "labels"] = Field(
        "distributions",
        description="pate: the mean of their distributions with noise, or the label with the most noisy votes",
    )
    compression: Annotated[str, one_of(COMPRESSIONS)] = Field(
        "none", description=f"{described(COMPRESSIONS)}: fewer bytes, no guarantee"
    )
    top_k: int = Field(
        2,
        ge=1,
        le=MOST_LABELS,
        description="labels kept by top-k; the rest of the mass is spread evenly over the others",
    )
    secure_sum: bool = Field(
        False, description="clients send masked integers: the server learns the weighted sum, no single soft label"
    )
    threshold: int = Field(
        0,
        ge=0,
        le=MOST_CLIENTS_IN_SUM,
        description="clients that must still be there to unmask the sum; 0: more than two thirds",
    )
    sum_bits: int = Field(
        56,
        ge=20,
        le=62,
        description="of the largest weight, as an integer; 24 halves the traffic and does for uniform weights",
    )

    @property
    def facts(self) -> MechanismFacts:
        """What is declared of the mechanism."""
        return MECHANISMS[self.mechanism]

    @property
    def steps(self) -> int:
        """Optimiser steps of DP-SGD: `epochs` mean uses of each example, whatever their number; at most a million."""
        return max(1, round(self.epochs / self.sampling_rate))
