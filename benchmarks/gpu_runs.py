"""Whole federations in one process on a device: the built-in reviews, with each kind of model that trains there."""

import tempfile
import time
from pathlib import Path

import torch

QUICK = {"teacher.epochs": 3, "distill.epochs": 3, "data.limit": 1000, "device": "cuda"}
SMALL = {"teacher.epochs": 1, "distill.epochs": 1, "data.limit": 60, "device": "cpu"}
RUNS = {
    "ngram-bag": {},
    "tiny-bert": {"model": "tiny-bert"},
    "tiny-bert, two rounds from the student": {
        "model": "tiny-bert", "rounds": 2, "round-texts": "all", "teacher.start": "student",
        "personal.consensus": "student",
    },
    "ngram-bag by DP-SGD": {"privacy.mechanism": "dp-sgd"},
    "a tiny Llama and GPT-2 by adapters, a prompted Qwen": {"trainable": "lora"},
}  # fmt: skip
DECODERS = "a tiny Llama"
SMALL_RUNS = [name for name in RUNS if name == "ngram-bag" or name.startswith(DECODERS)]


def whole_run(name, *, small):
    """Run a federation of three clients; return its seconds, the student's metrics before and after, and the memory."""
    from knot_fed import Federation, RunConfig  # needs Flower, without which all other parts run

    if not small:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        keys = (SMALL if small else QUICK) | RUNS[name] | {"runs-dir": f"{folder}/runs", "state-dir": f"{folder}/state"}
        keys |= _decoders(Path(folder)) if name.startswith(DECODERS) else {}
        started = time.monotonic()
        summary = Federation(RunConfig.from_mapping(keys)).run(echo=None).summary
        taken = time.monotonic() - started
    row = {"run_seconds": round(taken, 1), "device": summary["device"]}
    for when, metrics in summary["student"].items():
        row |= {f"{key}_{when}": round(metrics[key], 4) for key in ("sd", "accuracy")}
    return row if small else row | {"peak_GB": round(torch.cuda.max_memory_allocated() / 1e9, 2)}


def _decoders(folder):
    """Write a Llama and a GPT-2 to be trained and a Qwen2 to be prompted, all tiny and random."""
    from tests.models.tiny_models import write_causal, write_family

    teachers = [write_family(folder / name, f"{name} without padding") for name in ("llama", "gpt-2")]
    teachers.append(write_causal(folder / "qwen", "qwen without padding"))
    return {"teacher.models": ",".join(teachers), "student.model": "ngram-bag", "student.pretrain": False}
