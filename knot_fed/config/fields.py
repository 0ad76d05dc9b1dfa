"""Types, bounds and checks of the fields that the configurations of a run and of a node share."""

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

LEAST_EPSILON, MOST_EPSILON = 0.01, 1000.0
LEAST_DELTA, MOST_DELTA = 1e-12, 0.1
MOST_CLIENTS = 1_000_000
MOST_CLIENTS_IN_SUM = 1000
LONGEST_LIST, LONGEST_STRING, LONGEST_FUNCTION = 20_000, 4096, 200


def kebab(field: str) -> str:
    """Return the key of a field, as TOML files write it."""
    return field.replace("_", "-")


def _check_plain_name(name: str) -> str:
    if name and (name.startswith((".", "-")) or not name.isprintable() or set(name) & set('/\\:*?"<>|')):
        raise PydanticCustomError("path", "use a name without folders, such as monday-1")
    return name


def _check_run_name(name: str) -> str:
    if name and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise PydanticCustomError("path", "use letters, digits, dots, dashes and underscores, such as monday-1")
    return name


def _check_file_names(names: str) -> str:
    for name in (name.strip() for name in names.split(",")):
        leaves_folder = name.startswith("/") or ".." in name.split("/") or "\\" in name or not name.isprintable()
        if leaves_folder and not name.startswith("hub:"):
            raise PydanticCustomError("path", "use names of files below data.root")
    return names


def _check_delimiter(delimiter: str) -> str:
    if not is_delimiter(delimiter):
        raise PydanticCustomError("delimiter", "use one character, such as ; or a tab, other than a quotation mark")
    return delimiter


def is_delimiter(delimiter: str) -> bool:
    """Return whether a text separates the fields of a file, or is empty, for the default one."""
    return len(delimiter) <= 1 and not set(delimiter) & set('"\r\n')


Clients: TypeAlias = Annotated[int, Field(ge=0, le=MOST_CLIENTS)]
Epochs: TypeAlias = Annotated[int, Field(ge=1, le=10_000)]
BatchSize: TypeAlias = Annotated[int, Field(ge=1, le=65_536)]
Rate: TypeAlias = Annotated[float, Field(ge=0, le=1e3)]
Power: TypeAlias = Annotated[float, Field(ge=0, le=100)]
RateSchedule: TypeAlias = Literal["constant", "cosine", "linear"]
Warmup: TypeAlias = Annotated[
    float, Field(ge=0, lt=1, description="share of the steps over which the learning rate rises from 0")
]
ClipNorm: TypeAlias = Annotated[float, Field(ge=0, le=1e6, description="largest L2 norm of a step's gradient; 0: any")]
Accumulate: TypeAlias = Annotated[int, Field(ge=1, le=1024, description="batches in one step of the optimiser")]
RunName: TypeAlias = Annotated[str, Field(max_length=100), AfterValidator(_check_run_name)]
PlainName: TypeAlias = Annotated[str, Field(max_length=100), AfterValidator(_check_plain_name)]
FileNames: TypeAlias = Annotated[str, Field(max_length=LONGEST_LIST), AfterValidator(_check_file_names)]
Delimiter: TypeAlias = Annotated[str, AfterValidator(_check_delimiter)]
CommaList: TypeAlias = Annotated[str, Field(max_length=LONGEST_LIST)]
Trainable: TypeAlias = Literal["all", "head", "lora"]


class Section(BaseModel):
    """A table of a configuration. Peers may have written it, so every number is bounded and every string limited."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=kebab, protected_namespaces=(), allow_inf_nan=False,
        str_max_length=LONGEST_STRING, validate_by_name=True, validate_by_alias=True,
    )  # fmt: skip

    @field_validator("*")
    @classmethod
    def _refuse_nul(cls, value: object) -> object:
        """Refuse zero bytes, which neither paths nor TOML files may contain."""
        if isinstance(value, str) and "\0" in value:
            raise PydanticCustomError("nul", "use text without zero bytes")
        return value
