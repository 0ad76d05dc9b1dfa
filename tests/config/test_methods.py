"""The methods of the field, `simulations/methods/`: each is valid over any study and cites its paper."""

import re

import pytest

from knot_fed.config import RunConfig
from knot_fed.config.overrides import read_override, resolve_config
from tests.conftest import ROOT

FOLDER = ROOT / "simulations" / "methods"
NAMES = sorted(file.stem for file in FOLDER.glob("*.toml"))
STUDIES = sorted(file.name for file in FOLDER.parent.glob("*.toml") if file.name != "privacy.toml")
METHOD = (
    "weights.", "distill.loss", "distill.objective", "distill.agreement", "distill.supervised", "rounds", "round-texts",
    "teacher.start", "teacher.round-epochs", "student.restart", "personal.consensus", "personal.when", "personal.loss",
)  # fmt: skip


def test_the_methods_are_those_of_the_table():
    assert NAMES == ["adafd", "ds-fl", "fedavg", "feddf", "fedet", "fedmd", "knot", "selective-fd"]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_valid_over_every_study(name):
    for study in STUDIES:
        overrides = [str(FOLDER.parent / study), str(FOLDER / f"{name}.toml")]
        config = resolve_config(None, overrides, num_supernodes=3)
        for key, value in read_override(overrides[1]).items():
            assert config.to_mapping()[key] == value


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fedavg"])
def test_a_method_sets_all_keys_of_a_method_and_no_others(name):
    set_here = set(read_override(str(FOLDER / f"{name}.toml")))
    assert all(key.startswith(METHOD) for key in set_here)
    assert set_here == {key for key in RunConfig().to_mapping() if key.startswith(METHOD)} - {"weights.trim"}


def test_the_guide_lists_as_over_any_study_only_methods_whose_keys_a_distilling_run_reads():
    page = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    sentence = re.search(r"So (`knot`[^.:]*) go over any study:", page)[1]
    keys = {name: read_override(str(FOLDER / f"{name}.toml")) for name in NAMES}
    read = [name for name in NAMES if not all(key.startswith("fedavg.") for key in keys[name])]
    assert sorted(re.findall(r"`([\w-]+)`", sentence)) == read
    assert "`fedavg` is a strategy of its own" in page
    assert "`--strategy fedavg`" in page


@pytest.mark.parametrize("name", NAMES)
def test_a_method_cites_its_paper(name):
    assert re.search(r"\d{4}.*arXiv \d{4}\.\d{5}", (FOLDER / f"{name}.toml").read_text(), re.S)


def test_a_method_is_found_by_its_place_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_override("simulations/methods/adafd.toml")["weights.power"] == 5.0
