"""A new loss, weighting and model, from code to a whole run; docs/tutorials/your-own-code.md counts the files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from knot_fed import aggregation, load_student, losses
from knot_fed.config import RunConfig, choices
from knot_fed.errors import ConfigError
from knot_fed.losses import PairwiseLoss
from knot_fed.models import TextClassifier
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from tests.fakes import InProcessGrid, virtual_clients

QUICK = {"distill.epochs": 2, "teacher.epochs": 1, "student.pretrain": False, "min-teachers": 1}


def summary_of(config):
    """Run a whole federation of three virtual clients."""
    folder = RunFolder.create(Path(config.runs_dir), "worked")
    folder.write_config(config.to_mapping())
    federate(InProcessGrid(virtual_clients(config, 3)), config, folder)
    return folder.read_summary()


class TotalVariation(PairwiseLoss):
    """`D(a, q) = |a - q|_1 / 2`; its code would be a class and an entry of `BUILDERS` in knot_fed/losses.py."""

    def divergences(self, log_student, soft_labels):
        return (log_student.exp()[:, None] - soft_labels).abs().sum(dim=2) / 2


def test_a_loss_is_a_class_and_one_line_in_each_of_two_registries(small, monkeypatch):
    with pytest.raises(ConfigError, match=r"distill\.loss = 'total-variation': use ot, .*mse, or your own"):
        small({"distill.loss": "total-variation"})
    monkeypatch.setitem(losses.BUILDERS, "total-variation", lambda *_: TotalVariation())
    monkeypatch.setitem(choices.LOSSES, "total-variation", "half of the L1 distance")
    summary = summary_of(small(QUICK | {"distill.loss": "total-variation"}))
    assert summary["status"] == "ok"
    assert summary["distillation"]["loss"] == "total-variation"
    assert summary["distillation"]["cost"] == ""
    assert "total-variation (half of the L1 distance)" in choices.described(choices.LOSSES)


def margin_scores(answers):
    """Score by the gap between the two likeliest labels; its code would be in knot_fed/aggregation/weighting.py."""
    ranked = np.sort(answers.soft_labels.astype(np.float64), axis=2)
    return ranked[:, :, -1] - ranked[:, :, -2]


@pytest.mark.parametrize("keys", [{}, {"privacy.secure-sum": True, "distill.objective": "pooled"}])
def test_a_weighting_is_a_function_and_one_line_in_each_registry(small, monkeypatch, keys):
    with pytest.raises(ConfigError, match=r"weights\.scheme = 'margin': use uniform, .*reliability, or your own"):
        small({"weights.scheme": "margin"})
    monkeypatch.setitem(aggregation.SCHEMES, "margin", margin_scores)
    monkeypatch.setitem(aggregation.SCORE_BOUNDS, "margin", 1.0)
    monkeypatch.setitem(choices.SCHEMES, "margin", choices.SchemeFacts("gap between the two likeliest labels"))
    summary = summary_of(small(QUICK | {"weights.scheme": "margin"} | keys))
    assert summary["status"] == "ok"
    assert summary["distillation"]["weights"] == "margin"


def test_a_weighting_that_reads_only_soft_labels_is_covered_by_every_mechanism(monkeypatch):
    monkeypatch.setitem(choices.SCHEMES, "margin", choices.SchemeFacts())
    monkeypatch.setitem(choices.SCHEMES, "rarity", choices.SchemeFacts(reads="density"))
    for mechanism in ("dp-sgd", "pate", "gaussian"):
        RunConfig.from_mapping({"privacy.mechanism": mechanism, "weights.scheme": "margin"})
        with pytest.raises(ConfigError, match=r"'rarity' reads what privacy\.mechanism = .* does not cover"):
            RunConfig.from_mapping({"privacy.mechanism": mechanism, "weights.scheme": "rarity"})


class CharacterCounts(TextClassifier):
    """A linear classifier of ASCII character counts: the least that a model needs."""

    default_learning_rate = 1e-2
    starts_ready = False

    def __init__(self, spec):
        super().__init__(spec)
        self.output = torch.nn.Linear(128, len(spec.labels))

    @property
    def output_layer(self):
        return self.output

    def encode(self, texts):
        return [np.bincount([ord(letter) % 128 for letter in str(text)], minlength=128) for text in texts]

    def collate(self, items):
        return {"counts": torch.tensor(np.stack(items), dtype=torch.float32)}

    def item_length(self, item):
        return 1

    def random_items(self, generator, count):
        return list(generator.multinomial(80, np.full(128, 1 / 128), size=count))

    def forward(self, counts):
        return self.output(counts / 80)


def test_a_model_is_one_file_named_by_its_function(small):
    name = f"{__name__}:CharacterCounts"
    config = small(QUICK | {"model": name})
    assert summary_of(config)["status"] == "ok"
    student = load_student(Path(config.runs_dir) / "worked")
    assert student.spec.name == name
    assert [tuple(values.shape) for values in student.parameters()] == [(5, 128), (5,)]
