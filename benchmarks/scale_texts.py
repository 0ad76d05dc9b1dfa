"""How a run grows with its transfer set: `python -m benchmarks.scale_texts 10000 100000 1000000` prints a table.

Three clients hold reviews of the built-in corpus, and label made-up sentences of twelve words. There are few epochs,
since this measures time and memory, not accuracy. A client's seconds are those that it reports for its answer; the
server's are CPU seconds of its process, which runs Flower's simulation engine, too. Memory is the peak proportional set
size (shared pages counted once) of the server's process, of the largest client process, and of the whole process tree.
"""

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import psutil

from knot_fed.data.reviews import DOMAINS, builtin_examples
from knot_fed.labels import LabelSpace

WORDS, VOCABULARY = 12, 50_000
SYLLABLES = [first + second for first in "bdfghklmnprstvz" for second in ("a", "e", "i", "o", "u", "an", "en", "or")]
TEXTS_AT_ONCE = 10_000
SAMPLE_SECONDS = 1.0
GIGABYTE = 1e9
CLIENT = re.compile(r"ray::(ClientAppActor|IDLE)")
SERVER = re.compile(r"flwr-simulation|flower-simulation-app|flwr-serverapp")
HEAD = (
    "texts", "wall seconds", "seconds per 1,000 texts", "server's seconds", "a client's seconds", "server, GB",
    "a client, GB", "all processes, GB",
)  # fmt: skip


def write_texts(file, count):
    """Write sentences whose words are as unequally frequent as those of a language, all of them different."""
    generator = np.random.default_rng(1)
    words = ["".join(generator.choice(SYLLABLES, size=generator.integers(1, 4))) for _ in range(VOCABULARY)]
    with file.open("w", encoding="utf-8") as written:
        written.write("text\n")
        for start in range(0, count, TEXTS_AT_ONCE):
            ranks = np.exp(generator.random((min(TEXTS_AT_ONCE, count - start), WORDS)) * np.log(VOCABULARY))
            for place, row in enumerate(ranks.astype(np.int64).tolist(), start=start):
                written.write(f"{' '.join(words[rank - 1] for rank in row)} {place}\n")


def write_reviews(folder):
    labels = LabelSpace.preset("sentiment")
    for domain in DOMAINS:
        split = builtin_examples(domain, labels)
        with (folder / f"{domain}.csv").open("w", encoding="utf-8", newline="") as opened:
            table = csv.writer(opened)
            table.writerow(["text", "label", "split"])
            for part in ("train", "val", "test"):
                rows = getattr(split, part)
                table.writerows(
                    (text, labels.names[label], part) for text, label in zip(rows.texts, rows.labels, strict=True)
                )


class Processes(threading.Thread):
    """Samples a process tree: peak memory of server, largest client and all, in bytes, and the server's CPU seconds."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.root, self.done = psutil.Process(pid), threading.Event()
        self.peaks, self.seconds, self.seen = Counter(), defaultdict(float), {}

    def run(self):
        while not self.done.wait(SAMPLE_SECONDS):
            sizes = Counter()
            for process in [self.root, *tree(self.root)]:
                try:
                    name, size = role(process), process.memory_full_info().pss
                    self.seconds[name, process.pid] = sum(process.cpu_times()[:2])
                except psutil.Error:
                    continue
                sizes["all"] += size
                sizes[name] = max(sizes[name], size)
            self.peaks |= sizes


def tree(process):
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def role(process):
    command = " ".join(process.cmdline())
    return "client" if CLIENT.search(command) else "server" if SERVER.search(command) else command[:60]


def measure(count, keys):
    """Run a federation with so many transfer texts in fresh folders; return the row of the table."""
    folder = Path(tempfile.mkdtemp(prefix="knot-fed-texts-"))
    try:
        (folder / "data").mkdir()
        write_reviews(folder / "data")
        write_texts(folder / "data" / "sentences.csv", count)
        settings = {"name": "scale", "runs-dir": str(folder / "runs"), "state-dir": str(folder / "state")}
        settings |= {"data.root": str(folder / "data"), "data.transfer": "sentences", "timeout": 7200.0}
        settings |= {"teacher.epochs": 2, "distill.epochs": 2} | keys
        return row_of(count, folder, " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items()))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def row_of(count, folder, run_config):
    command = [Path(sys.executable).with_name("flower-simulation"), "--app", ".", "--num-supernodes", "3"]
    started = time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--run-config", run_config], stdout=log, stderr=log)
        processes = Processes(process.pid)
        processes.start()
        failed = process.wait()
    seconds = time.monotonic() - started
    processes.done.set()
    processes.join()
    if failed:
        sys.exit(f"{count} texts: the run failed; its log ends:\n{(folder / 'log').read_text()[-3000:]}")
    summary = json.loads((folder / "runs" / "scale" / "summary.json").read_text())
    clients = [client["seconds"] for client in summary["clients"] if client["status"] == "ok"]
    assert len(clients) == 3, f"{len(clients)} of 3 clients answered"
    in_server = sum(spent for (who, _), spent in processes.seconds.items() if who == "server")
    sizes = [f"{processes.peaks[who] / GIGABYTE:.2f}" for who in ("server", "client", "all")]
    return [
        f"{count:,}",
        f"{seconds:.0f}",
        f"{1e3 * seconds / count:.2f}",
        f"{in_server:.0f}",
        f"{max(clients):.0f}",
        *sizes,
    ]


def row(values):
    return "| " + " | ".join(values) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=int, nargs="+")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a key of the run (JSON value)")
    given = parser.parse_args()
    keys = {key: json.loads(value) for key, _, value in (item.partition("=") for item in given.set)}
    print(row(HEAD), row(["---:"] * len(HEAD)), sep="\n", flush=True)
    for count in given.counts:
        print(row(measure(count, keys)), flush=True)


if __name__ == "__main__":
    main()
