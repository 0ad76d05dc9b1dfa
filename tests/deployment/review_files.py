"""Small files of the built-in reviews, as clients and a server hold them."""

import csv

from knot_fed.data.reviews import builtin_examples, builtin_texts
from knot_fed.data.transfer_set import distinct_texts
from knot_fed.labels import LabelSpace

ROWS, TEXTS = 120, 400


def write_server_files(folder):
    """Write a public labelled file and a transfer set, small ones."""
    folder.mkdir()
    write_reviews(folder / "books.csv", "books")
    with (folder / "forum.csv").open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows(
            [["text"], *([text] for text in distinct_texts(builtin_texts("forum")).texts[:TEXTS])]
        )


def write_reviews(file, domain):
    """Write some of a domain's built-in reviews as a labelled file with text, label and split."""
    labels = LabelSpace.preset("sentiment")
    examples = builtin_examples(domain, labels)
    with file.open("w", encoding="utf-8", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["text", "label", "split"])
        for part in ("train", "val", "test"):
            split = getattr(examples, part)
            rows.writerows(
                [text, labels.names[label], part]
                for text, label in zip(split.texts[:ROWS], split.labels[:ROWS].tolist(), strict=True)
            )
