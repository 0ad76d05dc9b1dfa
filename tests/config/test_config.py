"""Every number of both configurations is bounded, every string limited, and each refusal is one sentence."""

import math
import tomllib
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from knot_fed.config import LONGEST_LIST, MOST_STEPS, NodeConfig, RunConfig, flattened
from knot_fed.config.overrides import read_override
from knot_fed.errors import ConfigError, KnotError
from knot_fed.labels import LabelSpace

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEFAULTS = {
    RunConfig: flattened(PROJECT["tool"]["flwr"]["app"]["config"]),
    NodeConfig: {"data": "/data/own.csv", "state-dir": "/state"},
}
PLAIN = {
    "function-before",
    "model",
    "model-fields",
    "model-field",
    "default",
    "nullable",
    "union",
    "function-after",
    "bool",
    "literal",
}
PLAIN |= {"function-wrap"}  # RunConfig tells what pydantic refuses in one sentence
HOSTILE = [
    math.inf, -math.inf, math.nan, 1e308, -1e308, 10**400, -(10**400), 10**5000, 2**63, -1, "", "x" * 2_000_000,
    "\x1b[2J\n", "9" * 2_000_000,
]  # fmt: skip


def leaves(node, key="", config=None):
    """Walk pydantic's own schema; yields dotted key, schema and the configuration around it, for each leaf."""
    kind = node.get("type")
    config = node.get("config", config)
    if kind == "model-fields":
        for name, field in node["fields"].items():
            yield from leaves(field["schema"], f"{key}.{name.replace('_', '-')}".strip("."), config)
    elif kind == "union":
        for choice in node["choices"]:
            yield from leaves(choice[0] if isinstance(choice, tuple) else choice, key, config)
    elif kind in PLAIN and "schema" in node:
        yield from leaves(node["schema"], key, config)
    elif kind not in ("bool", "literal"):
        yield key, node, config


def unbounded(model):
    """List the keys whose values are unbounded, with their types."""
    found = []
    for key, node, config in leaves(model.__pydantic_core_schema__):
        if node["type"] == "str":
            complete = "max_length" in node or config.get("str_max_length")
        elif node["type"] in ("int", "float"):
            complete = {"ge", "gt"} & set(node) and {"le", "lt"} & set(node)
            finite = node["type"] == "int" or not node.get("allow_inf_nan", config.get("allow_inf_nan", True))
            complete = complete and finite
        else:
            complete = False
        if not complete:
            found.append(f"{key}: {node['type']}")
    return found


def numbers(model):
    return [(key, node) for key, node, _ in leaves(model.__pydantic_core_schema__) if node["type"] in ("int", "float")]


def beyond(node):
    """Return the nearest value outside each bound."""
    step = (
        (lambda end, way: end + way)
        if node["type"] == "int"
        else (lambda end, way: math.nextafter(end, way * math.inf))
    )
    least = node["gt"] if "gt" in node else step(node["ge"], -1)
    most = node["lt"] if "lt" in node else step(node["le"], 1)
    return least, most


def refusal(model, key, value):
    with pytest.raises(ConfigError) as refused:
        model.from_mapping({**DEFAULTS[model], key: value})
    return str(refused.value)


def outcome(model, key, value):
    """Return the parsed value, or the reason for refusing it."""
    try:
        read = model.from_mapping({**DEFAULTS[model], key: value}).model_dump(by_alias=True)
    except ConfigError as error:
        return None, str(error)
    for part in key.split("."):
        read = read[part]
    return read, ""


def is_one_short_sentence(text):
    return len(text) < 500 and text.isprintable() and text.count(". ") == 0


CASES = [(model, key, node) for model in DEFAULTS for key, node in numbers(model)]
STRINGS = [
    (model, key)
    for model in DEFAULTS
    for key, node, _ in leaves(model.__pydantic_core_schema__)
    if node["type"] == "str"
]


@pytest.mark.parametrize("model", DEFAULTS)
def test_no_number_and_no_string_of_a_configuration_is_unbounded(model):
    assert unbounded(model) == []
    assert len(numbers(model)) >= 2


