"""Transfer sets of any size: keys, distinct texts and files in arrays mean what they meant text by text."""

import csv
import hashlib
import io
import json
import tracemalloc
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.data import transfer_set
from knot_fed.data.private import Columns
from knot_fed.data.reading.separated import LINE
from knot_fed.data.transfer_set import (
    MOST_LETTERS,
    MOST_TEXTS,
    TransferSet,
    check_sendable,
    distinct_texts,
    first_rows,
    load_transfer_set,
    read_transfer_set,
    save_transfer_set,
    text_key,
)
from knot_fed.errors import ConfigError

ODD = "aAbZ09_ßΣςİé\u0301\u200b\xad\0\x1f\x7f\x85 \t\n\r.!字ﬁ½😀"
TEXT = st.one_of(st.text(alphabet=ODD, max_size=12), st.text(max_size=12))
ROWS = 20_000


def key_by_definition(text):
    """Return a text's key with Unicode's tables for every character."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    signs = [
        sign
        for sign in unicodedata.normalize("NFKD", folded)
        if sign in "\t\n\r" or unicodedata.category(sign) not in transfer_set.UNSEEN
    ]
    words = " ".join(transfer_set.WORD.findall("".join(signs))) or " ".join(folded.split())
    return hashlib.sha256(json.dumps([words]).encode()).digest()[:16]


@given(TEXT)
def test_a_key_is_that_of_the_definition(text):
    assert text_key(text) == key_by_definition(text)


@given(st.lists(st.sampled_from(["one", "One!", "two", "tvo", "three", "?", "!"])))
def test_the_first_of_equal_texts_is_kept_and_its_key_is_not_computed_again(texts):
    firsts = {}
    for text in texts:
        firsts.setdefault(text_key(text), text)
    transfer = distinct_texts(texts)
    assert transfer.texts == tuple(firsts.values())
    assert transfer.repeated == len(texts) - len(firsts)
    assert [bytes(key) for key in transfer.keys] == list(firsts)
    assert transfer == TransferSet(transfer.texts)
    np.testing.assert_array_equal(transfer.keys, TransferSet(transfer.texts).keys)


@given(st.lists(st.integers(0, 3)), st.sampled_from([0, 7, 8, 15]))
def test_keys_that_differ_in_any_byte_are_distinct(values, place):
    keys = np.zeros((len(values), 16), dtype=np.uint8)
    keys[:, place] = values
    assert first_rows(keys).tolist() == sorted({value: values.index(value) for value in values}.values())


@pytest.mark.parametrize("texts", [("one", "zwei é 字😀"), (("one", "é"), ("two", ""))])
def test_texts_that_a_server_sent_are_found_again(texts, tmp_path):
    sent = TransferSet(texts)
    save_transfer_set(sent, tmp_path / "state" / "texts.json")
    assert load_transfer_set(tmp_path / "state" / "texts.json", fingerprint=sent.fingerprint) == sent
    assert (tmp_path / "state" / "texts.json").stat().st_size < 60


@given(st.text(alphabet='a,"\r\n\x0b\x0c\x85\u2028', max_size=20))
def test_lines_are_those_of_a_text_file(content):
    assert [line[0] for line in LINE.finditer(content)] == io.StringIO(content, newline="").readlines()


@pytest.mark.parametrize(
    ("transfer", "message"),
    [
        (TransferSet(("a",) * (MOST_TEXTS + 1)), "forum: 1000001 texts are more than 1000000"),
        (TransferSet((("a", "a"),) * (MOST_TEXTS + 1)), "forum: 1000001 texts are more than 1000000"),
        (TransferSet(("a", "x" * 100_001)), "forum: a text is longer than 100000 characters"),
        (TransferSet(("x" * 100_000,) * 3000), f"the texts have 300000000 characters, more than {MOST_LETTERS}"),
        (TransferSet((("a", "x" * 100_000),) * 3000), f"the texts have 300000000 characters, more than {MOST_LETTERS}"),
    ],
)
def test_texts_that_no_message_carries_are_refused_with_the_remedies(transfer, message):
    with pytest.raises(ConfigError, match=rf"{message}, which no message carries .* set data\.limit, .* node conf"):
        check_sendable(transfer, name="forum")


def test_a_million_sentences_are_sent():
    check_sendable(TransferSet(("x" * 268,) * MOST_TEXTS), name="forum")


def in_csv(path, texts):
    with path.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([["text", "label"], *((text, "1") for text in texts)])


def in_json_lines(path, texts):
    path.write_text("".join(json.dumps({"label": "1", "text": text}) + "\n" for text in texts), encoding="utf-8")


def in_parquet(path, texts):
    pq.write_table(
        pa.table({"text": texts, "label": ["1"] * len(texts)}), path, compression="none", use_dictionary=False
    )


@pytest.mark.parametrize(
    ("suffix", "write", "times"), [("csv", in_csv, 7), ("jsonl", in_json_lines, 5), ("parquet", in_parquet, 5)]
)
def test_reading_takes_a_small_multiple_of_the_file(suffix, write, times, tmp_path):
    texts = [f"sentence number {row} is about as long as many, and says little" for row in range(ROWS)]
    path = tmp_path / f"t.{suffix}"
    write(path, texts)
    read_transfer_set(path, columns=Columns())  # what is imported is not counted
    tracemalloc.start()
    try:
        transfer = read_transfer_set(path, columns=Columns())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert transfer.texts == tuple(texts)
    assert peak < times * path.stat().st_size, f"{peak / path.stat().st_size:.1f} times the file"
