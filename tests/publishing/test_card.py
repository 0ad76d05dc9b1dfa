import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from knot_fed import Federation
from knot_fed.publishing.card import read_card, write_run_card
from knot_fed.publishing.card_text import LONGEST, escaped, one_line
from knot_fed.publishing.export import export_student
from tests.conftest import small_config

ODD = ("a | b", "<b>x</b>", "*so* _so_", "c: d # e", "`tick` ~~x~~ [l](u) ![i](u)", "x" * 300)


def cells(card):
    """Return the text of every cell of every table, as a Markdown reader sees it."""
    tokens = MarkdownIt("commonmark").enable("table").parse(card)
    inside = [tokens[place + 1] for place, token in enumerate(tokens) if token.type == "td_open"]
    return ["".join(child.content for child in token.children or ()) for token in inside]


def test_a_run_writes_its_card_at_its_end(tmp_path):
    result = Federation(small_config(tmp_path, {"data.limit": 60})).run()
    card = read_card(result.folder / "student")
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.library_name == "knot-fed"
    assert card.data.license is None
    assert {found.dataset_name for found in card.data.eval_results} == set(result.summary["domains"])
    for heading in ("Labels", "How to use", "Training", "Data", "Metrics", "Privacy", "Limits", "Versions", "Citation"):
        assert re.search(rf"^## .*{heading}", card.text, re.MULTILINE | re.IGNORECASE)
    assert "no guarantee: soft labels leave without noise" in card.text
    assert "2110.02432" in card.text
    assert str(tmp_path) not in card.content


@given(st.text())
def test_a_name_is_one_line_of_plain_text(name):
    line = one_line(name)
    assert "\n" not in line
    assert len(line) <= LONGEST
    seen = MarkdownIt("commonmark").enable("table").parse(f"| h |\n| --- |\n| - {escaped(name)} |\n")
    found = [seen[place + 1] for place, token in enumerate(seen) if token.type == "td_open"]
    assert ["".join(child.content for child in token.children) for token in found] == [f"- {line}".rstrip()]


def test_names_with_markup_come_out_as_they_are(make_student_run):
    run = make_student_run()
    summary = run.read_summary()
    domains = dict(zip([*ODD[:3], "public"], summary["domains"].values(), strict=True))
    labels = ODD[:5]
    run.write_summary(summary | {"domains": domains, "labels": list(labels)})
    spec = run.student / "knot_fed.json"
    text = spec.read_text()
    for before, after in zip(summary["labels"], labels, strict=True):
        text = text.replace(f'"{before}"', f'"{after}"')
    spec.write_text(text)
    write_run_card(run)
    card = read_card(run.student)
    shown = cells(card.text)
    for name in (*labels, *ODD[:3]):
        assert name in shown
    assert {found.dataset_name for found in card.data.eval_results} == set(domains)
    assert "<b>" not in MarkdownIt("commonmark").render(card.text)


def test_the_code_of_a_card_works(tmp_path, make_student_run, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = make_student_run()
    export_student(run, tmp_path / "out")
    for folder, place in ((run.student, "FOLDER"), (tmp_path / "out", "out")):
        code = re.search(r"```python\n(.*?)```", read_card(folder).text, re.DOTALL)[1]
        assert f'"{place}"' in code
        exec(code.replace(f'"{place}"', repr(str(folder))).replace(", trust_remote_code=True", ""), {})
        said = capsys.readouterr().out
        assert all(label in said for label in run.read_summary()["labels"])


def test_the_guarantee_is_told_in_the_words_of_the_summary(make_student_run):
    privacy = {
        "mechanism": "dp-sgd", "guarantee": "epsilon 4 at delta 1e-05 for each record; covers everything",
        "epsilon": 4.0, "delta": 1e-5, "unit": "record", "neighbouring": "add or remove one record",
        "sensitivity": "clipping-norm", "accountant": "PRV", "compression": "uint8",
    }  # fmt: skip
    run = make_student_run(privacy=privacy)
    write_run_card(run)
    card = read_card(run.student).text
    assert "Guarantee: **epsilon 4 at delta 1e-05 for each record; covers everything**" in card
    assert {"epsilon", "4.0", "1e-05", "add or remove one record"} <= set(cells(card))
    assert "may reveal" not in card


@pytest.mark.parametrize("texts", [0, 300])
def test_intervals_need_texts_and_several_domains(make_student_run, texts):
    run = make_student_run()
    summary = run.read_summary()
    only = {"public": summary["domains"]["public"]}
    only["public"]["after"]["examples"] = texts
    run.write_summary(summary | {"domains": only})
    write_run_card(run)
    card = read_card(run.student).text
    assert "±" not in card
    assert (" to 0." in card) == bool(texts)
