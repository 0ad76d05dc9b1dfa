"""The first page: short, its links lead somewhere, its results are generated, and a test runs each of its commands."""

import csv
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from benchmarks.results import TABLES, all_tables, with_table
from knot_fed.data.reviews import builtin_examples, builtin_texts
from knot_fed.labels import LabelSpace
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
SIZES = {"train": 400, "val": 1, "test": 1}
SHELL = [block.replace("\\\n", " ").splitlines() for kind, block in BLOCKS if kind == "sh"]


def code(kind):
    (block,) = [block for name, block in BLOCKS if name == kind]
    return block


def test_it_has_at_most_a_hundred_lines():
    assert len(README.splitlines()) <= 100


def test_its_links_and_figures_lead_to_files():
    targets = re.findall(r"\]\(([^)#]+)|(?:src|srcset)=\"([^\"]+)\"", README)
    files = [target for pair in targets for target in pair if target and not target.startswith("https://")]
    assert len(files) > 10
    for target in files:
        assert (ROOT / target).is_file(), target


def test_its_results_are_those_of_the_kept_sweeps():
    assert with_table(README) == README


def test_the_sites_tables_are_those_of_the_kept_sweeps():
    for name, table in all_tables().items():
        assert (TABLES / name).read_text(encoding="utf-8") == table.to_csv(index=False), name


def test_its_loss_runs_as_it_stands():
    logits = torch.zeros(2, 5, requires_grad=True)
    given = {"logits": logits, "soft_labels": torch.eye(5)[:3].repeat(2, 1, 1), "client_weights": torch.ones(3) / 3}
    exec(compile(code("python"), "README.md", "exec"), given)
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


@pytest.mark.slow
def test_its_three_blocks_of_commands_run(tmp_path):
    install, first, own = SHELL
    for command in install:
        run(
            command,
            ROOT,
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "--upgrade",
            "--target",
            tmp_path / "there",
        )
    assert (tmp_path / "there" / "knot_fed" / "simulations" / "sentiment.toml").is_file()
    for command in first:
        run(command, tmp_path)
    assert len([*tmp_path.glob("runs/first*/report.html")]) == 2
    write_own_data(tmp_path)
    for command in own:
        run(command, tmp_path)
    assert len([*tmp_path.glob("runs/reviews*/report.html")]) == 2


def run(command, folder, *further):
    words = [*shlex.split(command, comments=True), *further]
    words = [sys.executable, "-m", *words] if words[0] == "pip" else words
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ended = subprocess.run(
        words,
        cwd=folder,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def write_own_data(folder):
    """Write run.toml as it stands, and the files that it names."""
    (folder / "run.toml").write_text(code("toml"))
    data = tomllib.loads(code("toml"))["data"]
    (folder / data["root"]).mkdir()
    with (folder / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *labelled("phones")])
    owners = dict(zip(data["clients"].split(","), ("phones", "restaurants", "hotels"), strict=True))
    for name, domain in (owners | {data["public"]: "books", data["transfer"]: "forum"}).items():
        with (folder / data["root"] / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text"] if name == data["transfer"] else ["text", "label"])
            if name == data["transfer"]:
                rows.writerows([text] for text in builtin_texts(domain)[:300])
            else:
                rows.writerows(labelled(domain))


def labelled(domain):
    train = builtin_examples(domain, LabelSpace.preset("sentiment"), sizes=SIZES).train
    return [(text, label + 1) for text, label in zip(train.texts, train.labels, strict=True)]
