"""Three clients' reviews with half of all rows in one class: every run must leave the student better than it was."""

import os
import tomllib
from pathlib import Path

import pytest

from benchmarks.j_shaped import resample_folder
from knot_fed.audit.subject import OpenedRun
from knot_fed.config import flattened
from tests.conftest import ROOT, small_config

SOURCE = Path(os.environ.get("KNOT_FED_SENTIMENT", ROOT.parent / "shared" / "data" / "sentiment"))
ENCODER = os.environ.get("KNOT_FED_MINILM", "")


@pytest.fixture(scope="module")
def j_shaped(tmp_path_factory):
    """The files, a run of a seed over them, and what all seeds share."""
    if not SOURCE.is_dir() or not Path(ENCODER, "config.json").is_file():
        pytest.skip("needs sentiment (KNOT_FED_SENTIMENT, or ../shared/data), and all-MiniLM-L6-v2 (KNOT_FED_MINILM)")
    folder = tmp_path_factory.mktemp("j-shaped")
    counts = resample_folder(SOURCE, folder / "data", seed=0)
    assert all(count[-1] == pytest.approx(sum(count) / 2, abs=2) for count in counts.values())

    def run(seed, loss):
        keys = flattened(tomllib.loads((ROOT / "simulations" / "j-shaped.toml").read_text()))
        keys |= {"model": f"hf:{ENCODER}", "data.root": str(folder / "data"), "distill.loss": loss, "seed": seed}
        return OpenedRun.open(small_config(folder, {"distill.epochs": 30} | keys), clients=3)

    return run


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("loss", ["ot", "entropy"])
def test_on_j_shaped_reviews_every_run_leaves_sd_and_macro_f1_better(j_shaped, loss, seed):
    run = j_shaped(seed, loss)
    texts = list(run.transfer.texts)
    answers = [subject.run_teacher().answer(texts) for subject in run.subjects]
    before, after = run.judge(run.start()), run.judge(run.distil(texts, [*answers, run.public_answer(texts)]))
    assert after.sd < before.sd - 0.02
    assert after.macro_f1 > before.macro_f1 + 0.005
