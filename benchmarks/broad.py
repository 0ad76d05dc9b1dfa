"""Build transfer sets of more kinds of public texts, for the recipe of simulations/recipe.toml.

    python -m benchmarks.broad ../shared/data data/broad --encoder hf:sentence-transformers/all-MiniLM-L6-v2
    knot-fed sweep simulations/sentiment-minilm.toml simulations/recipe.toml \
        'data.root=data/broad/sentiment data.transfer=broad' --grid "distill.loss=ot,entropy"

A student learns only where clients answer, and the clients' texts are unlike one public file. So the transfer set of a
task gets texts of the other tasks' public roles: film reviews, captions, dialogue turns. No client's file is read but
linked into the new folder, and no label is kept. Pairs are made of sentences that are near to each other, by the
encoder: most pairs of unrelated sentences would be neutral.
"""

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.neighbors import NearestNeighbors

from knot_fed.errors import ConfigError, KnotError
from knot_fed.models import ModelSpec, build_classifier

OTHERS = 2150
"""Texts of each foreign kind in a transfer set of single texts."""
PAIRS, NEAREST = 6000, 20
"""Made pairs, and the rank by cosine of the second sentence, at most."""

BROAD = "broad.jsonl.gz"


def public_rows(folder: Path, name: str, *, split: str = "") -> list[dict[str, str]]:
    """Return the rows of a file, of one split if it is given."""
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row for row in rows if not split or row["split"] == split]


def drawn(texts: Sequence[str], count: int, *, seed: int) -> list[str]:
    """Draw distinct texts without replacement, at most `count`."""
    distinct = list(dict.fromkeys(texts))
    return [distinct[row] for row in np.random.default_rng(seed).permutation(len(distinct))[:count]]


def near_pairs(sentences: Sequence[str], encoder: str, *, count: int, seed: int) -> list[tuple[str, str]]:
    """Pair sentences with one of their nearest neighbours by cosine, of a rank from 1 to `NEAREST`."""
    model = build_classifier(ModelSpec(encoder, "head", ("a", "b"), paired=False, max_length=128), seed=0)
    features = model.frozen_features
    assert features is not None, "a head has frozen features"
    generator = np.random.default_rng(seed)
    rows = features(sentences)
    chosen = generator.permutation(len(sentences))[:count]
    nearest = NearestNeighbors(n_neighbors=min(NEAREST + 1, len(sentences)), metric="cosine").fit(rows)
    pairs = []
    for row, near in zip(chosen, nearest.kneighbors(rows[chosen], return_distance=False), strict=True):
        others = [other for other in near if other != row]
        pairs.append((sentences[row], sentences[others[generator.integers(len(others))]]))
    return pairs


def build(source: Path, out: Path, encoder: str, *, seed: int = 1) -> dict[str, int]:
    """Write the folders `sentiment` and `nli`, and return the number of rows of each transfer set."""
    if out.resolve() == source.resolve():
        raise ConfigError(f"{out}: is the folder of the data too; name a new one")
    films = {name: public_rows(source / "sentiment", name) for name in ("movie_a", "movie_b")}
    reviews = [row["text"] for row in films["movie_b"]]
    reviews += [row["text"] for row in films["movie_a"] if row["split"] == "train"]
    captions = {"snli_b": public_rows(source / "nli", "snli_b")}
    captions["snli_a"] = public_rows(source / "nli", "snli_a", split="train")
    turns = [row["text"].split(" [SEP] ")[0] for row in public_rows(source / "emotion", "dailydialog_3")]
    hypotheses = [row["text_b"] for rows in captions.values() for row in rows]
    singles = [*reviews, *drawn(hypotheses, OTHERS, seed=seed), *drawn(turns, OTHERS, seed=seed)]
    sentences = list(dict.fromkeys([*reviews, *turns]))
    pairs = [(row["text_a"], row["text_b"]) for rows in captions.values() for row in rows]
    pairs += near_pairs(sentences, encoder, count=PAIRS, seed=seed)
    written = {
        "sentiment": [{"text": text} for text in dict.fromkeys(singles)],
        "nli": [{"text_a": first, "text_b": second} for first, second in dict.fromkeys(pairs)],
    }
    for task, rows in written.items():
        _write(source / task, out / task, rows)
    return {task: len(rows) for task, rows in written.items()}


def _write(source: Path, folder: Path, rows: Sequence[dict[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for link in folder.glob("*.jsonl.gz"):
        if link.is_symlink():  # of another source
            link.unlink()
    for file in source.glob("*.jsonl.gz"):
        if file.name != BROAD and not (folder / file.name).exists():
            (folder / file.name).symlink_to(file.resolve())
    with gzip.open(folder / BROAD, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def main() -> None:
    """Build the folders, and print the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with sentiment, nli and emotion, as in simulations/README.md")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--encoder", required=True, help="hf:<hub id or folder>")
    given = parser.parse_args()
    try:
        print(build(given.source, given.out, given.encoder))
    except KnotError as error:
        parser.error(f"{error}")
    except FileNotFoundError as error:
        parser.error(f"{error.filename}: no such file; give the folder of the three tasks' data")


if __name__ == "__main__":
    main()
