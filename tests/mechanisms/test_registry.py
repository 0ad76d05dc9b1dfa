"""The registry and the code that it names say the same, and no other file decides by a mechanism's name."""

import ast
from pathlib import Path

import numpy as np
import pytest

import knot_fed
from knot_fed.config import MECHANISMS, NO_MECHANISM, SCHEMES, PrivacyConfig, RunConfig, WeightsConfig
from knot_fed.mechanisms import Mechanism, RowMechanism, mechanism_of
from knot_fed.mechanisms.teachers import TeacherPlan
from knot_fed.models import ModelSpec
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.types import LabelledTexts, SplitExamples

FEW = LabelledTexts(("good", "bad"), np.array([1, 0]))
PACKAGE = Path(knot_fed.__file__).parent
DOCUMENTED = [PACKAGE.parent / "docs" / page for page in ("reference/configuration.md", "explanation/privacy.md")]
NAMED = {"training/kept_teachers.py": {"dp-sgd"}}
"""A key in the digest of a teacher of DP-SGD, which names those that are kept."""


@pytest.mark.parametrize("name", MECHANISMS)
def test_the_class_of_a_mechanism_does_what_the_registry_declares(name):
    privacy, facts = PrivacyConfig(mechanism=name), MECHANISMS[name]
    mechanism = mechanism_of(privacy)
    assert isinstance(mechanism, Mechanism)
    assert mechanism.name == name
    assert mechanism.facts is facts
    assert isinstance(mechanism, RowMechanism) == (facts.noise_on == "rows")
    spec, examples = ModelSpec("ngram-bag", "all", ("a", "b"), False, 16), SplitExamples(FEW, FEW, FEW)
    run = RunConfig(privacy=privacy, weights=WeightsConfig(scheme="uniform"))
    plan = TeacherPlan(run, spec, examples, FEW.texts, 1, NoiseEvent(1.0))
    assert (mechanism.schedule(plan) is not None) == (facts.noise_on == "teacher")
    assert (mechanism.noise_event(privacy, texts=3, asked=3) is not None) == facts.has_guarantee
    assert all(hasattr(privacy, setting) for setting in facts.reads)
    assert set(facts.schemes) <= set(SCHEMES)


def test_the_modules_of_the_package_are_those_of_the_registry():
    files = {facts.implementation.partition(":")[0].rpartition(".")[2] for facts in MECHANISMS.values()}
    shared = {"__init__", "base", "noisy_rows", "teachers"}
    assert {file.stem for file in (PACKAGE / "mechanisms").glob("*.py")} == files | shared


def test_no_other_file_decides_by_the_name_of_a_mechanism():
    """Names that are compared, looked up or listed; `none` means much else."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(
                node, ast.Compare | ast.Dict | ast.Subscript | ast.Tuple | ast.List | ast.Set | ast.match_case
            ):
                values = {inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)}
                named = {value for value in values if isinstance(value, str)} & set(MECHANISMS) - {NO_MECHANISM}
                if named:
                    found.setdefault(str(file.relative_to(PACKAGE)), set()).update(named)
    assert found.pop("config/mechanisms.py") == set(MECHANISMS) - {NO_MECHANISM}
    assert found == NAMED


@pytest.mark.parametrize("file", DOCUMENTED, ids=lambda file: file.name)
def test_every_mechanism_is_documented(file):
    text = file.read_text(encoding="utf-8")
    assert [name for name in MECHANISMS if f"`{name}`" not in text and f'"{name}"' not in text] == []