def test_the_walk_finds_what_is_unbounded():
    class Inner(BaseModel):
        above: Annotated[int, Field(ge=0)]
        fine: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
        without_end: Annotated[float, Field(ge=0, le=1)] | None
        words: list[str] = Field(default_factory=list)

    class Outer(BaseModel):
        model_config = ConfigDict(allow_inf_nan=False)
        inner: Inner
        text: str = ""
        low: Annotated[float, Field(lt=3)] = 0.0

    assert unbounded(Outer) == [
        "inner.above: int",
        "inner.without-end: float",
        "inner.words: list",
        "text: str",
        "low: float",
    ]


@pytest.mark.parametrize(("model", "key", "node"), CASES, ids=[key for _, key, _ in CASES])
def test_values_beyond_either_end_are_refused_with_key_value_and_rule(model, key, node):
    for value in beyond(node):
        text = refusal(model, key, value)
        assert f"{key} = {value!r}: input should be" in text
        assert is_one_short_sentence(text)
    for end in {"ge", "le"} & set(node):
        assert model.from_mapping({**DEFAULTS[model], key: node[end]})


@pytest.mark.parametrize(("model", "key"), [(model, key) for model, key, _ in CASES] + STRINGS)
def test_nothing_hostile_is_read_or_repeated_whole(model, key):
    for value in HOSTILE:
        read, reason = outcome(model, key, value)
        assert is_one_short_sentence(reason)
        assert len(read) <= LONGEST_LIST if isinstance(read, str) else math.isfinite(read or 0)


@settings(max_examples=200)
@given(
    st.sampled_from(CASES),
    st.one_of(st.floats(), st.integers(), st.integers(10**300, 10**5000), st.text(), st.booleans()),
)
def test_any_scalar_is_within_the_bounds_or_refused_in_one_sentence(case, value):
    model, key, node = case
    read, reason = outcome(model, key, value)
    assert is_one_short_sentence(reason)
    least, most = beyond(node)
    assert reason or least < read < most


@pytest.mark.parametrize("model", DEFAULTS)
def test_an_unknown_key_of_any_length_is_refused_in_one_sentence(model):
    for key in ("x" * 2_000_000, "data." * 400_000, "\x1b[2J\n", ""):
        text = refusal(model, key, 1)
        assert "unknown key" in text
        assert is_one_short_sentence(text)


def test_the_steps_of_dp_sgd_are_bounded_although_no_key_names_them():
    asked = {"privacy.mechanism": "dp-sgd", "weights.scheme": "uniform", "privacy.sampling-rate": 1e-4}
    config = RunConfig.from_mapping({**DEFAULTS[RunConfig], **asked, "privacy.epochs": 100})
    assert config.privacy.steps == MOST_STEPS
    with pytest.raises(
        ConfigError, match=r"privacy\.epochs = 101 at privacy\.sampling-rate = 0\.0001 are 1010000 steps"
    ):
        RunConfig.from_mapping({**DEFAULTS[RunConfig], **asked, "privacy.epochs": 101})


def test_the_numbers_in_a_label_space_are_bounded_too():
    names = ",".join(f"label-{number}" for number in range(1001))
    for text in ("-1; 1e7", "inf; 0", "nan; 0", "0; 1; " * 3000, "x" * 20_000):
        with pytest.raises(KnotError) as refused:
            LabelSpace.from_text("bad, good", text)
        assert is_one_short_sentence(str(refused.value))
    for listed in (names, "one", "same," * 4000):
        with pytest.raises(KnotError) as refused:
            LabelSpace.from_text(listed, "")
        assert is_one_short_sentence(str(refused.value))


@pytest.mark.parametrize("text", ["seed = " + "9" * 5000, "seed = " + "[" * 20_000, "x" * 2_000_000])
def test_toml_that_no_number_or_stack_can_hold_is_refused_in_one_sentence(text):
    with pytest.raises(ConfigError) as refused:
        read_override(text)
    assert is_one_short_sentence(str(refused.value))


def test_a_node_never_tells_its_own_strings():
    assert "/secret" not in refusal(NodeConfig, "trainable", "/secret/file.csv")
    assert "/secret" not in refusal(NodeConfig, "data", "/secret/" + "x" * 5000)
