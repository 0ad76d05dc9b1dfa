"""The tiny models of the shared folder, if it exists: each runs, or is refused before anything starts."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from knot_fed.errors import ModelError
from knot_fed.models import ModelSpec, build_classifier, predict_logits
from knot_fed.preflight.models import check_models
from knot_fed.training.fitting import Schedule, fit_all_epochs
from tests.conftest import ROOT
from tests.models.tiny_models import TEXTS

SCRIPT = ROOT.parent / "shared/cases/tiny-models/build.py"
REFUSED = {
    "bert-no-tokenizer": "its tokenizer .*; add the files that tokenizer.save_pretrained writes",
    "bert-no-weights": "no weights in that folder .*; copy them there",
    "remote-code": "needs code of its own, which is never run; use a model that transformers knows",
    "lora-adapter": "contains an adapter, which cannot be read; merge it into its base model",
    "bert-and-adapter": "contains an adapter, which cannot be read; merge it into its base model",
    "vit": "it reads pixel_values, not text; use a model of text",
}
REFUSED_WHOLE = {"bert-multilabel": "its trained head has no label names .*; write the run's names into id2label"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SCRIPT.is_file(), reason="the shared folder is missing"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    subprocess.run(
        [sys.executable, SCRIPT, out], check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    return sorted(path for path in out.iterdir() if path.is_dir())


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_every_tiny_model_runs_or_is_refused_in_preflight_by_a_sentence_with_the_remedy(
    folders, run_config, capsys, trainable
):
    wrong = REFUSED | (REFUSED_WHOLE if trainable == "all" else {})
    assert set(wrong) < {folder.name for folder in folders}
    for folder in folders:
        config, started = run_config(keys={"model": f"hf:{folder}", "trainable": trainable}), time.process_time()
        if folder.name in wrong:
            with pytest.raises(ModelError, match=wrong[folder.name]):
                check_models(config, TEXTS[:20])
        else:
            check_models(config, TEXTS[:20])
        assert time.process_time() - started < 10
        if folder.name not in wrong:
            train(folder, trainable, config.label_space().names)
    assert "remote code ran" not in capsys.readouterr().out


def train(folder: Path, trainable, names):
    """Train a model as a teacher and predict with it."""
    model = build_classifier(ModelSpec(f"hf:{folder}", trainable, names, paired=False, max_length=128), seed=1)
    texts, labels = TEXTS[:20], torch.arange(20) % 5
    items = model.encode(texts)
    fit_all_epochs(
        model,
        items,
        lambda logits, rows: torch.nn.functional.cross_entropy(logits, labels[rows]),
        Schedule(epochs=1, patience=1, batch_size=10, learning_rate=1e-3),
        seed=1,
    )
    assert np.isfinite(predict_logits(model, items)).all()
