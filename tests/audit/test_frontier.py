import base64
import io
import json
import math
import re
import shutil
import tomllib

import numpy as np
import pandas as pd
import pytest
import tomli_w
from rich.console import Console
from typer.testing import CliRunner

from knot_fed.audit.attacks.findings import COLUMNS, Effort
from knot_fed.audit.folder import AuditFolder
from knot_fed.audit.frontier.rows import price_of_privacy
from knot_fed.audit.frontier.tables import frontier_tables
from knot_fed.cli.main import app
from knot_fed.errors import RunFolderError
from knot_fed.runs.results import COMPARISON, RESULTS
from knot_fed.sweep.folder import SweepFolder

SD = {
    ("none", 8.0, "ot"): 0.8,
    ("none", 8.0, "entropy"): 0.82,
    ("dp-sgd", 2.0, "ot"): 0.9,
    ("dp-sgd", 2.0, "entropy"): 0.89,
}
PRIVATE = {"weights.scheme": "uniform"}


@pytest.fixture
def study(small):
    """A configuration on files, with some keys changed."""
    return lambda **keys: small(PRIVATE | {key.replace("_", "."): value for key, value in keys.items()})


def sweep(folder, config, *, epsilons=(8.0,), shift=0.0, losses=("ot", "entropy"), grid=None):
    """Write the files of a sweep over epsilon and loss, with made-up figures."""
    mechanism = config.privacy.mechanism
    swept = {"privacy.epsilon": list(epsilons)} if mechanism != "none" else {}
    swept |= {"distill.loss": list(losses), **(grid or {})}
    SweepFolder.open(folder, config=config, grid=swept, clients=3, seeds=[1, 2, 3])
    rows = []
    for seed in (1, 2, 3):
        rows.append({"seed": seed, "line": "student before", "domain": "mean", "sd": 1.0 + shift})
        rows += [
            {"cell": f"{seed}{epsilon}{loss}", "seed": seed, "line": "student after", "domain": "mean"}
            | {"loss": loss, "objective": config.distill.objective, "weights": "uniform", "cost": "augmented"}
            | {"sd": SD[mechanism, epsilon, loss] + 0.01 * seed + shift, "macro_f1": 0.4, "bytes_up": 1e5}
            | ({"privacy.epsilon": epsilon} if mechanism != "none" else {})
            for epsilon in epsilons
            for loss in losses
        ]
    columns = [*RESULTS, *(key for key in swept if key != "distill.loss")]
    pd.DataFrame(rows).reindex(columns=columns).to_csv(folder / "results.csv", index=False)
    pd.DataFrame(columns=list(COMPARISON)).to_csv(folder / "comparison.csv", index=False)
    return folder


def audit(folder, config, *, bounds, shadows=16, student=None):
    effort = Effort(shadows, 400, 5, 600, 8, 1e-5)
    AuditFolder.open(folder, config=config, effort=effort, client="phones", clients=3)
    common = {"client": "phones", "attack": "canaries", "case": "canaries", "measure": "epsilon_lower_bound"}
    rows = [common | {"seed": seed, "value": bound} for seed, bound in enumerate(bounds)]
    of_student = {"client": "phones", "attack": "student", "case": "student, online", "measure": "tpr_at_1%"}
    rows += [] if student is None else [of_student | {"seed": 1, "value": student}]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(folder / "attacks.csv", index=False)
    return folder


def private(study, epsilon=2.0, **keys):
    return study(privacy_mechanism="dp-sgd", privacy_epsilon=epsilon, **keys)


@pytest.fixture
def folders(study, tmp_path):
    return [
        sweep(tmp_path / "plain", study()),
        sweep(tmp_path / "private", private(study, 8.0), epsilons=[2.0]),
        audit(tmp_path / "open", study(), bounds=[3.0, 4.0], student=0.125),
        audit(tmp_path / "closed", private(study), bounds=[0.0, 0.5]),
    ]


def lines(folders):
    return price_of_privacy(folders).table.set_index(["study", "mechanism", "loss"])


def test_each_mechanism_and_loss_has_a_line_with_price_guarantee_and_leak(folders):
    found = price_of_privacy(folders)
    assert found.notes == []
    table = found.table.set_index(["mechanism", "loss"])
    assert table.index.tolist() == [("dp-sgd", "entropy"), ("dp-sgd", "ot"), ("none", "entropy"), ("none", "ot")]
    private = table.loc["dp-sgd", "ot"]
    assert private["sd"] == pytest.approx(0.92)
    assert private["gain_kept"] == pytest.approx(0.08 / 0.18)
    assert private["audited_epsilon"] == 0.5
    assert (private["unit"], private["epsilon"], private["delta"]) == ("record", 2.0, 1e-5)
    assert private["lead"] == pytest.approx(-0.01)
    plain = table.loc["none", "ot"]
    assert plain["lead"] == pytest.approx(0.02)
    assert plain["gain_kept"] == 1
    assert np.isinf(plain["epsilon"])
    assert plain["audited_epsilon"] == 4.0
    assert np.isnan(plain["tpr_own_row"])


