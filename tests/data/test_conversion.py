from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knot_fed.data.prepare.conversion import (
    EMOTIONS,
    GENRES,
    SHARES,
    convert_dialogues,
    convert_genres,
    convert_pairs,
    convert_reviews,
    deal_groups,
)
from knot_fed.errors import DataError
from knot_fed.labels import LabelSpace

OFFICIAL = {"train": "train", "validation": "val", "test": "test"}
QUARTERS = ("zero", "one", "two", "three")
EMOTION_NAMES = LabelSpace.preset("emotion").names
NLI_NAMES = LabelSpace.preset("nli").names


def reviews(count, **changes):
    return [{"text": f" review {i} ", "rating": float(i % 5 + 1), **changes} for i in range(count)]


def converted_reviews(rows, limit=0):
    result = convert_reviews({"train": rows}, ("toys",), limit=limit)
    return result.files["toys"], result.dropped


@st.composite
def dialogues(draw):
    """Official splits of dialogues, each a list of emotions; each utterance states its position."""
    emotions = st.sampled_from([*EMOTIONS, "fear", "exc", "xxx"])
    return {split: draw(st.lists(st.lists(emotions, min_size=1, max_size=12), max_size=9)) for split in OFFICIAL}


def turns_of(plan):
    return {
        split: [
            {"dialogue": str(place), "utterance": f"{split}/{place}/{turn}", "emotion": emotion}
            for place, run in enumerate(runs)
            for turn, emotion in enumerate(run)
        ]
        for split, runs in plan.items()
    }


def pairs(premises, each=3, **columns):
    return [
        {"premise": f"premise {p}", "hypothesis": f"hypothesis {p} {h}", "label": h % 3, **columns}
        for p in range(premises)
        for h in range(each)
    ]


def test_a_review_of_n_stars_has_label_n_minus_one():
    rows, dropped = converted_reviews(reviews(100))
    assert dropped == 0
    assert {(row["text"], row["label"]) for row in rows} == {(f"review {i}", i % 5) for i in range(100)}


def test_reviews_are_cut_70_10_20_stratified_by_label():
    rows, _ = converted_reviews(reviews(500))
    assert Counter((row["split"], row["label"]) for row in rows) == {
        (part, label): round(100 * share) for part, share in SHARES.items() for label in range(5)
    }


@pytest.mark.parametrize(
    "changes", [{"rating": 0.0}, {"rating": 4.5}, {"rating": None}, {"text": "  "}, {"text": None}], ids=str
)
def test_reviews_without_stars_or_words_are_dropped_and_counted(changes):
    rows, dropped = converted_reviews(reviews(50) + reviews(7, **changes))
    assert (len(rows), dropped) == (50, 7)


def test_reading_stops_at_the_limit():
    def endless():
        while True:
            yield from reviews(5)

    rows, dropped = converted_reviews(endless(), limit=100)
    assert (len(rows), dropped) == (100, 0)


@pytest.mark.parametrize("count", [0, 1, 6])
def test_too_few_reviews_to_split_are_refused(count):
    with pytest.raises(DataError, match=f"toys: {count} rows, too few of some label"):
        converted_reviews(reviews(count))


@given(dialogues())
@settings(max_examples=60)
def test_contexts_are_newest_first_of_one_dialogue_and_at_most_eight_turns(plan):
    files = convert_dialogues(turns_of(plan), ("all",), limit=0).files
    for row in files["all"]:
        split, dialogue, newest = row["text"].split(" [SEP] ")[0].split("/")
        expected = [f"{split}/{dialogue}/{turn}" for turn in range(int(newest), max(int(newest) - 8, -1), -1)]
        assert row["text"].split(" [SEP] ") == expected


@given(dialogues())
@settings(max_examples=60)
def test_quarters_are_cut_at_dialogue_borders_and_cover_every_turn_once(plan):
    result = convert_dialogues(turns_of(plan), QUARTERS, limit=0)
    newest = [
        (name, row["text"].split(" [SEP] ")[0], row["split"], row["label"])
        for name in QUARTERS
        for row in result.files[name]
    ]
    every = {
        f"{split}/{place}/{turn}": EMOTION_NAMES.index(EMOTIONS[emotion])
        for split, runs in plan.items()
        for place, run in enumerate(runs)
        for turn, emotion in enumerate(run)
        if emotion in EMOTIONS
    }
    assert {text: label for _, text, _, label in newest} == every
    assert len(newest) == len(every)
    assert result.dropped == sum(len(run) for runs in plan.values() for run in runs) - len(every)
    for _, group in groupby(sorted((text.rpartition("/")[0], name) for name, text, _, _ in newest), lambda at: at[0]):
        assert len({name for _, name in group}) == 1
    assert all(part == OFFICIAL[text.split("/")[0]] for _, text, part, _ in newest)


def test_quarters_hold_near_equal_numbers_of_dialogues():
    plan = {split: [["neutral"] * 3] * 10 for split in OFFICIAL}
    files = convert_dialogues(turns_of(plan), QUARTERS, limit=0).files
    assert [len(files[name]) for name in QUARTERS] == [18, 27, 18, 27]


