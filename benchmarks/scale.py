"""How a run grows: `python -m benchmarks.scale clients 64 256 1000` runs that many virtual clients, and prints a table.

Clients share files of the built-in corpus, written with rows in proportion to the clients, so that each has the same
work; the corpus itself is too small for 1,000 shares. Memory is the peak of the whole process tree, by proportional set
size (shared pages counted once).
"""

import argparse
import csv
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from knot_fed.data.reviews import builtin_examples, builtin_texts
from knot_fed.labels import LabelSpace

PRIVATE, PUBLIC = ("phones", "restaurants", "hotels"), "books"
SHARE_ROWS = {"train": 12, "val": 3, "test": 5}
"""Rows of one client, about."""
SAMPLE_SECONDS = 1.0
GIGABYTE = 1e9
HEAD = ("clients", "wall seconds", "seconds per client", "largest process, GB", "all processes, GB")


def write_corpus(folder, clients):
    """Write the private files with rows for so many clients, and the public one as it is."""
    labels = LabelSpace.preset("sentiment")
    shares = math.ceil(clients / len(PRIVATE))
    for domain in (*PRIVATE, PUBLIC):
        sizes = {part: rows * shares for part, rows in SHARE_ROWS.items()} if domain in PRIVATE else None
        parts = {part: getattr(builtin_examples(domain, labels, sizes=sizes), part) for part in SHARE_ROWS}
        write_table(
            folder / f"{domain}.csv",
            ["text", "label", "split"],
            [
                (text, labels.names[label], part)
                for part, rows in parts.items()
                for text, label in zip(rows.texts, rows.labels, strict=True)
            ],
        )
    write_table(folder / "forum.csv", ["text"], [(text,) for text in builtin_texts("forum")])


def write_table(file, names, rows):
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([names, *rows])


class Memory(threading.Thread):
    """Samples a process tree: the peak of its largest process, and of all, in bytes."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.root, self.largest, self.all, self.names, self.done = psutil.Process(pid), 0, 0, {}, threading.Event()

    def run(self):
        while not self.done.wait(SAMPLE_SECONDS):
            sizes = [size_of(process) for process in (self.root, *children(self.root))]
            self.largest, self.all = max(self.largest, *sizes), max(self.all, sum(sizes))


def children(process):
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def size_of(process):
    """Return the proportional set size, or 0 for a process that ended."""
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0


def measure(clients, keys):
    """Run so many virtual clients in fresh folders; return the row of the table."""
    folder = Path(tempfile.mkdtemp(prefix="knot-fed-scale-"))
    try:
        (folder / "data").mkdir()
        write_corpus(folder / "data", clients)
        settings = {"name": "scale", "runs-dir": str(folder / "runs"), "state-dir": str(folder / "state")}
        settings |= {"data.root": str(folder / "data"), "data.transfer": "forum"} | keys
        return row_of(clients, folder, " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items()))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def row_of(clients, folder, run_config):
    """Run the simulation, and return one row of the table; a failed run ends the benchmark."""
    command = [Path(sys.executable).with_name("flower-simulation"), "--app", ".", "--num-supernodes", str(clients)]
    started = time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--run-config", run_config], stdout=log, stderr=log)
        memory = Memory(process.pid)
        memory.start()
        failed = process.wait()
    seconds = time.monotonic() - started
    memory.done.set()
    memory.join()
    if failed:
        sys.exit(f"{clients} clients: the run failed; its log ends:\n{(folder / 'log').read_text()[-3000:]}")
    summary = json.loads((folder / "runs" / "scale" / "summary.json").read_text())
    answered = sum(client["status"] == "ok" for client in summary["clients"])
    assert answered == clients, f"{answered} of {clients} clients answered"
    sizes = memory.largest / GIGABYTE, memory.all / GIGABYTE
    return [str(clients), f"{seconds:.0f}", f"{seconds / clients:.2f}", *(f"{size:.2f}" for size in sizes)]


def row(values):
    return "| " + " | ".join(values) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["clients"])
    parser.add_argument("counts", type=int, nargs="+")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a key of the run (JSON value)")
    given = parser.parse_args()
    keys = {key: json.loads(value) for key, _, value in (item.partition("=") for item in given.set)}
    print(row(HEAD), row(["---:"] * len(HEAD)), sep="\n", flush=True)
    for clients in given.counts:
        print(row(measure(clients, keys)), flush=True)


if __name__ == "__main__":
    main()
