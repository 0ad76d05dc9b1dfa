"""What a stranger's small or odd files come to: each try is a run, or one sentence before anything starts."""

import csv
import re
import subprocess
import sys

import numpy as np
import pytest

from knot_fed.errors import KnotError
from knot_fed.preflight import check_run
from knot_fed.preflight.files import _read_files
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from tests.conftest import ROOT, small_config
from tests.data.test_shares import CASES
from tests.fakes import InProcessGrid, virtual_clients

WORDS = ("awful", "bad", "plain", "good", "great")


def rows(count, *, labels=(0, 1, 2, 3, 4), people=0):
    """Return rows without a split column, and with whom they are of."""
    made = [(f"it is {WORDS[labels[row % len(labels)]]} {row}", labels[row % len(labels)]) for row in range(count)]
    return [(*row, f"person {place % people}") if people else row for place, row in enumerate(made)]


def files(folder, **changed):
    """Write three clients, a public and a transfer file; those that are named hold other rows."""
    _read_files.cache_clear()
    folder.mkdir()
    held = {name: rows(60) for name in ("a", "b", "c", "p")} | changed
    for name, content in held.items():
        columns = ("text", "label", "person")[: len(content[0])]
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as opened:
            csv.writer(opened).writerows([columns, *content])
    texts = changed.get("t", [f"this is {WORDS[row % 5]} too {row}" for row in range(20)])
    (folder / "t.csv").write_text("text\n" + "".join(f"{text}\n" for text in texts))
    keys = {"data.root": str(folder), "data.clients": "a,b,c", "data.public": "p", "data.transfer": "t"}
    return keys | {"teacher.epochs": 1, "distill.epochs": 1}


ONE, RUNS = {"data.clients": "a"}, "runs"
PERSON = ONE | {"data.partition": "natural-id", "data.id": "person"}
UNORDERED, LINE = "every two labels are one apart", "the labels lie on a line in the order of labels.names"
TRIES = {
    # files changed, keys, clients, note or refusal
    "two rows": ({"a": rows(2)}, {}, 3, "a.csv: 1 rows to train on, 0 to validate and 1 to test; give 3 rows or more"),
    "three rows": ({"a": rows(3)}, {}, 3, "a: training rows of one label"),
    "one row": ({"a": rows(1)}, {}, 3, "a.csv: 1 rows to train on, 0 to validate and 0 to test"),
    "one label at an owner": ({"a": rows(40, labels=(3,))}, {}, 3, "a: training rows of one label; a teacher of one"),
    "one label at every owner": (
        {name: rows(40, labels=(label,)) for label, name in enumerate("abc")}, {}, 3, "a, b, c: training rows of one",
    ),
    "one label in the public file": ({"p": rows(40, labels=(3,))}, {}, 3, "p.csv: .* fewer than 2 classes; add rows"),
    "one transfer text": ({"t": ["only one"]}, {}, 3, r"t: 1 distinct transfer text\(s\) for 1 round"),
    "a transfer text that no message carries": (
        {"t": ["one", "x" * 100_001]}, {}, 3, r"t: a text is longer than 100000 .* cut long texts or set data\.limit",
    ),
    "two transfer texts": ({"t": ["one", "two"]}, {}, 3, RUNS),
    "fewer texts than two a round": ({}, {"rounds": 11}, 3, r"t: 20 distinct transfer text\(s\) for 11 round"),
    "limit of three": ({}, {"data.limit": 3}, 3, RUNS),
    "limit of one": ({}, {"data.limit": 1}, 3, "p.csv: 1 training rows with fewer than 2 classes; raise data.limit"),
    "shares below the floor": ({"a": rows(90)}, ONE, 8, "8 clients share a, .* enough for 6, at data.min-ex"),
    "shares at a lower floor": ({"a": rows(90)}, ONE | {"data.min-examples": 5}, 8, RUNS),
    "floor that no file has": ({}, ONE | {"data.min-examples": 90}, 2, "enough for 0, at data.min-examples = 90"),
    "shares of one label": (
        {"a": rows(200)}, ONE | {"data.partition": "pathological", "data.labels-per-client": 1}, 5, "a-0, .*one label",
    ),
    "fewer shares than labels": (
        {"a": rows(200)}, ONE | {"data.partition": "pathological", "data.labels-per-client": 1}, 4,
        "a: data.partition = 'pathological': 4 clients .* set data.labels-per-client to 2 to 5",
    ),
    "very uneven shares": (
        {"a": rows(900)}, ONE | {"data.partition": "dirichlet", "data.alpha": 0.1}, 10, "draw.s. of data.partition",
    ),
    "too uneven shares": (
        {"a": rows(900)}, ONE | {"data.partition": "dirichlet", "data.alpha": 0.001}, 10, "in each of 300 draws",
    ),
    "shares by e": ({"a": rows(400)}, ONE | {"data.partition": "exponential"}, 3, RUNS),
    "more shares by e": ({"a": rows(200)}, ONE | {"data.partition": "exponential"}, 8, "there one has fewer than"),
    "sorted runs": ({"a": rows(200)}, ONE | {"data.partition": "shard"}, 5, RUNS),
    "shares by person": ({"a": rows(200, people=9)}, PERSON, 3, RUNS),
    "more clients than persons": ({"a": rows(200, people=2)}, PERSON, 3, "data.id has 2 values; name a column with as"),
    "a column that is not there": ({}, PERSON, 3, "data.id names no column of the file"),
    "persons in no column": ({}, ONE | {"data.partition": "natural-id"}, 3, "data.id names no column of the file"),
    "names only": ({}, {"labels.names": "a,b,c,d,e"}, 3, UNORDERED),
    "names in order": ({}, {"labels.names": "a,b,c,d,e", "labels.ordered": True}, 3, LINE),
    "names with coordinates": ({}, {"labels.names": "a,b,c,d,e", "labels.coordinates": "1;2;3;4;5"}, 3, RUNS),
    "names only, cosine": ({}, {"labels.names": "a,b,c,d,e", "transport.cost": "cosine"}, 3, UNORDERED),
    "names only, a solver for lines": (
        {}, {"labels.names": "a,b,c,d,e", "transport.solver": "line"}, 3, "solver 'line' does not apply",
    ),
    "a delta of half": ({}, {"privacy.delta": 0.5}, 3, "privacy.delta = 0.5: input should be less than or equal"),
    "a delta above one over the rows": (
        {}, {"privacy.mechanism": "dp-sgd", "privacy.delta": 0.05}, 3, "privacy.delta = 0.05 is not below one over",
    ),
    "nearly all held out": ({"t": ["one", "two", "three"]}, {"distill.validation": 0.99}, 3, RUNS),
}  # fmt: skip
WHOLE = (
    "three rows", "one label at every owner", "limit of three", "shares at a lower floor", "names only",
    "nearly all held out",
)  # fmt: skip