def test_turns_of_other_emotions_stay_in_contexts():
    turns = [("Boo!", "fear"), ("Oh!", "surprise"), (None, "neutral"), ("Hm.", "fru"), ("Ha!", "hap")]
    rows = [{"dialogue": "1", "utterance": text, "emotion": emotion} for text, emotion in turns]
    result = convert_dialogues({"train": rows}, ("all",), limit=0)
    assert result.files["all"] == [
        {"text": "Oh! [SEP] Boo!", "label": 4, "split": "train"},
        {"text": "Ha! [SEP] Hm. [SEP] Oh! [SEP] Boo!", "label": 1, "split": "train"},
    ]
    assert result.dropped == 3


def test_a_dialogue_number_that_comes_again_is_another_dialogue():
    rows = [{"dialogue": number, "utterance": text, "emotion": "joy"} for number, text in (("1", "a"), ("2", "b"))]
    files = convert_dialogues({"train": [*rows, {**rows[0], "utterance": "c"}]}, ("all",), limit=0).files
    assert [row["text"] for row in files["all"]] == ["a", "b", "c"]


def test_a_limit_keeps_whole_contexts_of_that_many_rows():
    plan = turns_of({"train": [["joy"] * 6] * 20})
    every = convert_dialogues(plan, ("all",), limit=0).files["all"]
    kept = convert_dialogues(plan, ("all",), limit=50).files["all"]
    assert len(kept) == 50
    assert [row for row in every if row in kept] == kept


def test_every_emotion_name_leads_to_one_of_the_five():
    assert set(EMOTIONS.values()) == set(EMOTION_NAMES)
    assert not {"exc", "fru", "fea", "dis", "fear", "disgust", "oth", "xxx"} & set(EMOTIONS)


def test_the_hubs_label_order_is_turned_into_ours():
    files = convert_pairs({"train": pairs(40)}, ("a", "b"), limit=0).files
    names = {row["text_b"].split()[-1]: NLI_NAMES[row["label"]] for rows in files.values() for row in rows}
    assert names == {"0": "entailment", "1": "neutral", "2": "contradiction"}


@given(st.lists(st.integers(0, 30), min_size=1, max_size=120))
@settings(max_examples=40)
def test_a_premise_is_in_one_half_and_one_split_only_and_no_pair_is_lost(premises):
    rows = [{"premise": f"p{p}", "hypothesis": f"h{i}", "label": i % 3} for i, p in enumerate(premises)]
    files = convert_pairs({"train": rows[::2], "test": rows[1::2]}, ("a", "b"), limit=0).files
    places = {(row["text_a"], name, row["split"]) for name, kept in files.items() for row in kept}
    assert len(places) == len(set(premises))
    assert sorted(row["text_b"] for kept in files.values() for row in kept) == sorted(row["hypothesis"] for row in rows)


def test_halves_and_splits_have_their_shares_of_the_premises():
    files = convert_pairs({"train": pairs(200)}, ("a", "b"), limit=0).files
    for rows in files.values():
        assert Counter(row["split"] for row in rows) == {"train": 210, "val": 30, "test": 60}


@pytest.mark.parametrize("changes", [{"label": -1}, {"label": None}, {"hypothesis": ""}, {"premise": None}], ids=str)
def test_pairs_without_label_or_words_are_dropped_and_counted(changes):
    rows = pairs(10) + [{**row, **changes} for row in pairs(2)]
    result = convert_pairs({"train": rows}, ("a", "b"), limit=0)
    assert (sum(map(len, result.files.values())), result.dropped) == (30, 6)


def test_genres_go_to_their_client_and_unknown_ones_are_dropped():
    genres = [genre for group in GENRES.values() for genre in group]
    splits = {
        genre: [{**row, "premise": f"{genre} {row['premise']}"} for row in pairs(10, genre=genre)] for genre in genres
    }
    result = convert_genres({**splits, "other": pairs(4, genre="poetry")}, tuple(GENRES), limit=0)
    assert {name: {row["genre"] for row in rows} for name, rows in result.files.items()} == {
        name: set(group) for name, group in GENRES.items()
    }
    assert sum(map(len, result.files.values())) == 30 * len(genres)
    assert result.dropped == 12


def test_a_limit_on_pairs_is_cut_after_it():
    files = convert_pairs({"train": pairs(200, each=1)}, ("a", "b"), limit=50).files
    assert [Counter(row["split"] for row in rows) for rows in files.values()] == [
        {"train": 35, "val": 5, "test": 10}
    ] * 2


@given(st.lists(st.text(max_size=2)))
def test_groups_are_dealt_whole_and_the_same_every_time(groups):
    dealt = deal_groups(groups, SHARES)
    assert len(set(zip(groups, dealt, strict=True))) == len(set(groups))
    assert dealt == deal_groups(groups, SHARES)
