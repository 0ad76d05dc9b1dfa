"""The page for newcomers names functions and files that are there, and all packages."""

import ast
import re
from pathlib import Path

import knot_fed

PACKAGE = Path(knot_fed.__file__).parent
PAGE = (PACKAGE.parent / "docs" / "explanation" / "how-a-run-works.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^\| \d\. [^|]*\| ([^|]*)\| ([^|]*)\|", PAGE, flags=re.MULTILINE)


def names_of(files):
    """Return all functions, classes and methods that the files define or call."""
    nodes = [node for file in files for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8")))]
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return defined | {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


def test_each_step_names_functions_that_its_files_define():
    assert len(STEPS) == 9
    for functions, files in STEPS:
        known = names_of(re.findall(r"`([^`]+\.py)`", files))
        for name in re.findall(r"`([^`]+)`", functions):
            assert name in known or set(name.split(".")) <= known, name


def test_every_package_stands_in_the_list():
    listed = set(re.findall(r"`(\w+)`", PAGE.split("## The packages")[1]))
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert packages | modules <= listed
