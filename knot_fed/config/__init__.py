"""Configuration of a run and of a node: the schema with its defaults, and the ways to write it."""

from knot_fed.config.choices import LOSSES, SCHEMES
from knot_fed.config.fields import (
    LEAST_DELTA,
    LEAST_EPSILON,
    LONGEST_LIST,
    MOST_CLIENTS_IN_SUM,
    MOST_DELTA,
    MOST_EPSILON,
    RateSchedule,
    kebab,
)
from knot_fed.config.language import PLACES, PROMPT, LoraConfig, PromptConfig
from knot_fed.config.mechanisms import MECHANISMS, NO_MECHANISM, Guarantee, MechanismFacts, MechanismName, readers_of
from knot_fed.config.node import NodeConfig
from knot_fed.config.parsing import Scalar, check_known_keys, flattened, known_keys, nested
from knot_fed.config.run import MOST_STEPS, RunConfig
from knot_fed.config.sections import (
    DataConfig,
    DistillConfig,
    LabelsConfig,
    PersonalConfig,
    PrivacyConfig,
    TeacherConfig,
    WeightsConfig,
)

__all__ = [
    "LEAST_DELTA",
    "LEAST_EPSILON",
    "LONGEST_LIST",
    "LOSSES",
    "MECHANISMS",
    "MOST_CLIENTS_IN_SUM",
    "MOST_DELTA",
    "MOST_EPSILON",
    "MOST_STEPS",
    "NO_MECHANISM",
    "PLACES",
    "PROMPT",
    "SCHEMES",
    "DataConfig",
    "DistillConfig",
    "Guarantee",
    "LabelsConfig",
    "LoraConfig",
    "MechanismFacts",
    "MechanismName",
    "NodeConfig",
    "PersonalConfig",
    "PrivacyConfig",
    "PromptConfig",
    "RateSchedule",
    "RunConfig",
    "Scalar",
    "TeacherConfig",
    "WeightsConfig",
    "check_known_keys",
    "flattened",
    "kebab",
    "known_keys",
    "nested",
    "readers_of",
]
