"""A run's whole configuration, and the checks of settings against each other."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from knot_fed.config.choices import (
    AUTO,
    LEARNT_COSTS,
    MODELS,
    NO_TRACKER,
    OF_COORDINATES,
    OVER_COST,
    SCHEMES,
    TRACKERS,
    WEIGHTED,
    described,
    names_of,
)
from knot_fed.config.fields import MOST_CLIENTS, Clients, RunName, Section, Trainable
from knot_fed.config.language import PROMPT, LoraConfig, PromptConfig
from knot_fed.config.parsing import Scalar, check_known_keys, flattened, invalid, known_keys, nested
from knot_fed.config.sections import (
    OWN,
    DataConfig,
    DistillConfig,
    FedAvgConfig,
    LabelsConfig,
    PersonalConfig,
    PrivacyConfig,
    StudentConfig,
    TeacherConfig,
    TransportConfig,
    WeightsConfig,
)
from knot_fed.errors import ConfigError
from knot_fed.labels import LabelSpace

MOST_STEPS = 1_000_000
WHERE = "run configuration"


class RunConfig(Section):
    """The configuration that the server and all clients of a run share."""

    name: RunName = Field("", description="run folder; empty: the task and the run's number")
    resume: RunName = Field("", description="name of an interrupted run, to resume from its last epoch of distillation")
    task: str = Field("sentiment", description="sentiment, emotion, nli, or any name with labels.names given")
    seed: int = Field(1, ge=0, lt=2**63, description="of all randomness in a study except privacy noise")
    model: str = Field("ngram-bag", description=described(MODELS, last=OWN))
    trainable: Trainable = Field(
        "all", description="of hf: models: all, head (a small head on frozen features) or lora (low-rank adapters)"
    )
    rounds: int = Field(1, ge=1, le=10_000, description="rounds of answers and distillation")
    round_texts: Literal["slice", "all"] = Field(
        "slice", description="transfer texts of a round: its slice of them, or all in every round"
    )
    resend_above: float = Field(
        0.0,
        ge=0,
        le=1,
        description="total variation from the client's last soft label above which a later round sends one; 0: all",
    )
    fraction: float = Field(1.0, gt=0, le=1, description="share of the clients asked in each round")
    min_teachers: int = Field(2, ge=1, le=MOST_CLIENTS, description="fewer valid answers than this end the run")
    wait_for: Clients = Field(0, description="clients to wait for before starting; 0: min-teachers")
    timeout: float = Field(1800.0, gt=0, le=30 * 86_400, description="seconds that one phase may take")
    threads: int = Field(
        0, ge=0, le=1024, description="torch threads of each client and of the server; 0: its number of CPUs"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU if there is one; cuda: the server must have one; of a client, only its share"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 for transformers on a GPU that has it, but frozen encoders, else float32"
    )
    compile: bool = Field(False, description="torch.compile for transformers trained whole on a GPU")
    runs_dir: str = Field("runs", description="folder of the run folders")
    keep_answers: bool = Field(True, description="keep the answers in the run folder, for knot-fed distil")
    trackers: Annotated[str, names_of(TRACKERS, alone=(AUTO, NO_TRACKER))] = Field(
        AUTO, description=f"boards that follow the run: {described(TRACKERS)}; several separated by commas"
    )
    state_dir: str = Field(".knot-fed", description="teachers and features kept by virtual clients and by the server")
    labels: LabelsConfig = LabelsConfig()
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    lora: LoraConfig = Field(LoraConfig(), description="of trainable = lora; needs the extra lora")
    prompt: PromptConfig = Field(PromptConfig(), description="of teachers prompt:<hub id or absolute folder>")
    weights: WeightsConfig = WeightsConfig()
    transport: TransportConfig = TransportConfig()
    distill: DistillConfig = DistillConfig()
    personal: PersonalConfig = PersonalConfig()
    privacy: PrivacyConfig = Field(
        PrivacyConfig(), description="what each client does before soft labels leave; its policy may ask for more"
    )
    fedavg: FedAvgConfig = Field(
        FedAvgConfig(), description="the baseline, --strategy fedavg; other training settings are those of teachers"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, values: object, handler: Callable[[object], "RunConfig"]) -> "RunConfig":
        """Refuse values that are out of range or incompatible, in one sentence."""
        try:
            config = handler(values)
        except ValidationError as error:
            raise invalid(error, where=WHERE) from None
        _check_together(config)
        return config

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Scalar]) -> "RunConfig":
        """Parse a flat mapping with dotted, kebab-case keys, as Flower passes it; missing keys get their defaults.

        Raises ConfigError if a key is unknown, a value is out of range, or two values are incompatible.
        """
        check_known_keys(mapping, known=known_keys(cls), where=WHERE)
        return cls.model_validate(nested(mapping))

    def to_mapping(self) -> dict[str, Scalar]:
        """Return the flat mapping that `from_mapping` reads."""
        return flattened(self.model_dump(by_alias=True))

    def label_space(self) -> LabelSpace:
        """Return the label space of `labels.names`, or else the task's preset."""
        if self.labels.names:
            return LabelSpace.from_text(self.labels.names, self.labels.coordinates, ordered=self.labels.ordered)
        return LabelSpace.preset(self.task)

    @property
    def ground_cost(self) -> str:
        """The effective `transport.cost`: without coordinates, zero-one where it would read them."""
        named = self.transport.cost
        return "zero-one" if named in OF_COORDINATES and not self.label_space().ordered else named

    @property
    def geometry(self) -> str:
        """The effective `labels.geometry`: coordinates, equal, embedding or a file."""
        if self.labels.geometry != AUTO:
            return self.labels.geometry
        if self.label_space().ordered:
            return "coordinates"
        return "embedding" if self.transport.cost == "embedding" else "equal"

    @property
    def slices(self) -> int:
        """Slices into which the rounds divide the transfer set."""
        return 1 if self.round_texts == "all" else self.rounds

    @property
    def sends_changes(self) -> bool:
        """Whether rounds after the first send only the soft labels that changed by more than `resend-above`."""
        return self.resend_above > 0 and self.slices < self.rounds

    @property
    def last_pass(self) -> range:
        """The rounds, counted from 1, that ask for each transfer text for the last time."""
        return range(self.rounds - self.slices + 1, self.rounds + 1)

    @property
    def sends_student(self) -> bool:
        """Whether the student goes to the clients with each request, as the start of teachers."""
        return self.teacher.start in ("student", "both")

    @property
    def rounds_differ(self) -> bool:
        """Whether each round has teachers of its own, which start from what came before."""
        return self.teacher.start != "scratch"

    @property
    def answers_follow_students(self) -> bool:
        """Whether answers depend on how earlier rounds distilled the student, or on clients' personal models."""
        return self.rounds_differ and (self.rounds > 1 or not self.sends_student)

    def folder_name(self, run: str) -> str:
        """Return the name of the run folder below `runs-dir`, given the run's number."""
        return self.resume or self.name or f"{self.task}-{run}"

    @property
    def student_model(self) -> str:
        """The student's architecture."""
        return self.student.model or self.model