def test_what_was_measured_on_a_student_stands_beside_its_own_loss_only(folders):
    table = lines(folders)
    assert table.loc[("", "none", "ot"), "tpr_student"] == 0.125
    assert np.isnan(table.loc[("", "none", "entropy"), "tpr_student"])


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"data.limit": 40}, "data.limit"),
        ({"distill.objective": "pooled"}, "distill.objective"),
        ({"data.public": "phones"}, "content of books, data.public"),
    ],
)
def test_a_sweep_of_another_study_has_lines_of_its_own_and_the_keys_are_named(folders, study, tmp_path, keys, named):
    keys = {key.replace(".", "_"): value for key, value in keys.items()}
    other = sweep(tmp_path / "other", study(**keys), shift=1.619)
    found = price_of_privacy([*folders, other])
    table = found.table.set_index(["study", "mechanism", "loss"])
    assert table.loc[("A", "none", "ot"), "sd"] == pytest.approx(0.82)
    assert table.loc[("B", "none", "ot"), "sd"] == pytest.approx(0.82 + 1.619)
    assert table.loc[("B", "none", "ot"), "seeds"] == 3
    assert np.isnan(table.loc[("B", "none", "ot"), "audited_epsilon"])
    assert table.loc[("A", "dp-sgd", "ot"), "gain_kept"] == pytest.approx(0.08 / 0.18)
    assert found.notes[0].endswith(f"differs: {named}")
    assert any(note.startswith("study B: ") and "other" in note for note in found.notes)


def test_a_sweep_on_other_rows_under_the_same_paths_is_told_apart(folders, study, tmp_path):
    file = tmp_path / "data/phones.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    other = sweep(tmp_path / "other", study(), shift=1.0)
    found = price_of_privacy([*folders, other])
    assert found.notes[0].endswith("differs: content of phones")
    assert set(found.table["study"]) == {"A", "B"}


def test_the_same_files_in_another_folder_are_one_study(folders, study, tmp_path):
    shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
    again = sweep(tmp_path / "again", study(data_root=str(tmp_path / "elsewhere")))
    found = price_of_privacy([*folders, again])
    assert found.notes == []
    assert len(found.table) == 4


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"data_limit": 40}, r"data.limit \(40, not 0\)"),
        ({"rounds": 2}, r"rounds \(2, not 1\)"),
        ({"privacy_mechanism": "dp-sgd", "privacy_epsilon": 4.0}, r"privacy.epsilon \(4.0, not 2.0\)"),
    ],
)
def test_an_audit_of_a_run_that_is_in_no_sweep_is_refused_and_the_keys_are_named(
    folders, study, tmp_path, keys, reason
):
    other = audit(tmp_path / "stranger", study(**keys), bounds=[9.0])
    with pytest.raises(RunFolderError, match=f"stranger: an audit of another run.*differs in {reason}"):
        price_of_privacy([*folders, other])


def test_settings_of_a_mechanism_are_kept_apart_and_named(folders, study, tmp_path):
    other = sweep(tmp_path / "wide", private(study, 8.0, privacy_epochs=7), epsilons=[2.0], shift=0.5)
    found = price_of_privacy([*folders, other])
    table = found.table[(found.table["mechanism"] == "dp-sgd") & (found.table["loss"] == "ot")]
    assert table["settings"].tolist() == ["privacy.epochs 20", "privacy.epochs 7"]
    assert table["sd"].tolist() == pytest.approx([0.92, 1.42])
    assert table["audited_epsilon"].tolist()[0] == 0.5
    assert np.isnan(table["audited_epsilon"].tolist()[1])


def test_two_audits_of_one_run_are_joined_if_they_attacked_alike_and_refused_if_not(folders, study, tmp_path):
    again = audit(tmp_path / "again", study(), bounds=[3.0, 4.0])
    assert lines([*folders, again]).loc[("", "none", "ot"), "audited_epsilon"] == 4.0
    harder = audit(tmp_path / "harder", study(), bounds=[7.0], shadows=64)
    with pytest.raises(RunFolderError, match=r"audits of one run that differ in effort\.shadows"):
        price_of_privacy([*folders, harder])


def without_content(folder):
    for file in folder.glob("*.toml"):
        told = tomllib.loads(file.read_text())
        del told["content"]
        file.write_text(tomli_w.dumps(told))
    return folder


