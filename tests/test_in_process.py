"""What a run in Python returns: predictions, answers, tables, and another student from the same answers."""

import io
import json
from contextlib import redirect_stdout

import numpy as np
import pytest

from knot_fed import Federation
from knot_fed.errors import ConfigError, RunFolderError
from tests.conftest import small_config
from tests.deployment.review_files import write_reviews, write_server_files

QUICK = {"teacher.epochs": 1, "distill.epochs": 1, "name": "first"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("python")
    write_server_files(folder / "data")
    for name in ("phones", "hotels"):
        write_reviews(folder / "data" / f"{name}.csv", name)
    keys = {"data.root": str(folder / "data"), "data.clients": "phones,hotels"}
    return folder, keys | {"data.public": "books", "data.transfer": "forum"} | QUICK


@pytest.fixture(scope="module")
def ran(files):
    """A run of two clients in two rounds, what it passed to `echo`, and what it printed."""
    folder, keys = files
    told, printed = [], io.TextIOWrapper(io.BytesIO(), write_through=True)
    with redirect_stdout(printed):
        result = Federation(small_config(folder, keys | {"rounds": 2})).run(echo=told.append)
    return result, told, printed.buffer.getvalue()


def test_a_run_passes_short_notes_to_echo_and_prints_nothing_else(ran):
    _, told, printed = ran
    assert printed == b""
    assert "knot_fed: round 1: 2 of 2 clients answered" in told
    assert not any("event=" in line for line in told)


def test_the_run_folder_has_the_whole_log(ran):
    assert "event=sent" in (ran[0].folder / "run.log").read_text()


def test_answers_and_pooled_are_rows_of_the_transfer_texts_in_all_rounds(ran):
    result = ran[0]
    texts = len(result.transfer_texts)
    assert sorted(result.answers) == ["hotels", "phones"]
    for rows in [*result.answers.values(), result.pooled]:
        assert rows.shape == (texts, len(result.labels))
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-4)
    low, high = np.min([*result.answers.values()], axis=0), np.max([*result.answers.values()], axis=0)
    pretrained = ran[0].config.student.pretrain  # one more teacher, so pooled rows may leave the clients' range
    assert pretrained or ((result.pooled >= low - 1e-6) & (result.pooled <= high + 1e-6)).all()


def test_the_student_predicts_a_distribution_over_the_labels(ran):
    rows = ran[0].predict(["The room was clean.", "The battery is dead."])
    assert rows.shape == (2, len(ran[0].labels))
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(ConfigError, match="is one string; give a list"):
        ran[0].predict("The room was clean.")


def test_a_result_is_shown_as_its_tables(ran, monkeypatch):
    result = ran[0]
    after = f"{result.summary['student']['after']['sd']:.3f}"
    for shown in (repr(result), result._repr_html_()):
        assert after in shown
        assert "hotels" in shown
    assert repr(result).endswith(f"run folder: {result.folder}")
    monkeypatch.chdir(result.folder.parents[1])
    assert repr(result).endswith("\nrun folder: runs/first")
    assert result._repr_html_().count("<tr>") == 1 + len(result.summary["domains"]) + 1


def test_names_from_files_are_escaped_in_html(ran):
    summary = json.loads(json.dumps(ran[0].summary))
    summary["domains"]["<script>"] = summary["domains"]["hotels"]
    shown = type(ran[0])(summary, ran[0].student, ran[0].folder)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_another_student_comes_from_the_same_answers_and_equals_that_of_a_run_of_its_own(ran, files):
    result = ran[0]
    other = result.distil(echo=None, distill={"loss": "entropy", "batch_size": 64}, name="second")
    assert other.summary["distillation"]["loss"] == "entropy"
    assert other.summary["answers_of"] == "first"
    keys = {"distill.loss": "entropy", "distill.batch-size": 64, "name": "alone", "rounds": 2}
    alone = Federation(small_config(files[0], files[1] | keys)).run(echo=None)
    assert alone.summary["domains"] == other.summary["domains"]


def test_a_setting_that_changes_the_answers_is_refused_by_name(ran):
    with pytest.raises(ConfigError, match=r"asked under another teacher\.epochs"):
        ran[0].distil(teacher={"epochs": 2})
    with pytest.raises(ConfigError, match="losss"):
        ran[0].distil(distill={"losss": "entropy"})


def test_answers_that_are_not_kept_are_missed_in_one_sentence(files):
    folder, keys = files
    result = Federation(small_config(folder, keys | {"keep-answers": False, "name": "none"})).run(echo=None)
    with pytest.raises(RunFolderError, match="keep-answers = false"):
        _ = result.answers


def test_a_federation_is_shown_with_its_clients():
    assert repr(Federation()) == "Federation(sentiment: ot loss, clients phones, restaurants, hotels)"
