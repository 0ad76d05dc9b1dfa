import base64
import json
import re

import numpy as np
import pandas as pd
import pytest
import tomli_w
from typer.testing import CliRunner

from knot_fed.audit.findings import COLUMNS
from knot_fed.audit.frontier import price_of_privacy
from knot_fed.cli import main as cli
from knot_fed.errors import RunFolderError
from knot_fed.reporting.results import COMPARISON, RESULTS

SD = {
    ("none", 8.0, "ot"): 0.8,
    ("none", 8.0, "entropy"): 0.82,
    ("dp-sgd", 2.0, "ot"): 0.9,
    ("dp-sgd", 2.0, "entropy"): 0.89,
}


def sweep(folder, *, mechanism, epsilons):
    """Write what a sweep over epsilon and loss leaves, with made-up figures."""
    rows = []
    for seed in (1, 2, 3):
        rows.append({"seed": seed, "line": "student before", "domain": "mean", "sd": 1.0})
        rows += [
            {"cell": f"{seed}{epsilon}{loss}", "seed": seed, "line": "student after", "domain": "mean"}
            | {"loss": loss, "objective": "per-teacher", "weights": "uniform", "cost": "augmented"}
            | {"sd": SD[mechanism, epsilon, loss] + 0.01 * seed, "macro_f1": 0.4, "bytes_up": 1e5}
            | {"privacy.epsilon": epsilon}
            for epsilon in epsilons
            for loss in ("ot", "entropy")
        ]
    folder.mkdir()
    swept = [] if mechanism == "none" else ["privacy.epsilon"]
    pd.DataFrame(rows).reindex(columns=[*RESULTS, *swept]).to_csv(folder / "results.csv", index=False)
    pd.DataFrame(columns=list(COMPARISON)).to_csv(folder / "comparison.csv", index=False)
    config = {"privacy.mechanism": mechanism, "privacy.epsilon": 8.0, "privacy.delta": 1e-5}
    (folder / "sweep.toml").write_text(tomli_w.dumps({"config": config, "grid": {}}))
    return folder


def audit(folder, *, mechanism, epsilon, bounds):
    folder.mkdir()
    config = {"privacy.mechanism": mechanism, "privacy.epsilon": epsilon, "privacy.delta": 1e-5}
    (folder / "audit.toml").write_text(tomli_w.dumps({"config": config}))
    rows = [
        {"seed": seed, "client": "a", "attack": "canaries", "case": "canaries", "measure": "epsilon_lower_bound"}
        | {"value": bound}
        for seed, bound in enumerate(bounds)
    ]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(folder / "attacks.csv", index=False)
    return folder


@pytest.fixture
def folders(tmp_path):
    return [
        sweep(tmp_path / "plain", mechanism="none", epsilons=[8.0]),
        sweep(tmp_path / "private", mechanism="dp-sgd", epsilons=[2.0]),
        audit(tmp_path / "open", mechanism="none", epsilon=8.0, bounds=[3.0, 4.0]),
        audit(tmp_path / "closed", mechanism="dp-sgd", epsilon=2.0, bounds=[0.0, 0.5]),
    ]


def test_each_mechanism_and_loss_has_a_line_with_price_guarantee_and_leak(folders):
    table = price_of_privacy(folders).set_index(["mechanism", "loss"])
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


def test_the_frontier_is_one_page_and_one_table(folders, tmp_path):
    out = tmp_path / "out.html"
    result = CliRunner().invoke(cli.app, ["frontier", *map(str, folders), "--out", str(out)])
    assert result.exit_code == 0, result.output
    page = out.read_text()
    assert "record: ε = 2, δ = 1e-05" in page
    drawn = [base64.b64decode(source).decode() for source in re.findall("data:image/svg\\+xml;base64,([^'\"]+)", page)]
    assert len(drawn) == 2
    assert not any("mathdefault" in figure for figure in drawn)
    assert len(pd.read_csv(out.with_suffix(".csv"))) == 4
    assert json.dumps(str(tmp_path))[1:-1] not in page


def test_folders_that_are_no_sweep_and_no_audit_are_refused(folders, tmp_path):
    with pytest.raises(RunFolderError, match="no folder of a sweep"):
        price_of_privacy(folders[2:])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match="neither a sweep nor an audit"):
        price_of_privacy([folders[0], tmp_path / "empty"])
