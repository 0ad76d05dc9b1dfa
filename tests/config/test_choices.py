"""One registry for each family: schema, table of keys, reference, command help and the code list the same."""

import re
from contextlib import nullcontext

import pytest
import typer.main

from knot_fed import aggregation, losses
from knot_fed.audit.attacks import registry as attacks
from knot_fed.audit.study import parse_attacks
from knot_fed.cli.main import app
from knot_fed.config import MECHANISMS, SCHEMES, RunConfig, choices
from knot_fed.config.table import defaults_table
from knot_fed.data.partitioners import PARTITIONERS
from knot_fed.data.prepare.recipes import RECIPES, find_recipe
from knot_fed.errors import ConfigError, GroundCostError, ModelError, PolicyError
from knot_fed.geometry import configured_ground_cost, evaluation_labels
from knot_fed.models import check_model_name
from knot_fed.privacy import compression
from knot_fed.privacy.policy import ReleasePolicy
from knot_fed.privacy.policy_checks import check_scheme_may_enter_sum
from knot_fed.runs.trackers.start import TRACKERS
from knot_fed.transport import ground_cost, solve
from tests.conftest import ROOT

KEYS = {
    "distill.loss": choices.LOSSES,
    "weights.scheme": choices.SCHEMES,
    "weights.pooling": choices.POOLINGS,
    "teacher.start": choices.STARTS,
    "transport.cost": choices.GROUND_COSTS,
    "labels.geometry": choices.GEOMETRIES,
    "transport.solver": choices.SOLVERS,
    "data.partition": choices.PARTITIONS,
    "model": choices.MODELS,
    "privacy.compression": choices.COMPRESSIONS,
    "privacy.mechanism": MECHANISMS,
    "trackers": choices.TRACKERS,
}
IMPLEMENTED = {
    "distill.loss": losses.BUILDERS,
    "weights.scheme": aggregation.SCHEMES,
    "weights.pooling": aggregation.POOLINGS,
    "transport.cost": {*ground_cost.GROUND_COSTS, "embedding", *choices.LEARNT_COSTS},
    "transport.solver": solve.SOLVERS,
    "data.partition": {"iid", "natural-id", *PARTITIONERS},
    "trackers": {"auto", "none", *TRACKERS},
}
CHECKED_LATER = {"transport.cost", "labels.geometry", "model"}
"""Keys that take files and folders too; their names are checked where these are."""


@pytest.mark.parametrize("key", IMPLEMENTED)
def test_the_code_implements_exactly_the_names_of_the_registry(key):
    assert set(KEYS[key]) == set(IMPLEMENTED[key])


@pytest.mark.parametrize("key", KEYS)
def test_the_table_of_keys_and_the_reference_list_every_name(key):
    section, _, field = f".{key}".rpartition(".")
    table = re.search(rf"\[tool\.flwr\.app\.config{section}\](.*?)(\n\n|\Z)", defaults_table(), re.S)[1]
    comment = re.search(rf"^{field} = .*", table, re.M)[0].partition("#")[2]
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    section = re.search(rf"^### `{re.escape(key)}`\n(.*?)^##", page, re.M | re.S)[1]
    for name in KEYS[key]:
        assert name in comment
        assert f"`{name}`" in section


@pytest.mark.parametrize("key", [key for key in KEYS if key not in CHECKED_LATER])
def test_the_schema_accepts_the_names_and_refuses_others_with_the_list(key):
    for name in KEYS[key]:
        needed = {"distill.objective": "pooled", "personal.consensus": "pooled", "personal.when": "rounds"}
        RunConfig.from_mapping(needed | {"personal.loss": "kl", "weights.scheme": "uniform", key: name})
    with pytest.raises(ConfigError, match=rf"{re.escape(key)} = 'odd'") as refused:
        RunConfig.from_mapping({key: "odd"})
    assert [name for name in KEYS[key] if name not in str(refused.value)] == []


