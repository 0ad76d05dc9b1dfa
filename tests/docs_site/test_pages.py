"""The pages of the site before it is built: all are in the navigation, and each link leads to a file that is there."""

import pytest

from tests.conftest import ROOT
from tests.docs_site.pages import CODE, DOCS, LINK, links, nav_entries, pages, settings

PACKAGES = ("knot_fed", "config", "losses", "transport", "geometry", "labels", "data", "models", "training",
            "aggregation", "mechanisms", "privacy", "federation", "runs", "sweep", "audit", "errors")  # fmt: skip


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page():
    assert sorted(nav_entries(settings()["nav"])) == sorted(page.relative_to(DOCS).as_posix() for page in pages())


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_each_link_to_a_file_leads_to_one_of_the_site(page):
    local = [target.partition("#")[0] for target in links(page) if "://" not in target and not target.startswith("#")]
    found = [(page.parent / target).resolve() for target in local]
    assert [target for target in found if not target.is_file() or DOCS not in target.parents] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_each_link_to_the_repository_names_a_file_of_it(page):
    home = settings()["repo_url"] + "/"
    for target in links(page):
        if target.startswith(home):
            kind, branch, path = target.removeprefix(home).partition("#")[0].split("/", 2)
            assert (kind, branch) in (("blob", "main"), ("tree", "main")), target
            assert (ROOT / path).is_file() if kind == "blob" else (ROOT / path).is_dir(), target


def test_links_are_found_on_two_lines_and_not_in_code():
    text = "[one\ntwo](a.md) `[b](b.md)` ![c](c.svg)\n```text\n[d](d.md)\n```\n"
    assert LINK.findall(CODE.sub("", text)) == ["a.md", "c.svg"]


def test_every_public_package_has_a_page_of_its_interface():
    api = {page.stem for page in pages() if page.parent.name == "api"}
    assert api == set(PACKAGES)


def test_no_page_has_text_from_another_page():
    """Nothing is kept twice: no two pages share a paragraph of some length outside of code."""
    seen = {}
    for page in pages():
        if page.suffix == ".md":
            for paragraph in page.read_text(encoding="utf-8").split("\n\n"):
                words = " ".join(paragraph.split())
                if len(words) > 120 and not words.startswith(("```", "| key |", ":::")):
                    assert words not in seen, f"{page.name} and {seen[words]}: {words[:80]}"
                    seen[words] = page.name


def test_the_site_and_the_package_name_one_home():
    from knot_fed.config.parsing import KEYS_PAGE

    assert settings()["site_url"] + "reference/configuration/" == KEYS_PAGE
