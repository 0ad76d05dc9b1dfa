"""The notebooks as committed: with outputs, as the site shows them without running them."""

import json
import re

import pytest

from tests.tutorials.pages import TUTORIALS

NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
LARGEST = 500_000
SITE = "https://knot-fed.github.io/knot_fed/tutorials/"
PATHS = re.compile(r"(?<![\w.:/<])/(?:tmp|home|root|work|usr|var|opt|Users|mnt|private)/")


def cells(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def outputs(notebook):
    return [output for cell in cells(notebook) for output in cell.get("outputs", ())]


@pytest.fixture(params=NOTEBOOKS, ids=lambda notebook: notebook.stem)
def notebook(request):
    return request.param


def test_there_are_two_notebooks():
    assert [notebook.stem for notebook in NOTEBOOKS] == ["price-of-privacy", "ten-minutes"]


def test_a_notebook_was_run_once_from_top_to_bottom(notebook):
    counts = [cell["execution_count"] for cell in cells(notebook) if cell["cell_type"] == "code"]
    assert counts == [*range(1, len(counts) + 1)]


def test_a_notebook_shows_no_errors_and_nothing_on_stderr(notebook):
    assert not [output for output in outputs(notebook) if output["output_type"] == "error"]
    assert not [output for output in outputs(notebook) if output.get("name") == "stderr"]


def test_a_notebook_holds_no_absolute_path(notebook):
    assert PATHS.findall(notebook.read_text(encoding="utf-8")) == []


def test_a_notebook_is_small(notebook):
    assert notebook.stat().st_size < LARGEST


def test_figures_are_vector_graphics_without_a_background(notebook):
    figures = [output["data"] for output in outputs(notebook) if "image/svg+xml" in output.get("data", {})]
    assert len(figures) >= 3
    assert not [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    for figure in figures:
        assert "fill: #ffffff" not in "".join(figure["image/svg+xml"])[:3000]


def test_every_page_that_a_notebook_links_to_is_there(notebook):
    text = "".join("".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "markdown")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert all(target.startswith(SITE) for target in targets)  # read on the site, on GitHub and in Jupyter alike
    for name in (target.removeprefix(SITE).strip("/") for target in targets):
        assert (TUTORIALS / f"{name}.md").is_file() or (TUTORIALS / f"{name}.ipynb").is_file(), name
