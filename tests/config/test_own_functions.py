"""Plug-in losses and weightings: found in the folder of the call, tried before a run, and blamed for their errors."""

import sys

import numpy as np
import pytest
import torch

from knot_fed.config import LOSSES
from knot_fed.config.plugins import PLUGIN_FOLDER
from knot_fed.errors import ConfigError, ModelError, PluginError
from knot_fed.losses import make_loss, try_loss
from knot_fed.models import ModelSpec, build_classifier
from knot_fed.preflight import check_plugins
from knot_fed.preflight.plugins import try_plugins
from knot_fed.training.distillation import distil_student

MODULE = """
import os
import sys

import torch

def good(logits, soft_labels, weights):
    return ((torch.softmax(logits, 1)[:, None] - soft_labels) ** 2).sum((1, 2)).mean()

def vector(logits, soft_labels, weights):
    return ((torch.softmax(logits, 1)[:, None] - soft_labels) ** 2).sum((1, 2))

def raises(logits, soft_labels, weights):
    return logits @ soft_labels.undefined

def number(logits, soft_labels, weights):
    return 1.0

def constant(logits, soft_labels, weights):
    return soft_labels.mean()

def nan(logits, soft_labels, weights):
    return good(logits, soft_labels, weights) * float("nan")

def bad_gradient(logits, soft_labels, weights):
    return torch.sqrt((logits * 0).sum())

def unused(logits, soft_labels, weights):
    return torch.zeros(1, requires_grad=True).sum()

async def later(logits, soft_labels, weights):
    return logits.mean()

def exits(logits, soft_labels, weights):
    sys.exit(0)

def crashes(logits, soft_labels, weights):
    os._exit(0)

def loops(logits, soft_labels, weights):
    while True:
        pass

def on_a_gpu(logits, soft_labels, weights):
    return logits.to("cuda:77").sum()

def ragged(answers):
    return [[1.0, 2.0], [3.0]]

def words(answers):
    return "all the same"

def negative(answers):
    return -answers.confidences

def half(answers):
    return answers.confidences / 2

def short(answers):
    return answers.confidences[:1]

not_a_function = 3
"""

BROKEN_MODULES = {
    "my_broken": "1 / 0\n",
    "my_mistyped": "def loss(logits) return 1\n",
    "my_needs": "import geomlosss\n",
}


@pytest.fixture
def own(tmp_path, monkeypatch, run_config):
    """A configuration whose loss is in the folder of the call."""
    (tmp_path / "my_code.py").write_text(MODULE)
    for name, content in BROKEN_MODULES.items():
        (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.setenv(PLUGIN_FOLDER, str(tmp_path))
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield lambda **keys: run_config(keys={key.replace("__", "."): value for key, value in keys.items()})
    for module in ("my_code", *BROKEN_MODULES):
        sys.modules.pop(module, None)


def test_a_module_in_the_folder_of_the_call_is_found(own):
    try_plugins(own(distill__loss="my_code:good", weights__scheme="my_code:half"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"distill__loss": "my_code:vector"}, r"returned a tensor of shape \(4,\); return one number"),
        ({"distill__loss": "my_code:raises"}, r"raised AttributeError in my_code.py, line 14"),
        ({"distill__loss": "my_code:number"}, "returned float; return one number"),
        ({"distill__loss": "my_code:constant"}, "has no gradient in the logits"),
        ({"distill__loss": "my_code:nan"}, "on a small batch your function returned nan"),
        ({"distill__loss": "my_code:bad_gradient"}, "a gradient that is not finite"),
        ({"distill__loss": "my_code:not_a_function"}, "is of type int, not a function"),
        ({"distill__loss": "my_code:absent"}, "cannot be imported"),
        ({"distill__loss": "my_broken:loss"}, "raised ZeroDivisionError in my_broken.py, line 1"),
        ({"weights__scheme": "my_code:raises"}, "weights.scheme = 'my_code:raises': your function raised TypeError"),
        ({"weights__scheme": "my_code:short"}, r"returned scores of shape \(1, 4\)"),
        ({"weights__scheme": "my_code:ragged"}, "returned a list, expected an array of numbers"),
        ({"weights__scheme": "my_code:words"}, "returned a str, expected an array of numbers"),
        ({"weights__scheme": "my_code:negative"}, "12 of 12 scores are negative or not finite"),
        ({"distill__loss": "my_code:unused"}, "has no gradient in the logits"),
        ({"distill__loss": "my_code:later"}, "is async, and nothing awaits it; write a plain function"),
        ({"distill__loss": "my_code:exits"}, r"raised SystemExit in my_code.py, line \d+ \(0\); correct it"),
        ({"distill__loss": "my_code:on_a_gpu"}, "raised .* in my_code.py, line"),
        ({"distill__loss": "my_mistyped:loss"}, r"raised SyntaxError in my_mistyped.py, line 1 "),
        ({"distill__loss": "my_needs:loss"}, "install geomlosss where the server runs"),
    ],
)
def test_what_is_wrong_with_a_users_own_function_is_told_before_anything_starts(own, keys, message):
    with pytest.raises(ConfigError, match=message) as refused:
        try_plugins(own(**keys))
    assert str(refused.value).count("\n") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("good", None),
        ("raises", "raised AttributeError in my_code.py, line 14"),
        ("crashes", "distill.loss = 'my_code:crashes': your function ended its process without an error"),
        ("loops", "nothing was returned for a small batch in 10 s"),
    ],
)
def test_a_function_that_ends_or_holds_up_its_process_ends_no_command(own, monkeypatch, name, message):
    if name == "loops":
        monkeypatch.setattr("knot_fed.preflight.plugins.PLUGIN_SECONDS", 10.0)
    config = own(distill__loss=f"my_code:{name}")
    if message is None:
        check_plugins(config)
        return
    with pytest.raises(PluginError, match=message) as refused:
        check_plugins(config)
    assert ("my_code.py" in refused.value.calls) == (name == "raises")


def test_the_users_part_of_the_traceback_is_hers_alone(own):
    with pytest.raises(PluginError) as refused:
        try_plugins(own(distill__loss="my_code:raises"))
    assert "my_code.py" in refused.value.calls
    assert "soft_labels.undefined" in refused.value.calls
    assert "plugins.py" not in refused.value.calls


def test_every_loss_of_ours_passes_the_same_trial(own):
    for name in LOSSES:
        try_loss(make_loss(own(distill__loss=name)), labels=5, name=name)


def test_a_loss_that_becomes_nan_stops_the_distillation_with_step_loss_and_remedy(own):
    config, calls = own(), []
    spec = ModelSpec(name="ngram-bag", trainable="all", labels=("a", "b"), paired=False, max_length=8, vocabulary=())

    def loss(logits, soft_labels, weights):
        calls.append(len(logits))
        return logits.square().mean() * (float("nan") if len(calls) > 3 else 1.0)

    with pytest.raises(ModelError, match=r"the loss ot is nan in step 3 of epoch 1, .* use a lower rate"):
        distil_student(
            build_classifier(spec, seed=1), [f"text {i}" for i in range(20)], np.full((1, 20, 2), 0.5),
            np.ones((1, 20)), loss, config.distill.model_copy(update={"batch_size": 4}), seed=1,
        )  # fmt: skip
    assert torch.is_grad_enabled()
