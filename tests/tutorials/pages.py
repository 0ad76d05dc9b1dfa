"""A tutorial as a shell script: what its reader types and saves, from top to bottom."""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.conftest import ROOT

TUTORIALS = ROOT / "docs" / "tutorials"
BLOCK = re.compile(
    r"^(?:<!-- exits (?P<code>\d+) -->\n)?```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
END = "END_OF_BLOCK"


@dataclass(frozen=True)
class Block:
    """A fenced block: commands, a program, a file with a title, or output."""

    language: str
    text: str
    title: str = ""
    code: int = 0

    def script(self) -> str:
        """Return the shell lines that do what the reader does; empty for output."""
        if self.title:
            return f"cat > '{self.title}' <<'{END}'\n{self.text}{END}\n"
        if self.language == "python":
            return f"python - <<'{END}'\n{self.text}{END}\n"
        if self.language != "sh":
            return ""
        commands = "".join(line for line in self.text.splitlines(keepends=True) if not line.startswith("pip install "))
        return f"set +e\n{commands}test $? -eq {self.code} || exit 99\nset -e\n" if self.code else commands


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(each["language"], each["text"], each["title"] or "", int(each["code"] or 0)) for each in found]


def script(page: Path) -> str:
    """Return the whole page as a script for bash."""
    return "set -eu\n" + "".join(block.script() for block in blocks(page))


def told_errors(page: Path) -> list[str]:
    """Return the lines of output that the page shows after commands that fail."""
    listed = blocks(page)
    return [
        line
        for block, after in pairwise(listed)
        if block.code and after.language == "text"
        for line in after.text.splitlines()
    ]