def _check_together(config: RunConfig) -> None:
    if config.weights.pooling != "mean" and config.distill.objective != "pooled":
        raise ConfigError(
            f"{WHERE}: weights.pooling = {config.weights.pooling!r} pools nothing under"
            f" distill.objective = {config.distill.objective!r}; use distill.objective = 'pooled'"
        )
    if config.student_model.startswith(PROMPT):
        key = "student.model" if config.student.model else "model"
        raise ConfigError(
            f"{WHERE}: {key} = {config.student_model!r} makes a prompted model the student, which cannot learn; use"
            " another student.model, such as tiny-bert"
        )
    _check_cost(config)
    _check_privacy(config)
    _check_rounds(config)
    if config.privacy.secure_sum:
        _check_secure_sum(config)


def _check_cost(config: RunConfig) -> None:
    """Refuse a ground cost that the solver, or a client, cannot know."""
    if config.transport.cost in LEARNT_COSTS and config.transport.solver in ("line", "star"):
        raise ConfigError(
            f"{WHERE}: transport.solver = {config.transport.solver!r} needs distances of one shape, and"
            f" transport.cost = {config.transport.cost!r} is learnt; use transport.solver = 'auto'"
        )
    only_here = config.transport.cost in (*LEARNT_COSTS, "embedding") and config.personal.loss in OVER_COST
    if config.personal.consensus != "none" and only_here:
        raise ConfigError(
            f"{WHERE}: personal.loss = {config.personal.loss!r} needs a ground cost on the clients, and"
            f" transport.cost = {config.transport.cost!r} is known to the server only; use personal.loss = 'kl'"
        )


