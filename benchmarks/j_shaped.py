"""Resample labelled files to the J shape of star reviews: half of all rows in the highest class, few in the middle.

    python -m benchmarks.j_shaped ../shared/data/sentiment data/j-shaped
    flower-simulation --app . --num-supernodes 3 --run-config simulations/j-shaped.toml

Rows are drawn without replacement, in the same way in each split, as many as the scarcest class allows; their order
is kept.
"""

import argparse
import gzip
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

SHARES = (0.15, 0.10, 0.075, 0.175, 0.50)
"""By class, in order: as on review sites, chosen so that the scarce middle class of sentiment loses no rows."""


def resample(rows: list[dict[str, object]], *, seed: int) -> list[dict[str, object]]:
    """Return the largest subset in which the classes have these shares in each split, up to rounding.

    Parameters
    ----------
    rows
        Each with `label`, an index, and `split`.
    seed
        Seed of the draw.
    """
    places: dict[tuple[object, int], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row["split"], int(str(row["label"]))].append(place)
    generator, chosen = np.random.default_rng(seed), list[int]()
    for split in sorted({str(split) for split, _ in places}):
        size = min(len(places[split, label]) / share for label, share in enumerate(SHARES))
        for label, share in enumerate(SHARES):
            chosen += generator.permutation(places[split, label])[: round(size * share)].tolist()
    return [rows[place] for place in sorted(chosen)]


def resample_folder(source: Path, out: Path, *, seed: int) -> dict[str, list[int]]:
    """Resample every file of a folder into another; return the number of training rows per class, by file."""
    out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, list[int]] = {}
    for file in sorted(source.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            kept = resample([json.loads(line) for line in lines], seed=seed)
        with gzip.open(out / file.name, "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in kept)
        trained = [int(str(row["label"])) for row in kept if row["split"] == "train"]
        counts[file.name] = np.bincount(trained, minlength=len(SHARES)).tolist()
    return counts


def main() -> None:
    """Resample, and print the training rows of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of .jsonl.gz files with text, label (0 to 4) and split")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not any(arguments.source.glob("*.jsonl.gz")):
        parser.error(f"{arguments.source}: contains no .jsonl.gz file; give the folder of the data set")
    for name, counts in resample_folder(arguments.source, arguments.out, seed=arguments.seed).items():
        print(f"{name}: {sum(counts)} training rows, by class {counts}")


if __name__ == "__main__":
    main()
