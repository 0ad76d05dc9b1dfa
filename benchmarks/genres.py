"""Build a nominal task from pairs of sentences with genres: of which of ten genres is the first sentence?

    python -m benchmarks.genres ../shared/data/nli data/genres
    flower-simulation --app . --num-supernodes 4 --run-config simulations/genres.toml

The files are those of MultiNLI by genre (README of the folder). Each distinct first sentence is a text once, with the
split of its row; the second sentences and their labels are not read. The texts of each genre and split are dealt to
three files: `writers` (the clients share it, each with its own mix of genres), `public` and `transfer`.
"""

import argparse
import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

GENRES = {
    "telephone": "telephone conversation",
    "facetoface": "face-to-face conversation",
    "government": "government report",
    "nineeleven": "terrorism report",
    "letters": "fundraising letter",
    "travel": "travel guide",
    "slate": "magazine article",
    "oup": "scholarly book",
    "verbatim": "column on language",
    "fiction": "fiction",
}
"""Label names by the sources' own genres: what a reader would call them."""
SHARES = {"writers": 0.5, "public": 0.15, "transfer": 0.35}


def distinct_texts(rows: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Return text, label and split of each distinct first sentence, from its first row with a genre."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        text, genre = " ".join(row["text_a"].split()), row.get("genre", "")
        if genre in GENRES:
            found.setdefault(text, {"text": text, "label": GENRES[genre], "split": row["split"]})
    return list(found.values())


def deal(rows: list[dict[str, str]], *, seed: int, shares: Mapping[str, float]) -> dict[str, list[dict[str, str]]]:
    """Deal the texts of each label and split to the files in these proportions; their order is kept."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row["label"], row["split"]].append(place)
    generator, dealt = np.random.default_rng(seed), dict[str, list[int]]((name, []) for name in shares)
    bounds = np.cumsum([0.0, *shares.values()])
    for group in sorted(groups):
        shuffled = generator.permutation(groups[group])
        edges = np.round(bounds * len(shuffled)).astype(int)
        for name, start, stop in zip(shares, edges, edges[1:], strict=False):
            dealt[name] += shuffled[start:stop].tolist()
    return {name: [rows[place] for place in sorted(places)] for name, places in dealt.items()}


def build(source: Path, out: Path, *, seed: int, shares: Mapping[str, float] = SHARES) -> dict[str, int]:
    """Write a file for each share; return their numbers of texts."""
    rows = list[dict[str, str]]()
    for file in sorted(source.glob("mnli_*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            rows += map(json.loads, lines)
    out.mkdir(parents=True, exist_ok=True)
    dealt = deal(distinct_texts(rows), seed=seed, shares=shares)
    for name, chosen in dealt.items():
        with gzip.open(out / f"{name}.jsonl.gz", "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in chosen)
    return {name: len(chosen) for name, chosen in dealt.items()}


def main() -> None:
    """Build, and print the number of texts of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with mnli_*.jsonl.gz: text_a, genre and split")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--public", type=float, default=SHARES["public"], help="share of the public file; clients: rest"
    )
    arguments = parser.parse_args()
    if not any(arguments.source.glob("mnli_*.jsonl.gz")):
        parser.error(f"{arguments.source}: contains no mnli_*.jsonl.gz; give the folder of the data set")
    if not 0 < arguments.public < 1 - SHARES["transfer"]:
        parser.error(f"--public {arguments.public:g}: a share between 0 and {1 - SHARES['transfer']:g}")
    writers = 1 - SHARES["transfer"] - arguments.public
    shares = {"writers": writers, "public": arguments.public, "transfer": SHARES["transfer"]}
    for name, texts in build(arguments.source, arguments.out, seed=arguments.seed, shares=shares).items():
        print(f"{name}: {texts} texts")


if __name__ == "__main__":
    main()
