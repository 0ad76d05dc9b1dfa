"""What a client and a server keep is their owner's alone, whatever the umask says."""

import os
import stat
from pathlib import Path

import pytest

from knot_fed.runs.run_folder import RunFolder
from tests.conftest import small_config
from tests.deployment.review_files import write_reviews
from tests.fakes import context, virtual_clients
from tests.federation.client.test_hostile_servers import QUICK, ask, handshake, request, student
from tests.federation.server.test_roster import KEYS, run

pytestmark = pytest.mark.slow


@pytest.fixture
def hospital(tmp_path):
    """A real node with a private file, and a run's settings by key."""
    write_reviews(tmp_path / "private.csv", "phones")

    def build(**keys):
        paths = {"data": str(tmp_path / "private.csv"), "state-dir": str(tmp_path / "state")}
        return context(small_config(tmp_path, QUICK | keys), node={"name": "hospital", **paths}, node_id=100)

    return build


@pytest.fixture(params=[0o000, 0o077], ids=["umask-000", "umask-077"])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mechanism", ["none", "gaussian"])
def test_a_clients_state_is_open_to_nobody_else(hospital, umask, tmp_path, mechanism):
    node = hospital(**{"privacy.mechanism": mechanism, "weights.scheme": "uniform"})
    for kind, content in (("query", handshake()), ("train", request()), ("evaluate", student())):
        ask(node, kind, content)
    state = tmp_path / "state"
    folders = [path for path in (state, *state.rglob("*")) if path.is_dir()]
    assert {path.name for path in folders} >= {"state", "teachers", "answers" if mechanism == "none" else "releases"}
    assert {mode(path) for path in folders} == {0o700}
    assert {mode(state / name) for name in ("ledger.jsonl", "ledger.lock", "transfer-set.json")} == {0o600}


def test_a_state_folder_that_is_there_keeps_its_mode_and_what_is_written_there_is_private(hospital, umask, tmp_path):
    state, node = tmp_path / "state", hospital()
    state.mkdir()
    state.chmod(0o777)
    ask(node, "query", handshake())
    ask(node, "train", request())
    assert mode(state) == 0o777
    assert {path.name: mode(path) for path in state.iterdir()} == {
        path.name: 0o700 if path.is_dir() else 0o600 for path in state.iterdir()
    }


def test_a_run_leaves_nothing_that_others_may_write_to(small, umask):
    config = small(keys=KEYS | {"rounds": 1, "student.pretrain": True, "student.model": "ngram-bag"})
    folder, _ = run(config, virtual_clients(config, 3))
    state = Path(config.state_dir)
    assert {mode(path) for path in (state, *state.rglob("*")) if path.is_dir()} == {0o700}
    assert not [path for path in (folder.path.parent, folder.path) if mode(path) & 0o022]


def test_a_checkpoint_which_holds_single_answers_is_its_owners_alone(umask, tmp_path):
    folder = RunFolder.create(tmp_path / "runs", "run")
    folder.write_checkpoint(b"answers")
    assert mode(folder.checkpoint) == 0o600
    assert mode(folder.path) in (0o755, 0o700)
