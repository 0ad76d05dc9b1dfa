"""Plug-in models, `model = "package.module:function"`: they run, are stored, loaded, tried and guarded."""

import sys
from pathlib import Path

import numpy as np
import pytest

from knot_fed import load_student
from knot_fed.config.plugins import PLUGIN_FOLDER
from knot_fed.errors import PluginError, PluginModelError, PrivacyError
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec, build_classifier, model_identity, trained_state
from knot_fed.preflight.plugins import check_plugins, try_plugins
from knot_fed.sweep.content import content_digests
from knot_fed.training.dp_sgd import check_treatable
from knot_fed.training.teacher import predict_soft_labels
from tests.federation.client.owners import Owner, request, student
from tests.federation.server.test_federated_run import run

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "own_model:build"
SPEC = ModelSpec(NAME, "all", LabelSpace.preset("sentiment").names, paired=False, max_length=128)
BAD = """
import torch

from own_model import LetterNetwork

class Hidden(LetterNetwork):
    def __init__(self, spec):
        super().__init__(spec)
        self.scale = torch.rand(1)

    def forward(self, letters):
        return super().forward(letters) * self.scale

class Fixed(LetterNetwork):
    def forward(self, letters):
        return torch.nn.functional.one_hot(letters[:, 0] % 5, 5).float().requires_grad_()

class Batched(LetterNetwork):
    def forward(self, letters):
        return super().forward(letters) * letters.shape[1]

class Normalised(LetterNetwork):
    def __init__(self, spec):
        super().__init__(spec)
        self.norm = torch.nn.BatchNorm1d(5)

    def forward(self, letters):
        return self.norm(super().forward(letters))

class Wide(LetterNetwork):
    def forward(self, letters):
        return super().forward(letters)[:, :3]

class Failing(LetterNetwork):
    def collate(self, items):
        raise ValueError("no items")

hidden, fixed, batched, normalised, wide, failing = Hidden, Fixed, Batched, Normalised, Wide, Failing

def raises(spec):
    raise ValueError("patient 7 in /home/ada")

def nothing(spec):
    return None

def other(spec):
    from dataclasses import replace
    return LetterNetwork(replace(spec, max_length=8))
"""
PLANTED = """
from pathlib import Path

Path(__file__).with_suffix(".ran").touch()

def build(spec):
    from own_model import LetterNetwork
    return LetterNetwork(spec)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with plug-in modules; the example is importable too."""
    (tmp_path / "bad_model.py").write_text(BAD)
    (tmp_path / "planted.py").write_text(PLANTED)
    monkeypatch.setattr(sys, "path", [*sys.path, str(EXAMPLES)])
    monkeypatch.setenv(PLUGIN_FOLDER, str(tmp_path))
    yield tmp_path
    for module in ("bad_model", "planted", "own_model"):
        sys.modules.pop(module, None)


def test_the_example_is_teacher_and_student_of_a_run_and_its_student_is_loaded(own, run_config):
    config = run_config(model=NAME, keys={"data.limit": 100, "distill.epochs": 1})
    folder, _ = run(config, "own")
    assert folder.read_summary()["status"] == "ok"
    loaded = load_student(folder.path)
    assert type(loaded).__name__ == "LetterNetwork"
    again = predict_soft_labels(load_student(folder.path), ["not bad at all"])
    assert np.array_equal(predict_soft_labels(loaded, ["not bad at all"]), again)


def test_a_users_model_is_seeded(own):
    first, second, other = (trained_state(build_classifier(SPEC, seed=seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["output.weight"], other["output.weight"])


def test_the_name_and_the_source_of_the_function_are_in_digests(own):
    (own / "mine.py").write_text(PLANTED)
    spec = ModelSpec("mine:build", "all", SPEC.labels, paired=False, max_length=128)
    before = model_identity(spec)
    assert before[1][0] == "mine:build"
    (own / "mine.py").write_text((own / "mine.py").read_text() + "# changed\n")
    assert model_identity(spec) != before


def test_the_source_is_in_the_digests_of_a_study(own, run_config):
    assert len(content_digests([run_config(model=NAME)])[NAME]) == 64


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", "your function raised ValueError in bad_model.py"),
        ("nothing", "returned a NoneType, expected a knot_fed.models.TextClassifier"),
        ("other", "returned a model of another specification"),
        ("hidden", "answers differently once saved and loaded"),
        ("fixed", "no parameter has a gradient"),
        ("batched", "its answer for a text differs in a batch and alone"),
        ("wide", r"it returned logits of shape \(4, 3\), expected shape \(4, 5\); return one logit"),
        ("failing", r"your function raised ValueError in bad_model.py, line \d+ \(no items\)"),
        ("absent", "cannot be imported"),
    ],
)
def test_what_is_wrong_with_a_users_model_is_told_before_anything_starts(own, run_config, function, message):
    with pytest.raises(Exception, match=message) as refused:
        try_plugins(run_config(model=f"bad_model:{function}"))
    assert str(refused.value).count("\n") == 0


@pytest.mark.slow
def test_a_users_model_is_tried_in_a_process_of_its_own(own, run_config):
    check_plugins(run_config(model=NAME))
    with pytest.raises(PluginError, match="model = 'bad_model:raises': your function raised ValueError"):
        check_plugins(run_config(model="bad_model:raises"))


def test_a_server_runs_no_function_that_the_owner_has_not_named(own, tmp_path):
    owner = Owner(tmp_path / "owner").run(model="planted:build")
    named = "the model 'planted:build' is named by the server only; add it to models in the policy"
    assert owner.refusal("train", request()) == named
    spec = ModelSpec("planted:build", "all", SPEC.labels, paired=False, max_length=128)
    assert owner.refusal("evaluate", student(spec)) == named
    assert not (own / "planted.ran").exists()


def test_an_owner_names_a_function_in_the_node_configuration_or_the_policy(own, tmp_path):
    by_node = Owner(tmp_path / "node", model="planted:build")
    by_policy = Owner(tmp_path / "policy", policy='models = ["planted:build"]').run(model="planted:build")
    for owner in (by_node, by_policy):
        assert owner.soft_labels() is not None
    assert (own / "planted.ran").exists()


def test_a_function_without_source_is_refused(own):
    with pytest.raises(PluginModelError, match="model = 'math:hypot': its source cannot be found"):
        model_identity(ModelSpec("math:hypot", "all", SPEC.labels, paired=False, max_length=128))


@pytest.mark.parametrize("name", ["bad_model:raises", "bad_import:build"])
def test_what_an_owners_function_raises_is_told_to_no_server(own, tmp_path, name):
    (own / "bad_import.py").write_text("raise ValueError('patient 7 in /home/ada')\n")
    refusal = Owner(tmp_path / "owner", model=name).refusal("train", request())
    assert refusal.startswith("the function of this client's own model cannot be used; its owner finds why in")
    assert "ada" not in refusal


def test_dp_sgd_refuses_what_opacus_cannot_treat(own):
    spec = ModelSpec("bad_model:normalised", "all", SPEC.labels, paired=False, max_length=128)
    with pytest.raises(PrivacyError, match="bad_model:normalised: Opacus cannot treat a layer"):
        check_treatable(build_classifier(spec, seed=0, device="cpu"), ["a text"])
    check_treatable(build_classifier(SPEC, seed=0, device="cpu"), ["a text"])