@pytest.mark.parametrize("key", [key for key in KEYS if key not in CHECKED_LATER])
def test_a_name_added_to_a_registry_is_accepted_by_the_schema(key, monkeypatch):
    monkeypatch.setitem(KEYS[key], "odd", next(iter(KEYS[key].values())))
    RunConfig.from_mapping({key: "odd", "distill.objective": "pooled"})


def test_names_that_are_checked_later_are_refused_with_the_list_too():
    with pytest.raises(GroundCostError, match=f"use {', '.join(choices.GROUND_COSTS)}, or"):
        configured_ground_cost(RunConfig.from_mapping({"transport.cost": "odd"}))
    with pytest.raises(GroundCostError, match=f"use {', '.join(choices.GEOMETRIES)}, or"):
        evaluation_labels(RunConfig.from_mapping({"labels.geometry": "odd"}))
    with pytest.raises(ModelError, match=f"use {', '.join(choices.MODELS)}, or"):
        check_model_name("odd")
    for name in choices.MODELS:
        check_model_name(name)


@pytest.mark.parametrize("pooling", choices.POOLINGS)
def test_the_reference_lists_the_poolings_that_a_secure_sum_accepts(pooling):
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    section = re.search(r"^### `privacy.secure-sum`\n(.*?)^##", page, re.M | re.S)[1]
    keys = {"privacy.secure-sum": True, "distill.objective": "pooled", "weights.pooling": pooling}
    with nullcontext() if f"`{pooling}`" in section else pytest.raises(ConfigError, match=r"weights\.pooling"):
        RunConfig.from_mapping(keys)


def test_compression_knows_the_names_of_the_registry():
    for name in choices.COMPRESSIONS:
        assert compression.layout(name, examples=1, classes=2, top_k=1)
    with pytest.raises(KeyError):
        compression.layout("odd", examples=1, classes=2, top_k=1)


def option_help(command, option):
    parameters = typer.main.get_command(app).commands[command].params
    found = next(parameter for parameter in parameters if parameter.name == option)
    return f"{found.help} {found.default}"


@pytest.mark.parametrize(
    ("command", "option", "registry", "refuse", "page"),
    [
        ("audit", "attacks", attacks.ATTACKS, lambda: parse_attacks("odd"), "sweep.md"),
        ("prepare", "recipe", RECIPES, lambda: find_recipe("odd"), "simulate.md"),
    ],
)
def test_the_help_of_commands_and_its_page_list_attacks_and_recipes(command, option, registry, refuse, page):
    text = option_help(command, option)
    documented = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8")
    assert [name for name in registry if name not in text or name not in documented] == []
    with pytest.raises(ConfigError) as refused:
        refuse()
    assert [name for name in registry if name not in str(refused.value)] == []


def test_poisoning_is_measured_under_every_pooling():
    assert tuple(attacks.POOLINGS) == tuple(choices.POOLINGS)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_policy_keeps_exactly_what_the_registry_says_that_a_scheme_reads(scheme):
    policy = ReleasePolicy.model_validate({"share-example-counts": False, "share-confidences": False})
    refused = pytest.raises(PolicyError) if SCHEMES[scheme].reads != "nothing" else nullcontext()
    with refused:
        check_scheme_may_enter_sum(scheme, policy=policy)


def test_every_scheme_may_enter_a_secure_sum():
    assert set(aggregation.SCORE_BOUNDS) == set(SCHEMES)


def test_trackers_are_a_list_in_which_auto_and_none_stand_alone():
    assert RunConfig.from_mapping({"trackers": "tensorboard, mlflow"}).trackers == "tensorboard, mlflow"
    for text in ("auto,mlflow", "wandb,none"):
        with pytest.raises(ConfigError, match=r"trackers = .* alone"):
            RunConfig.from_mapping({"trackers": text})
    for text in ("", "mlflow,", "tensorboard,odd"):
        with pytest.raises(ConfigError, match=r"trackers = .*use auto, none, tensorboard, mlflow, wandb"):
            RunConfig.from_mapping({"trackers": text})
