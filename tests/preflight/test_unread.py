"""A setting that nothing reads is told; one that something reads is not."""

import pytest
from typer.testing import CliRunner

from knot_fed.cli.simulate import command
from knot_fed.config import RunConfig, known_keys
from knot_fed.errors import ConfigError
from knot_fed.preflight.unread import READERS, unread_settings
from tests.conftest import ROOT

SET = {
    "compile": True,
    "labels.coordinates": "1; 2; 3; 4; 5", "data.text": "t", "data.text-a": "t", "data.text-b": "t", "data.label": "t",
    "labels.ordered": True, "data.labels-per-client": 3, "data.id": "t", "data.delimiter": ";", "data.quoting": "none",
    "data.split": "t", "data.separator": "|", "data.alpha": 0.1, "teacher.max-length": 64, "student.calibrate": False,
    "weights.scheme": "size", "weights.power": 2.0, "weights.trim": 0.3, "weights.era-temperature": 0.5,
    "transport.cost": "semantic",
    "transport.solver": "table", "transport.encoder": "hf:owner/encoder",
    "transport.divergence-epsilon": 0.2, "transport.entropic-epsilon": 0.0091, "transport.marginal-error": 0.03,
    "teacher.start": "personal", "teacher.round-epochs": 3, "student.restart": True,
    "teacher.patience": 2, "teacher.class-weights": "balanced", "teacher.calibrate": True, "teacher.warmup": 0.1,
    "teacher.schedule": "cosine", "teacher.clip-norm": 1.0, "teacher.accumulate": 2, "teacher.label-smoothing": 0.1,
    "lora.rank": 4, "lora.alpha": 8.0, "lora.dropout": 0.1, "lora.targets": "query", "lora.quantize": "8bit",
    "personal.epochs": 3, "personal.learning-rate": 0.1, "personal.loss": "kl", "personal.weight": 2.0,
    "personal.when": "rounds", "prompt.calibrate": False, "prompt.template": "{text} It is", "prompt.words": "a, b",
    "resend-above": 0.1,
    "privacy.epsilon": 1.0, "privacy.delta": 1e-6, "privacy.clipping-norm": 2.0, "privacy.sampling-rate": 0.1,
    "privacy.learning-rate": 0.1, "privacy.epochs": 5, "privacy.shards": 5, "privacy.votes": "labels",
    "privacy.top-k": 3, "privacy.threshold": 3, "privacy.sum-bits": 24,
}  # fmt: skip
BY_DP_SGD = {"privacy.mechanism": "dp-sgd", "student.pretrain": False}
AFTER_ROUNDS = {"personal.consensus": "pooled", "personal.when": "rounds"}
UNREAD = {
    "teacher.start": AFTER_ROUNDS,
    **{f"teacher.{key}": BY_DP_SGD for key in ("warmup", "schedule", "clip-norm", "accumulate", "label-smoothing")},
    "teacher.calibrate": {"teacher.epochs": 0},
    "teacher.patience": {"teacher.epochs": 0},
    "teacher.class-weights": {"teacher.epochs": 0},
    "student.calibrate": {"student.pretrain": False},
    "weights.scheme": {"weights.pooling": "median", "distill.objective": "pooled"},
    "weights.power": {"weights.scheme": "uniform"},
    "transport.cost": {"distill.loss": "kl"},
    "transport.solver": {"distill.loss": "sinkhorn-divergence"},
    "transport.entropic-epsilon": {"transport.solver": "lp"},
    "transport.marginal-error": {"distill.loss": "mse"},
}
FILES = {"data.root": "/data"}
NOISE = {"privacy.mechanism": "gaussian", "weights.scheme": "uniform"}
DP_SGD = {"privacy.mechanism": "dp-sgd"}
PATE = {"privacy.mechanism": "pate", "weights.scheme": "uniform"}
SUM = {"privacy.secure-sum": True, "distill.objective": "pooled"}
LORA = {"trainable": "lora", "model": "hf:owner/encoder"}
PERSONAL = {"personal.consensus": "pooled"}
PROMPTED = {"teacher.models": "prompt:owner/model"}
READ = {
    **{f"lora.{key}": LORA for key in ("rank", "alpha", "dropout", "targets", "quantize")},
    **{f"personal.{key}": PERSONAL for key in ("epochs", "learning-rate", "loss", "weight", "when")},
    **{f"prompt.{key}": PROMPTED for key in ("calibrate", "template", "words")},
    "resend-above": {"rounds": 2, "round-texts": "all"},
    "compile": {"student.model": "tiny-bert"},
    "labels.coordinates": {"labels.names": "a,b,c,d,e"},
    "data.text": FILES,
    "data.text-a": FILES,
    "data.text-b": FILES,
    "data.label": FILES,
    "data.split": FILES,
    "data.separator": FILES,
    "labels.ordered": {"labels.names": "a,b,c"},
    "data.delimiter": FILES,
    "data.quoting": FILES,
    "data.alpha": {"data.partition": "dirichlet"},
    "data.labels-per-client": {"data.partition": "shard"},
    "data.id": {"data.partition": "natural-id"},
    "teacher.max-length": {"student.model": "tiny-bert"},
    "teacher.start": AFTER_ROUNDS | {"rounds": 2},
    "teacher.round-epochs": {"teacher.start": "both"},
    "student.restart": {"rounds": 2},
    "weights.trim": {"weights.pooling": "trimmed-mean", "distill.objective": "pooled"},
    "weights.era-temperature": {"weights.pooling": "era", "distill.objective": "pooled"},
    "transport.encoder": {"transport.cost": "embedding"},
    "transport.divergence-epsilon": {"distill.loss": "sinkhorn-divergence"},
    "privacy.epsilon": NOISE,
    "privacy.delta": NOISE,
    "privacy.clipping-norm": DP_SGD,
    "privacy.sampling-rate": DP_SGD,
    "privacy.learning-rate": DP_SGD,
    "privacy.epochs": PATE,
    "privacy.shards": PATE,
    "privacy.votes": PATE,
    "privacy.top-k": {"privacy.compression": "top-k"},
    "privacy.threshold": SUM,
    "privacy.sum-bits": SUM,
}


