"""The share of the loss in a distillation step on real text: ours compared with the loss of the paper's code.

A step is the student's forward and backward pass on a batch of 128 texts, the loss, and AdamW. The loss is also timed
alone, forward and backward to the logits. One thread; medians.
"""

import argparse
import functools
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.methods import geomloss_loop, ours
from benchmarks.problems import make_problem
from knot_fed.data.private import Columns
from knot_fed.data.transfer_set import read_transfer_set
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec, build_classifier, train_vocabulary

BATCH, TEACHERS, STEPS = 128, 4, 40


def median_seconds(run):
    run()
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure(student, texts):
    """Yield each loss's name, its seconds, and the seconds of a whole step."""
    items = student.encode(texts)
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-4)
    problem = make_problem(BATCH, 5, TEACHERS)
    generator = np.random.default_rng(1)

    for name, method in (("ours", ours()), ("geomloss, loop (the paper's code)", geomloss_loop())):
        problem.name = f"{problem.name} "

        def loss(logits, method=method):
            problem.logits = logits
            method(problem).mean().backward()

        def step(loss=loss):
            optimiser.zero_grad()
            loss(student.logits([items[row] for row in generator.choice(len(items), BATCH, replace=False)]))
            optimiser.step()

        alone = functools.partial(loss, torch.randn(BATCH, 5).requires_grad_())
        yield name, median_seconds(alone), median_seconds(step)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", default="../shared/data/sentiment/movie_b.jsonl.gz", help="transfer set file")
    parser.add_argument("--encoder", required=True, help="folder of a pretrained encoder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = read_transfer_set(arguments.texts, columns=Columns()).texts[:1024]
    labels = LabelSpace.preset("sentiment").names
    students = {
        "MiniLM head": ModelSpec(f"hf:{Path(arguments.encoder).resolve()}", "head", labels, False, 128),
        "tiny-bert": ModelSpec("tiny-bert", "all", labels, False, 128, train_vocabulary(texts)),
    }
    print("| student | loss | loss, ms | step, ms | share |\n| --- | --- | --- | --- | --- |")
    for name, spec in students.items():
        for loss_name, loss, step in measure(build_classifier(spec, seed=1), texts):
            print(f"| {name} | {loss_name} | {1e3 * loss:.3f} | {1e3 * step:.2f} | {loss / step:.2%} |", flush=True)


if __name__ == "__main__":
    main()