def _check_privacy(config: RunConfig) -> None:
    """Refuse settings that leak beside the mechanism's guarantee."""
    mechanism, scheme, steps = config.privacy.mechanism, config.weights.scheme, config.privacy.steps
    facts = config.privacy.facts
    if not facts.has_guarantee:
        return
    if "steps" in facts.reads and steps > MOST_STEPS:
        raise ConfigError(
            f"{WHERE}: privacy.epochs = {config.privacy.epochs} at privacy.sampling-rate ="
            f" {config.privacy.sampling_rate:g} are {steps} steps, more than {MOST_STEPS}; use fewer epochs or a higher"
            " rate"
        )
    if "epochs" in facts.reads and not config.teacher.epochs:
        raise ConfigError(
            f"{WHERE}: teacher.epochs = 0 uses a ready model, and privacy.mechanism = {mechanism!r} covers"
            " only teachers that it trains; use teacher.epochs = 1 or more, or another mechanism"
        )
    prompted = [name.strip() for name in (config.teacher.models or config.model).split(",") if PROMPT in name]
    if "epochs" in facts.reads and prompted:
        raise ConfigError(
            f"{WHERE}: the teacher {prompted[0]!r} reads no private example, so privacy.mechanism = {mechanism!r} has"
            " nothing to train with noise; use another mechanism, or teachers that are trained"
        )
    if scheme in SCHEMES and scheme not in facts.schemes:
        raise ConfigError(
            f"{WHERE}: weights.scheme = {scheme!r} reads what privacy.mechanism = {mechanism!r} does not"
            f" cover; use {' or '.join(facts.schemes)}"
        )
    if config.teacher.class_weights not in ("auto", "none"):
        raise ConfigError(
            f"{WHERE}: teacher.class-weights = {config.teacher.class_weights!r} reveals the private mix of"
            f" labels besides privacy.mechanism = {mechanism!r}; use none"
        )
    if config.teacher.calibrate:
        raise ConfigError(
            f"{WHERE}: teacher.calibrate = true reads the validation split, which privacy.mechanism = {mechanism!r}"
            " does not cover; use false"
        )


def _check_rounds(config: RunConfig) -> None:
    """Refuse teachers that a mechanism cannot train or account for, and a text that would be summed twice."""
    mechanism, start = config.privacy.mechanism, config.teacher.start
    starts = config.privacy.facts.starts
    if starts is not None and start not in starts:
        raise ConfigError(
            f"{WHERE}: teacher.start = {start!r} is not covered by privacy.mechanism = {mechanism!r}; use"
            f" {' or '.join(starts)}"
        )
    if start != "scratch" and not config.teacher.epochs:
        raise ConfigError(
            f"{WHERE}: teacher.start = {start!r} trains teachers, and teacher.epochs = 0 uses them without training;"
            " use teacher.epochs = 1 or more, or start = 'scratch'"
        )
    if start == "personal" and (config.personal.consensus == "none" or config.personal.when != "rounds"):
        raise ConfigError(
            f"{WHERE}: teacher.start = 'personal' needs a personal model after each round; use personal.consensus ="
            " 'pooled' or 'student', and personal.when = 'rounds'"
        )
    if config.privacy.secure_sum and config.slices < config.rounds:
        raise ConfigError(
            f"{WHERE}: round-texts = 'all' with {config.rounds} rounds asks for each text again, and a text enters a"
            " secure sum once; use round-texts = 'slice' or rounds = 1"
        )


def _check_secure_sum(config: RunConfig) -> None:
    """Refuse settings that need single soft labels; the server sees only their sum."""
    for key, found, works in (
        ("distill.objective", config.distill.objective, ("pooled",)),
        ("weights.pooling", config.weights.pooling, WEIGHTED),
        ("distill.agreement", config.distill.agreement, (0.0,)),
        ("weights.scheme", config.weights.scheme, SCHEMES),
        ("privacy.compression", config.privacy.compression, ("none",)),
    ):
        if found not in works:
            raise ConfigError(
                f"{WHERE}: {key} = {found!r} needs single soft labels, which privacy.secure-sum = true hides"
                f" from the server; use {' or '.join(map(repr, works))}"
            )
