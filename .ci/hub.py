"""Write the app as Flower Hub wants it: a folder named like the project, with FAB format 1 and the licence as a file.

Flower reads the licence of that format from a table that packages no longer use, so `pyproject.toml` differs there, and
so does the digest of the app. Usage: python .ci/hub.py FOLDER, whose name is the project's.
"""

import shutil
import sys
import tomllib
from pathlib import Path

from flwr.cli.build import build_fab_from_disk

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".md", ".toml", ".typed"}
EDITS = [
    ('license = "Apache-2.0"\nlicense-files = ["LICENSE"]\n', 'license = { file = "LICENSE" }\n'),
    ('fab-include = ["/knot_fed/**/*.py"]\n', 'fab-include = ["/knot_fed/**/*.py", "/LICENSE", "/README.md"]\n'),
    ("[tool.flwr.app]\n", '[tool.flwr.app]\nfab-format-version = 1\nflwr-version-target = "{target}"\n'),
]


def write_hub_app(folder: Path) -> Path:
    """Copy what the hub accepts into a new folder, and build a FAB from it, which checks the format."""
    text = (ROOT / "pyproject.toml").read_text()
    needed = next(line for line in tomllib.loads(text)["project"]["dependencies"] if line.startswith("flwr["))
    target = needed.partition(">=")[2].partition(",")[0] + ".0"
    for old, new in EDITS:
        if text.count(old) != 1:
            sys.exit(f"pyproject.toml has {old!r} {text.count(old)} times, expected once; adapt .ci/hub.py")
        text = text.replace(old, new.replace("{target}", target))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for source in [*(ROOT / "knot_fed").rglob("*"), *(ROOT / "simulations").rglob("*")]:
        if source.suffix in SUFFIXES:
            copy = folder / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    for name in ("LICENSE", "README.md", ".gitignore"):
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "pyproject.toml").write_text(text)
    fab = folder.parent / f"{folder.name}.fab"
    fab.write_bytes(build_fab_from_disk(folder))
    return fab


if __name__ == "__main__":
    write_hub_app(Path(sys.argv[1]))
