"""Conversion of rows of hub data sets into rows of the project's files, as pure functions on iterables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import TypeAlias

import numpy as np
from sklearn.model_selection import train_test_split

from knot_fed.data.private import limited_rows
from knot_fed.errors import DataError
from knot_fed.labels import LabelSpace

Row: TypeAlias = Mapping[str, object]
Splits: TypeAlias = Mapping[str, Iterable[Row]]
"""Rows of a data set, by the hub's split names."""

SEED = 2021
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
OFFICIAL = {"train": "train", "validation": "val", "test": "test"}
STARS = {stars: stars - 1 for stars in (1, 2, 3, 4, 5)}
TURNS, SEPARATOR = 8, " [SEP] "
EMOTIONS = {
    **dict.fromkeys(("anger", "ang"), "anger"),
    **dict.fromkeys(("happiness", "joy", "hap"), "happiness"),
    **dict.fromkeys(("neutral", "no emotion", "neu"), "neutral"),
    **dict.fromkeys(("sadness", "sad"), "sadness"),
    **dict.fromkeys(("surprise", "sur"), "surprise"),
}
"""Names in MELD, DailyDialog and IEMOCAP; excitement, frustration, fear and disgust are dropped, as in KNOT's code."""
NLI = ("entailment", "neutral", "contradiction")
GENRES = {
    "mnli_spoken": ("telephone", "facetoface"),
    "mnli_formal": ("government", "nineeleven", "oup"),
    "mnli_literary": ("fiction", "slate", "verbatim", "letters", "travel"),
}


@dataclass(frozen=True, slots=True)
class Converted:
    """Rows by file name, and the number of source rows that were dropped."""

    files: dict[str, list[dict[str, object]]]
    dropped: int


Convert: TypeAlias = Callable[..., Converted]
"""One of the functions below: makes the named files from splits, with at most `limit` rows each."""


def convert_reviews(splits: Splits, names: tuple[str, ...], *, limit: int) -> Converted:
    """Make one file of reviews from `text` and `rating`: label = stars - 1, cut 70/10/20, stratified by label.

    Rows without text or with other than 1 to 5 stars are dropped; reading stops at the limit. Raises `DataError` if a
    label has too few rows to be in each split.
    """
    (name,) = names
    rows: list[dict[str, object]] = []
    dropped = 0
    for row in chain.from_iterable(splits.values()):
        label = STARS.get(row["rating"])  # type: ignore[call-overload]
        text = _stripped(row["text"])
        if label is None or not text:
            dropped += 1
            continue
        rows.append({"text": text, "label": label})
        if len(rows) == limit:
            break
    parts = _stratified_parts([row["label"] for row in rows], name=name)
    return Converted({name: [row | {"split": part} for row, part in zip(rows, parts, strict=True)]}, dropped)


