"""A new mechanism is one class in a file and one entry of the registry: a whole run knows it then.

This one is an example of the interface and protects nobody: nothing is accounted for, and its unit is `none`.
"""

from pathlib import Path

import numpy as np
import pytest

from knot_fed.audit.subject import OpenedRun
from knot_fed.config import MECHANISMS, Guarantee, MechanismFacts, RunConfig
from knot_fed.errors import ConfigError
from knot_fed.labels import check_soft_labels
from knot_fed.mechanisms import RowMechanism
from knot_fed.privacy.noise import NoiseSource
from knot_fed.privacy.row_noise import project_to_simplex
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from tests.fakes import InProcessGrid, virtual_clients
from tests.federation.client.owners import Owner, request

NAME = "laplace-demo"
QUICK = {
    "distill.epochs": 1, "teacher.epochs": 1, "student.pretrain": False, "weights.scheme": "uniform",
    "min-teachers": 1, "privacy.mechanism": NAME,
}  # fmt: skip


class LaplaceDemo(RowMechanism):
    """Laplace noise on each soft label, from a generator that no mechanism with a guarantee may use."""

    def noise_event(self, privacy, *, texts, asked, trainings=1, least_noise=0.0):
        return None

    def rows(self, teacher, texts):
        plain = teacher.plain_rows(texts)
        noise = np.random.default_rng(list(NoiseSource().bytes(32))).laplace(scale=0.1, size=plain.shape)
        return project_to_simplex(plain + noise)

    def sensitivity(self, privacy):
        return 2.0


@pytest.fixture
def demo(monkeypatch):
    facts = MechanismFacts(
        f"{__name__}:LaplaceDemo", about="an example",
        guarantee=Guarantee("none", "none", "2 in L1", "none", "no guarantee: an example"), noise_on="rows",
    )  # fmt: skip
    monkeypatch.setitem(MECHANISMS, NAME, facts)


def test_before_it_is_registered_it_is_refused_and_afterwards_it_is_named_among_the_choices(monkeypatch):
    with pytest.raises(ConfigError, match=r"privacy\.mechanism = 'laplace-demo': input should be 'none', 'dp-sgd', "):
        RunConfig.from_mapping({"privacy.mechanism": NAME})
    monkeypatch.setitem(MECHANISMS, NAME, MECHANISMS["gaussian"])
    assert RunConfig.from_mapping({"privacy.mechanism": NAME, "weights.scheme": "uniform"}).privacy.mechanism == NAME
    with pytest.raises(ConfigError, match="'gaussian' or 'laplace-demo'"):
        RunConfig.from_mapping({"privacy.mechanism": "laplace"})


@pytest.mark.usefixtures("demo")
def test_a_run_goes_through_and_its_summary_says_what_the_registry_declares(small):
    config = small(QUICK)
    folder = RunFolder.create(Path(config.runs_dir), "demo")
    folder.write_config(config.to_mapping())
    federate(InProcessGrid(virtual_clients(config, 3)), config, folder)
    told = folder.read_summary()["privacy"]
    assert told["mechanism"] == NAME
    assert told["guarantee"] == told["covers"] == "no guarantee: an example"
    assert told["unit"] == "none"
    assert told["epsilon"] is None
    assert len(told["clients"]) == 3


@pytest.mark.usefixtures("demo")
def test_the_same_text_gets_the_same_noisy_row_in_a_run_and_in_an_audit(small, tmp_path):
    owner = Owner(tmp_path / "mine").run(keys=QUICK)
    first, again = owner.soft_labels(), owner.run(number=8, keys=QUICK).soft_labels()
    check_soft_labels(first.answer.soft_labels)
    np.testing.assert_array_equal(first.answer.soft_labels, again.answer.soft_labels)
    assert (first.claim.mechanism, first.claim.epsilon) == (NAME, np.inf)
    plain = owner.run(number=9, keys=QUICK | {"privacy.mechanism": "none"}).soft_labels()
    assert not np.allclose(plain.answer.soft_labels, first.answer.soft_labels, atol=0.05)
    assert [entry.mechanism for entry in owner.entries() if entry.texts] == [NAME, NAME, "none"]

    federation = OpenedRun.open(small(QUICK), clients=3)
    teacher, texts = federation.subjects[0].run_teacher(), federation.transfer.texts[:20]
    np.testing.assert_array_equal(teacher(texts), teacher(texts))


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        ('require = ["laplace-demo"]', None),
        ('require = ["dp-sgd"]', "is less than the policy asks; use dp-sgd"),
        ("max-epsilon = 8.0", "this release would bring epsilon"),
    ],
)
def test_an_owner_may_name_it_and_no_budget_takes_it_for_a_guarantee(tmp_path, policy, refused):
    owner = Owner(tmp_path / "mine", policy=policy).run(keys=QUICK)
    if refused is None:
        assert owner.soft_labels().claim.mechanism == NAME
    else:
        assert refused in owner.refusal("train", request())