def told(key, others):
    return [line for line in unread_settings([RunConfig.from_mapping({key: SET[key], **others})]) if key in line]


def test_every_key_of_the_table_is_a_key_and_is_tried():
    assert set(READERS) == set(SET)
    assert set(READERS) <= set(known_keys(RunConfig))


@pytest.mark.parametrize("key", sorted(SET))
def test_a_key_is_told_exactly_where_nothing_reads_it(key):
    unread = told(key, UNREAD.get(key, {}))
    assert len(unread) == 1
    assert unread[0].startswith(f"{key} = ")
    assert "it needs " in unread[0]
    assert told(key, READ.get(key, {})) == []


@pytest.mark.parametrize(
    ("others", "unread"),
    [
        ({"teacher.start": "student", "privacy.mechanism": "dp-sgd"}, True),
        ({"teacher.start": "personal", **AFTER_ROUNDS}, True),
        ({"teacher.start": "personal", "rounds": 2, **AFTER_ROUNDS}, False),
        ({"teacher.start": "student", **NOISE}, False),
    ],
)
def test_epochs_of_a_round_are_told_where_a_mechanism_or_the_lack_of_a_start_rules(others, unread):
    assert len(told("teacher.round-epochs", others)) == unread


@pytest.mark.parametrize("key", ["teacher.patience", "teacher.class-weights", "teacher.calibrate"])
def test_settings_of_training_are_read_by_a_personal_model_of_a_ready_teacher(key):
    ready = {"teacher.epochs": 0, "model": "hf:someone/reviews", "student.pretrain": False}
    assert len(told(key, ready)) == 1
    assert told(key, ready | {"personal.consensus": "pooled"}) == []


@pytest.mark.parametrize(("strategy", "unread"), [("knot", True), ("fedavg", False)])
def test_keys_of_the_baseline_are_told_in_a_run_that_only_distils(monkeypatch, strategy, unread):
    def stop(*_, **__):
        raise ConfigError("far enough")

    monkeypatch.setattr("knot_fed.launch.simulation.simulator", stop)
    for more in ([], ["--app", str(ROOT)]):
        arguments = ["--run-config", "fedavg.rounds=3", "--strategy", strategy, *more]
        output = CliRunner().invoke(command(), arguments).output
        assert "far enough" in output
        assert ("fedavg.rounds = 3 has no effect; it needs flower-simulation --strategy" in output) == unread
    run = RunConfig.from_mapping({"fedavg.learning-rate": 0.1})
    assert unread_settings([run]) == []
    assert len(unread_settings([run], averages=False)) == 1


def test_the_defaults_are_silent_and_a_sweep_is_told_only_of_what_no_cell_reads():
    assert unread_settings([RunConfig()]) == []
    cells = [RunConfig.from_mapping({"transport.cost": "semantic", "distill.loss": loss}) for loss in ("ot", "entropy")]
    assert unread_settings(cells) == []
    assert len(unread_settings(cells[1:])) == 1


def test_a_ground_cost_that_personal_models_read_has_an_effect():
    others = {"distill.loss": "kl", "personal.consensus": "pooled", "personal.loss": "ot"}
    run = RunConfig.from_mapping({"transport.cost": "semantic", **others})
    assert not [line for line in unread_settings([run]) if "transport" in line]
