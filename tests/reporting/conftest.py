import pytest

from tests.browsers import browser as browser
from tests.reporting.made_up import make_run, make_sweep


@pytest.fixture
def emotion_run(tmp_path):
    return make_run(tmp_path / "runs", "emotion")


@pytest.fixture
def sweep(tmp_path):
    return make_sweep(tmp_path / "sweep")
