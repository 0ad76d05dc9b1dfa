"""What reports say of a run is what was done."""

import pytest

from knot_fed.config import RunConfig
from knot_fed.reporting.report import write_report
from knot_fed.runs.method import clients_answered, method_of, settings_in_words
from knot_fed.training.distillation import distillation_settings
from tests.reporting.made_up import change_summary, make_run


def told(**keys):
    config = RunConfig.from_mapping({key.replace("_", "."): value for key, value in keys.items()})
    return settings_in_words(distillation_settings(config))


@pytest.mark.parametrize("pooling", ["median", "trimmed-mean"])
def test_pooling_that_weighs_nobody_is_called_unweighted(pooling):
    said = told(weights_scheme="size", weights_pooling=pooling, distill_objective="pooled")
    assert f"unweighted {pooling}" in said
    assert "size" not in said
    assert "size weights" in told(weights_scheme="size")


def test_a_ground_cost_is_named_only_where_the_loss_reads_it():
    assert "augmented ground cost" in told(distill_loss="ot")
    assert "ground cost" not in told(distill_loss="entropy")


def test_cross_entropy_on_public_examples_and_agreement_are_told():
    said = told(distill_supervised=0.5, distill_agreement=2.0)
    assert "cross-entropy on public examples beside it (weight 0.5)" in said
    assert "texts weighed by agreement" in said
    assert "public" not in told()


def test_a_client_that_answered_some_rounds_counts_and_one_that_was_refused_does_not():
    clients = [{"status": "away", "rounds": 1}, {"status": "ok", "rounds": 2}, {"status": "refused: no", "rounds": 0}]
    assert clients_answered({"clients": clients}) == "2 of 3 clients answered"


def test_a_summary_of_before_counts_by_its_statuses():
    assert clients_answered({"clients": [{"status": "ok"}, {"status": "no answer"}]}) == "1 of 2 clients answered"


def test_the_time_of_a_resumed_run_is_not_set_against_the_whole_methods(tmp_path):
    folder = make_run(tmp_path, "run")
    change_summary(folder, resumed=True, wall_seconds=2.0)
    write_report(folder)
    page = (folder.path / "report.html").read_text()
    assert "2 s since it was resumed; 5.0 s in the method, from its start" in page
    assert "of them 5.0 s" not in page


def test_the_report_of_federated_averaging_tells_its_own_rounds_and_no_transfer_set(tmp_path):
    folder = make_run(tmp_path, "run")
    summary = folder.read_summary()
    del summary["distillation"]
    facts = {"rounds": 7, "epochs": 3, "kept": "the last round", "seconds": 1.0, "bytes_up_in_training": {}}
    folder.write_summary(summary | {"fedavg": facts})
    assert method_of(folder.read_summary()) == "federated averaging, 7 round(s) of 3 epoch(s)"
    (folder.path / "rounds.jsonl").unlink()
    write_report(folder)
    page = (folder.path / "report.html").read_text()
    assert "<dt>rounds</dt><dd>7</dd>" in page
    assert "transfer set" not in page