def convert_dialogues(splits: Splits, names: tuple[str, ...], *, limit: int) -> Converted:
    """Make files of dialogue turns from `dialogue`, `utterance` and `emotion`, and keep the official splits.

    Consecutive rows with the same `dialogue` are one dialogue; each split's dialogues are divided among the files in
    near-equal runs. See `dialogue_rows`.
    """
    files: dict[str, list[dict[str, object]]] = {name: [] for name in names}
    turns = 0
    for split, part in OFFICIAL.items():
        runs = [list(run) for _, run in groupby(splits.get(split, ()), key=itemgetter("dialogue"))]
        turns += sum(map(len, runs))
        for place, name in enumerate(names):
            for run in runs[len(runs) * place // len(names) : len(runs) * (place + 1) // len(names)]:
                files[name] += [row | {"split": part} for row in dialogue_rows(run)]
    dropped = turns - sum(map(len, files.values()))
    return Converted({name: _limited(rows, limit) for name, rows in files.items()}, dropped)


def dialogue_rows(turns: Iterable[Row]) -> list[dict[str, object]]:
    """Return text and label of the turns of one dialogue with one of the five emotions.

    A text is a turn and up to seven turns before it, newest first, joined by ` [SEP] `. Turns with other emotions are
    context only; empty turns are ignored.

    Examples
    --------
    >>> dialogue_rows([{"utterance": "Boo!", "emotion": "fear"}, {"utterance": "Oh!", "emotion": "sur"}])
    [{'text': 'Oh! [SEP] Boo!', 'label': 4}]
    """
    labels = LabelSpace.preset("emotion").names
    said: list[str] = []
    rows: list[dict[str, object]] = []
    for turn in turns:
        if words := _stripped(turn["utterance"]):
            said.append(words)
            emotion = EMOTIONS.get(str(turn["emotion"]))
            if emotion:
                rows.append({"text": SEPARATOR.join(said[: -TURNS - 1 : -1]), "label": labels.index(emotion)})
    return rows


def convert_genres(splits: Splits, names: tuple[str, ...], *, limit: int) -> Converted:
    """Make a file for each named group of `GENRES` from `premise`, `hypothesis`, `label` and `genre`.

    Each file is cut 70/10/20 by premise.
    """
    pairs, dropped = _pairs(splits)
    owners = {genre: name for name in names for genre in GENRES[name]}
    files = {name: [row for row in pairs if owners.get(str(row["genre"])) == name] for name in names}
    dropped += len(pairs) - sum(map(len, files.values()))
    return Converted({name: _cut_by_premise(_limited(rows, limit)) for name, rows in files.items()}, dropped)


def convert_pairs(splits: Splits, names: tuple[str, ...], *, limit: int) -> Converted:
    """Make files of pairs from `premise`, `hypothesis` and `label`, divided by premise in equal shares.

    Each file is cut 70/10/20 by premise.
    """
    pairs, dropped = _pairs(splits)
    owners = deal_groups([str(row["text_a"]) for row in pairs], dict.fromkeys(names, 1 / len(names)))
    files: dict[str, list[dict[str, object]]] = {name: [] for name in names}
    for row, name in zip(pairs, owners, strict=True):
        files[name].append(row)
    return Converted({name: _cut_by_premise(_limited(rows, limit)) for name, rows in files.items()}, dropped)


def deal_groups(groups: Sequence[str], shares: Mapping[str, float]) -> list[str]:
    """Assign each row's group to a name at random, the same in every run; `shares` of the names sum to 1.

    Examples
    --------
    >>> sorted(set(deal_groups(["a", "b", "a"], {"one": 0.5, "two": 0.5})))
    ['one', 'two']
    """
    distinct = list(dict.fromkeys(groups))
    order = np.random.default_rng(SEED).permutation(len(distinct))
    places = np.searchsorted(np.cumsum(list(shares.values())), (np.arange(len(distinct)) + 0.5) / len(distinct))
    names = list(shares)
    owner = {distinct[group]: names[place] for group, place in zip(order, places, strict=True)}
    return [owner[group] for group in groups]


def _pairs(splits: Splits) -> tuple[list[dict[str, object]], int]:
    labels = LabelSpace.preset("nli").names
    pairs: list[dict[str, object]] = []
    dropped = 0
    for row in chain.from_iterable(splits.values()):
        texts = {"text_a": _stripped(row["premise"]), "text_b": _stripped(row["hypothesis"])}
        label = row["label"]
        if isinstance(label, int) and 0 <= label < len(NLI) and all(texts.values()):
            pairs.append({**texts, "label": labels.index(NLI[label]), "genre": row.get("genre", "")})
        else:
            dropped += 1
    return pairs, dropped


def _cut_by_premise(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    parts = deal_groups([str(row["text_a"]) for row in rows], SHARES)
    return [row | {"split": part} for row, part in zip(rows, parts, strict=True)]


def _stratified_parts(labels: Sequence[object], *, name: str) -> list[str]:
    rows = np.arange(len(labels))
    parts = np.full(len(labels), "train", dtype=object)
    tested = round(SHARES["test"] * len(labels))
    held = round(SHARES["val"] * len(labels)) + tested
    try:
        _, rest = train_test_split(rows, test_size=held, stratify=labels, random_state=SEED)
        _, test = train_test_split(rest, test_size=tested, stratify=[labels[row] for row in rest], random_state=SEED)
    except ValueError:
        raise DataError(
            f"{name}: {len(labels)} rows, too few of some label to train, validate and test on; raise --limit"
        ) from None
    parts[rest] = "val"
    parts[test] = "test"
    return parts.tolist()


def _limited(rows: list[dict[str, object]], limit: int) -> list[dict[str, object]]:
    return [rows[row] for row in limited_rows(len(rows), limit)]


def _stripped(text: object) -> str:
    return text.strip() if isinstance(text, str) else ""
