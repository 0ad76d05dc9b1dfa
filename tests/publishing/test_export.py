import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.errors import ModelError, RunFolderError
from knot_fed.models import write_portable
from knot_fed.publishing import export as exporting
from knot_fed.publishing.export import MARKER, export_student
from knot_fed.publishing.onnx_model import onnx_probabilities
from knot_fed.training.teacher import predict_soft_labels
from tests.models.tiny_models import write_family


def run_command(*words):
    return CliRunner().invoke(app, ["export", *map(str, words)])


def test_the_command_writes_a_whole_folder_and_replaces_only_an_earlier_export(tmp_path, make_student_run):
    run, out = make_student_run(), tmp_path / "out"
    for _ in range(2):
        result = run_command(run.path, "--to", out)
        assert result.exit_code == 0, result.output
        assert "probabilities differ" in result.stdout
    names = {file.name for file in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer_config.json", "README.md", MARKER} < names
    assert set(json.loads((out / MARKER).read_text())["files"]) == names - {MARKER}
    assert not list(tmp_path.glob(".partial*"))
    (out / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"contains notes\.txt, which no export wrote; move it away"):
        export_student(run, out)
    assert (out / "notes.txt").read_text() == "mine"


def test_a_folder_with_other_files_is_refused(tmp_path, make_student_run):
    run = make_student_run()
    before = {file: file.read_bytes() for file in run.student.iterdir()}
    with pytest.raises(RunFolderError, match="is not empty, and not an earlier export; give a new folder"):
        export_student(run, run.student)
    assert {file: file.read_bytes() for file in run.student.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is a file; give a new folder"):
        export_student(run, tmp_path / "file")


def test_an_export_that_answers_otherwise_is_refused_and_leaves_nothing(tmp_path, make_student_run, monkeypatch):
    def spoilt(model, folder):
        code = write_portable(model, folder)
        state = load_file(folder / "model.safetensors")
        state["head.bias"][0] += 1e-3
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return code

    monkeypatch.setattr(exporting, "write_portable", spoilt)
    with pytest.raises(ModelError, match="the pipeline gives other probabilities than the student"):
        export_student(make_student_run(), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_a_failed_run_has_nothing_to_export(tmp_path, make_student_run):
    run = make_student_run(error="1 of 3 clients answered", status="failed")
    with pytest.raises(RunFolderError, match="the run failed, so its student is not whole"):
        export_student(run, tmp_path / "out")


def test_a_moved_run_whose_encoder_is_gone_is_explained_by_predict_and_export(tmp_path, make_student_run):
    write_family(tmp_path / "encoder", "bert")
    run = make_student_run(model=f"hf:{tmp_path / 'encoder'}", trainable="head")
    shutil.rmtree(tmp_path / "encoder")
    for words in (["predict", str(run.path), "--text", "a"], ["export", str(run.path), "--to", str(tmp_path / "out")]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "that folder is gone; put it back" in result.stderr


@pytest.mark.parametrize(
    ("model", "trainable", "paired"), [("roberta", "head", True), ("bert", "all", False), ("ngram-bag", "all", False)]
)
def test_onnx_gives_the_probabilities_in_batches_of_unequal_lengths(
    tmp_path, make_student_run, model, trainable, paired
):
    pytest.importorskip("onnxruntime")
    if model != "ngram-bag":
        write_family(tmp_path / "encoder", model)
        model = f"hf:{tmp_path / 'encoder'}"
    run = make_student_run(model=model, trainable=trainable, paired=paired)
    found = export_student(run, tmp_path / "out", onnx=True)
    assert found.onnx_difference < 1e-6
    texts = exporting.sample_texts(paired=paired)[:7]
    student = exporting.load_classifier(run.student)
    rows = onnx_probabilities(tmp_path / "out", texts, batch_size=3)
    assert np.abs(rows - predict_soft_labels(student, texts)).max() < 1e-6


def test_onnx_without_its_packages_is_refused_before_anything_is_written(tmp_path, make_student_run, monkeypatch):
    monkeypatch.setattr("knot_fed.publishing.onnx_model.NEEDED", ("onnx", "no_such_package"))
    result = run_command(make_student_run().path, "--to", tmp_path / "out", "--onnx")
    assert result.exit_code == 1
    assert result.stderr == "knot-fed: --onnx needs no_such_package; install with pip install 'knot-fed[onnx]'\n"
    assert not (tmp_path / "out").exists()


def test_options_that_belong_together(tmp_path, make_student_run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    run = make_student_run().path
    for words, said in (
        (["--private"], "give --push-to-hub OWNER/NAME too"),
        (["--push-to-hub", "name"], "is not of the form OWNER/NAME; give both parts"),
    ):
        result = run_command(run, "--to", tmp_path / "out", *words)
        assert result.exit_code == 1
        assert said in result.stderr
    assert not (tmp_path / "out").exists()
