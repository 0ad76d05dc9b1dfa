import pytest

from knot_fed.models import ModelSpec, build_classifier, save_classifier
from tests.reporting.made_up import make_run


@pytest.fixture
def make_student_run(tmp_path):
    """Write a run folder, made up but for its student."""

    def make(name="hotels", model="ngram-bag", *, trainable="all", paired=False, task="emotion", **changed):
        run = make_run(tmp_path / "runs", name, task=task)
        summary = run.read_summary() | changed
        run.write_summary(summary)
        spec = ModelSpec(model, trainable, tuple(summary["labels"]), paired, 16)
        save_classifier(build_classifier(spec, seed=1), run.student)
        return run

    return make