def test_folders_of_before_are_read_and_what_is_unknown_is_told(folders):
    without_content(folders[0])
    found = price_of_privacy(folders)
    assert len(found.table) == 4
    (note,) = found.notes
    assert "plain: content of the data files unknown; assumed equal to the same paths" in note
    for folder in folders[1:]:
        without_content(folder)
    found = price_of_privacy(folders)
    assert len(found.table) == 4
    assert sum("its paths are compared" in note for note in found.notes) == 4


def test_a_key_that_a_folder_of_before_does_not_tell_has_its_default_and_is_named(folders):
    file = folders[0] / "sweep.toml"
    told = tomllib.loads(file.read_text())
    del told["config"]["distill.agreement"]
    file.write_text(tomli_w.dumps(told))
    found = price_of_privacy(folders)
    assert len(found.table) == 4
    assert any("plain: lacks distill.agreement" in note for note in found.notes)


def test_the_frontier_is_one_page_and_one_table(folders, tmp_path):
    out = tmp_path / "out.html"
    result = CliRunner().invoke(app, ["frontier", *map(str, folders), "--out", str(out)])
    assert result.exit_code == 0, result.output
    page = out.read_text()
    assert "record: ε = 2, δ = 1e-05" in page
    drawn = [base64.b64decode(source).decode() for source in re.findall("data:image/svg\\+xml;base64,([^'\"]+)", page)]
    assert len(drawn) == 2
    assert not any("mathdefault" in figure for figure in drawn)
    assert len(pd.read_csv(out.with_suffix(".csv"))) == 4
    assert json.dumps(str(tmp_path))[1:-1] not in page


def test_the_page_and_the_terminal_say_what_is_kept_apart(folders, study, tmp_path):
    other = sweep(tmp_path / "other", study(data_limit=40), shift=1.0)
    out = tmp_path / "out.html"
    result = CliRunner().invoke(app, ["frontier", *map(str, [*folders, other]), "--out", str(out)])
    assert result.exit_code == 0, result.output
    for told in (result.output, out.read_text()):
        assert "2 studies are kept apart, since what shapes their results differs: data.limit" in told
    assert str(tmp_path) not in out.read_text()


def test_every_number_of_a_frontier_is_whole_on_80_columns(folders, study, tmp_path):
    other = sweep(tmp_path / "other", private(study, 8.0, privacy_epochs=7, data_limit=40), epsilons=[2.0])
    table = price_of_privacy([*folders, other]).table
    console = Console(file=io.StringIO(), width=80)
    console.print(*frontier_tables(table))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for line in table.to_dict("records"):
        assert f"{line['sd']:.3f} ± {line['sd_half']:.3f}" in text
        assert f"{line['macro_f1']:.3f}" in text
    assert "0.125" in text


def test_folders_that_are_no_sweep_and_no_audit_are_refused(folders, tmp_path):
    with pytest.raises(RunFolderError, match="no folder of a sweep"):
        price_of_privacy(folders[2:])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match="neither a sweep nor an audit"):
        price_of_privacy([folders[0], tmp_path / "empty"])


def test_a_method_is_what_it_sets_and_an_audit_of_its_run_joins_it(study, tmp_path):
    """A guarantee that a method sets is a guarantee, and the methods' names compare nothing."""
    methods = {"plain": {}, "noisy": {"privacy.mechanism": "dp-sgd", "privacy.epsilon": 2.0}}
    folder = tmp_path / "methods"
    config = study()
    SweepFolder.open(folder, config=config, grid={}, clients=3, seeds=[1, 2, 3], methods=methods)
    rows = [{"seed": seed, "line": "student before", "domain": "mean", "sd": 1.0} for seed in (1, 2, 3)]
    rows += [
        {"cell": f"{seed}{name}", "method": name, "seed": seed, "line": "student after", "domain": "mean"}
        | {"loss": "ot", "objective": config.distill.objective, "weights": "uniform", "cost": "augmented"}
        | {"sd": sd + 0.01 * seed, "macro_f1": 0.4, "bytes_up": 1e5}
        for name, sd in (("plain", 0.8), ("noisy", 0.9))
        for seed in (1, 2, 3)
    ]
    pd.DataFrame(rows).reindex(columns=[*RESULTS, "method"]).to_csv(folder / "results.csv", index=False)
    pd.DataFrame(columns=list(COMPARISON)).to_csv(folder / "comparison.csv", index=False)
    audited = audit(tmp_path / "audit", private(study), bounds=[0.5])
    table = price_of_privacy([folder, audited]).table
    assert [tuple(row) for row in table[["mechanism", "epsilon"]].to_numpy()] == [("dp-sgd", 2.0), ("none", math.inf)]
    noisy = table[table["mechanism"] == "dp-sgd"].iloc[0]
    assert noisy["unit"] == "record"
    assert noisy["audited_epsilon"] == 0.5
    assert noisy["gain_kept"] == pytest.approx(0.08 / 0.18)
