"""The sources of the site: its settings, its pages, and the links in them."""

import re

import yaml

from tests.conftest import ROOT

DOCS = ROOT / "docs"
HIDDEN = ("_generate", "_theme")
LINK = re.compile(r"(?<!\\)\[[^\]\n]*(?:\n[^\]\n]+)?\]\(([^)\s]+)\)")
CODE = re.compile(r"^ *(`{3,}).*?^ *\1|(?<!`)`[^`\n]+`(?!`)", re.MULTILINE | re.DOTALL)


def settings():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def nav_entries(entries):
    """Return all pages below a part of the navigation."""
    found = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += nav_entries(value) if isinstance(value, list) else [value]
    return found


def pages():
    files = [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]
    return sorted(file for file in files if file.relative_to(DOCS).parts[0] not in HIDDEN)


def links(page):
    """Return all targets of links and images in a page, outside of code."""
    return LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))) if page.suffix == ".md" else []
