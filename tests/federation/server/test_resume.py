import resource
from contextlib import contextmanager

import numpy as np
import pytest

from knot_fed.errors import RunFolderError
from knot_fed.federation.server.checkpoint import Checkpoint
from knot_fed.federation.server.run import run_in_folder
from knot_fed.privacy.ledger.ledger import Ledger
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from tests.fakes import context, virtual_clients
from tests.federation.secure.secure_parties import STAGES
from tests.federation.server.test_federated_run import folder_of, run, timeless
from tests.federation.server.test_roster import ChangingGrid

pytestmark = pytest.mark.slow

KEYS = {"distill.epochs": 4, "teacher.epochs": 1, "distill.supervised": 0.5, "rounds": 2}
STUDENT = "student/parameters.safetensors"


class Killed(BaseException):
    """Simulates a kill: no handler of the run catches it."""


@contextmanager
def kill_at(checkpoint, *, monkeypatch):
    """Let the run within write that many checkpoints, then stop it as if killed."""
    written, save = [], Checkpoint.save

    def counted(self, folder):
        save(self, folder)
        written.append(self.round)
        if len(written) == checkpoint:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", counted)
        with pytest.raises(Killed):
            yield


def killed_at(config, name, *, checkpoint, monkeypatch):
    """Run until that many checkpoints were written."""
    with kill_at(checkpoint, monkeypatch=monkeypatch):
        run(config, name)
    return RunFolder.open(folder_of(config) / name)


def resume(config):
    grid = ChangingGrid(virtual_clients(config, 3))
    run_in_folder(grid, context(config, node={}, node_id=1), federate)
    return RunFolder.open(folder_of(config) / config.resume), grid


def told(folder):
    """The summary without times, `resumed`, and bytes down: virtual clients are sent the texts again."""
    summary = timeless(folder.read_summary())
    del summary["resumed"]
    for client in summary["clients"]:
        del client["bytes_down"]
    return summary


@pytest.mark.parametrize("checkpoint", [1, 3, 6], ids=["before the first epoch", "in round 1", "in round 2"])
def test_a_resumed_run_ends_with_the_student_of_the_uninterrupted_one(small, monkeypatch, checkpoint):
    whole, _ = run(small(keys=KEYS), "whole")
    killed = killed_at(small(keys=KEYS), "killed", checkpoint=checkpoint, monkeypatch=monkeypatch)
    assert not (killed.path / "summary.json").exists()
    resumed, _ = resume(small(keys=KEYS | {"resume": "killed", "timeout": 99.0}))
    for name in (STUDENT, "pooled-soft-labels-1.npy", "pooled-soft-labels-2.npy"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert told(resumed) == told(whole)
    assert [line["round"] for line in resumed.read_rounds()] == [1, 2]
    assert not resumed.checkpoint.exists()


def test_a_resumed_secure_sum_goes_on_from_pooled_soft_labels_and_keeps_no_single_ones(small, monkeypatch):
    keys = KEYS | {"privacy.secure-sum": True, "distill.objective": "pooled"}
    whole, _ = run(small(keys=keys), "whole")
    keys |= {"state-dir": str(whole.path.parent / "state-of-another-run")}
    killed = killed_at(small(keys=keys), "killed", checkpoint=3, monkeypatch=monkeypatch)
    kept = Checkpoint.load(killed.checkpoint).received
    assert kept.consensus.targets.shape[0] == 1
    for rows in (kept.consensus.targets, kept.consensus.pooled):
        assert rows.tobytes() == np.load(killed.path / "pooled-soft-labels-1.npy").tobytes()
    resumed, grid = resume(small(keys=keys | {"resume": "killed"}))
    assert (resumed.path / STUDENT).read_bytes() == (whole.path / STUDENT).read_bytes()
    assert [phase for phase in grid.phases if phase.startswith("train")] == STAGES


def test_nothing_that_was_received_is_asked_again(small, monkeypatch):
    killed_at(small(keys=KEYS | {"rounds": 1}), "killed", checkpoint=2, monkeypatch=monkeypatch)
    _, grid = resume(small(keys=KEYS | {"rounds": 1, "resume": "killed"}))
    assert grid.phases == ["query", "evaluate"]
    assert Ledger(folder_of(small()).parent / "state" / "phones").released_in_life() == 400


def test_a_finished_run_an_unknown_one_and_one_of_another_configuration_are_refused(small, monkeypatch):
    config = small(keys=KEYS | {"rounds": 1})
    killed_at(config, "killed", checkpoint=1, monkeypatch=monkeypatch)
    for keys, reason in (
        ({"resume": "unknown"}, "nothing to resume"),
        ({"resume": "killed", "seed": 9, "distill.loss": "kl"}, "differs in distill.loss, seed"),
    ):
        with pytest.raises(RunFolderError, match=reason):
            resume(small(keys=KEYS | {"rounds": 1} | keys))
    resume(small(keys=KEYS | {"rounds": 1, "resume": "killed"}))
    with pytest.raises(RunFolderError, match="is finished"):
        resume(small(keys=KEYS | {"rounds": 1, "resume": "killed"}))


def test_a_run_of_a_version_with_other_settings_is_refused_and_not_sent_to_its_own_configuration(small, monkeypatch):
    killed = killed_at(small(keys=KEYS | {"rounds": 1}), "killed", checkpoint=1, monkeypatch=monkeypatch)
    file = killed.path / "config.toml"
    file.write_text(
        "".join(line for line in file.read_text().splitlines(keepends=True) if not line.startswith("calibrate"))
    )
    told = r"another version of knot_fed \(only one of them has .*student.calibrate.*\); resume it with that"
    with pytest.raises(RunFolderError, match=told):
        resume(small(keys=KEYS | {"rounds": 1, "resume": "killed"}))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(small, monkeypatch, damage):
    killed = killed_at(small(keys=KEYS | {"rounds": 1}), "killed", checkpoint=2, monkeypatch=monkeypatch)
    content = bytearray(killed.checkpoint.read_bytes())
    content[-5] ^= 1
    killed.checkpoint.write_bytes({"cut": content[:-100], "flip": content, "empty": b""}[damage])
    with pytest.raises(RunFolderError, match="damaged"):
        Checkpoint.load(killed.checkpoint)
    with pytest.raises(RunFolderError, match="damaged"):
        resume(small(keys=KEYS | {"rounds": 1, "resume": "killed"}))


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(small, monkeypatch):
    killed = killed_at(small(keys=KEYS | {"rounds": 1}), "killed", checkpoint=1, monkeypatch=monkeypatch)
    before = killed.checkpoint.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(RunFolderError, match="cannot be written"):
            Checkpoint.load(killed.checkpoint).save(killed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert killed.checkpoint.read_bytes() == before
    assert sorted(path.suffix for path in killed.path.iterdir()) == [
        ".npy",
        ".npy",
        ".safetensors",
        ".safetensors",
        ".toml",
    ]
