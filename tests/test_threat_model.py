"""Every claim of docs/explanation/threat-model.md has a test that is there and is collected."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import COLLECTED, ROOT

PAGE = ROOT / "docs" / "explanation" / "threat-model.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")


def claims():
    """Return each claim with the tests that it names."""
    rows = [line.split("|")[1:-1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    claimed = [(row[0].strip(), row[1]) for row in rows if len(row) == 2]
    return [(claim, TEST.findall(cell)) for claim, cell in claimed if claim not in ("claim", "---")]


def functions_in(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize(("claim", "tests"), claims(), ids=[claim[:60] for claim, _ in claims()])
def test_a_claim_has_tests_that_are_there_and_collected(claim, tests, pytestconfig):
    assert tests, "no test is named"
    assert all(function for _, function in tests), "a file is named in the place of a test"
    for file, function in tests:
        assert Path(file).name.startswith("test_")
        found = functions_in(file)
        assert found, f"{file} holds no test"
        assert not function or function in found, f"{file} holds no {function}"
        collected = {name for place, name in pytestconfig.stash[COLLECTED] if place == file}
        assert not collected or not function or function in collected, f"{function} is not collected"


def test_the_documentation_names_no_test_that_is_not_there():
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for file, function in TEST.findall(page.read_text(encoding="utf-8")):
            assert (ROOT / file).is_file(), f"{page.name}: {file}"
            assert not function or function in functions_in(file), f"{page.name}: {function}"