POSITIONS = "labels are numbers by position"
"""What is told of all files here, whose labels are 0 to 4."""


@pytest.mark.parametrize("name", TRIES)
def test_a_small_or_odd_file_runs_or_is_refused_in_one_sentence(tmp_path, name):
    changed, keys, clients, outcome = TRIES[name]
    try:
        notes = check_run(small_config(tmp_path, files(tmp_path / "data", **changed) | keys), clients=clients)
    except KnotError as error:
        notes = [str(error)]
    assert not any("\n" in note for note in notes)
    notes = [note for note in notes if POSITIONS not in note]
    assert (notes == []) if outcome == RUNS else re.search(outcome, " ".join(notes)), notes


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_what_is_not_refused_runs_to_its_end(tmp_path, name):
    changed, keys, clients, _ = TRIES[name]
    config = small_config(tmp_path, files(tmp_path / "data", **changed) | keys)
    folder = RunFolder.create(tmp_path / "runs", "tried")
    folder.write_config(config.to_mapping())
    federate(InProcessGrid(virtual_clients(config, clients)), config, folder)
    summary = folder.read_summary()
    assert {client["status"] for client in summary["clients"]} == {"ok"}
    assert len(summary["clients"]) == clients
    measured = [value for domain in summary["domains"].values() for value in domain["after"].values()]
    assert np.isfinite(measured).all()
    if name == "names only":
        assert summary["distillation"]["cost"] == "zero-one"
        assert all(domain["after"]["w1"] <= 1 for domain in summary["domains"].values())


@pytest.mark.skipif(not (CASES / "small-data").is_dir(), reason="../shared/cases is not there")
@pytest.mark.parametrize(("size", "said"), [(60, ""), (2, "give 3 rows or more"), (3, "fewer than 2 classes")])
def test_the_case_of_small_data_is_read_or_refused(tmp_path, size, said):
    made = [sys.executable, CASES / "small-data" / "make.py", tmp_path / "made", str(size)]
    subprocess.run(made, check=True, timeout=60, cwd=ROOT)
    keys = {"data.root": str(tmp_path / "made"), "data.clients": "a,b,c", "data.public": "p", "data.transfer": "t"}
    _read_files.cache_clear()
    try:
        told = " ".join(note for note in check_run(small_config(tmp_path, keys), clients=3) if POSITIONS not in note)
    except KnotError as error:
        told = str(error)
    assert said in told
    assert bool(said) == bool(told)
