"""A setting that nothing reads is told; one that something reads is not."""

import pytest

from knot_fed.config import RunConfig, known_keys
from knot_fed.preflight.unread import READERS, unread_settings

SET = {
    "compile": True,
    "labels.coordinates": "1; 2; 3; 4; 5", "data.text": "t", "data.text-a": "t", "data.text-b": "t", "data.label": "t",
    "labels.ordered": True, "data.labels-per-client": 3, "data.id": "t", "data.delimiter": ";", "data.quoting": "none",
    "data.split": "t", "data.separator": "|", "data.alpha": 0.1, "teacher.max-length": 64, "student.calibrate": False,
    "weights.scheme": "size", "weights.power": 2.0, "weights.trim": 0.3, "transport.cost": "semantic",
    "transport.solver": "table",
    "transport.divergence-epsilon": 0.2, "transport.entropic-epsilon": 0.0091, "transport.marginal-error": 0.03,
    "teacher.round-epochs": 3, "student.restart": True, "resend-above": 0.1,
    "teacher.patience": 2, "teacher.class-weights": "balanced",
    "privacy.epsilon": 1.0, "privacy.delta": 1e-6, "privacy.clipping-norm": 2.0, "privacy.sampling-rate": 0.1,
    "privacy.learning-rate": 0.1, "privacy.epochs": 5, "privacy.shards": 5, "privacy.votes": "labels",
    "privacy.top-k": 3, "privacy.threshold": 3, "privacy.sum-bits": 24,
}  # fmt: skip
UNREAD = {
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
READ = {
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
    "teacher.round-epochs": {"teacher.start": "both"},
    "student.restart": {"rounds": 2},
    "resend-above": {"rounds": 2, "round-texts": "all"},
    "weights.trim": {"weights.pooling": "trimmed-mean", "distill.objective": "pooled"},
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


def test_the_defaults_are_silent_and_a_sweep_is_told_only_of_what_no_cell_reads():
    assert unread_settings([RunConfig()]) == []
    cells = [RunConfig.from_mapping({"transport.cost": "semantic", "distill.loss": loss}) for loss in ("ot", "entropy")]
    assert unread_settings(cells) == []
    assert len(unread_settings(cells[1:])) == 1
