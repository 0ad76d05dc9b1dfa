"""A node's configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from knot_fed.config.fields import Clients, Delimiter, PlainName, Section, Trainable, kebab
from knot_fed.config.parsing import Scalar, check_known_keys, known_keys, validated
from knot_fed.errors import ConfigError


class NodeConfig(Section):
    """`--node-config` of a SuperNode, or the partition of a virtual client.

    On a real node the settings that shape its private examples come from here only; virtual clients read the run's.
    """

    name: PlainName = ""
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
    delimiter: Delimiter = ""
    quoting: Literal["auto", "double", "none", ""] = ""
    max_length: int = Field(128, ge=8, le=8192)
    partition_id: Clients = 0
    num_partitions: Clients = 0

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Scalar]) -> "NodeConfig":
        """Parse a node's configuration; raises ConfigError for unknown keys, invalid values and relative paths."""
        check_known_keys(mapping, known=known_keys(cls), where="node configuration")
        config = validated(cls, dict(mapping), where="node configuration", private=True)
        for key in ("data", "transfer", "state_dir", "policy"):
            path = getattr(config, key)
            if path and not Path(path).is_absolute():
                raise ConfigError(
                    f"node configuration: {kebab(key)} is a relative path;"
                    " give an absolute one, since the app runs from a copy"
                )
        return config
