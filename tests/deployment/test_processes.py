import pytest

from tests.deployment.members import left_over
from tests.deployment.real_federation import federation

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("tls", [False, pytest.param(True, marks=pytest.mark.long)], ids=["insecure", "tls"])
def test_a_real_federation_completes_and_leaves_no_process(tmp_path, tls):
    with federation(tmp_path, "phones", "restaurants", tls=tls) as real:
        run = real.submit()
        ended = run.wait()
        assert ended.completed, run.text()
        assert run.statuses() == {"phones": "ok", "restaurants": "ok"}
    assert not left_over(real.folder)
