"""The site as it is built: complete references, links and anchors that resolve, and nothing from elsewhere."""

import html
import importlib
import inspect
import re
from urllib.parse import unquote

import pytest
import typer
import typer.main
from pydantic import BaseModel

from knot_fed.cli.main import app
from knot_fed.cli.simulate import simulate
from knot_fed.config import NodeConfig, RunConfig
from knot_fed.privacy.policy import ReleasePolicy

pytestmark = pytest.mark.slow
LOADED = re.compile(r"<(?:script|img|iframe|source|video|audio|link|object|embed)\b[^>]*>", re.IGNORECASE)
ADDRESS = re.compile(r"\b(?:src|href|data|srcset)=[\"']?((?:https?:)?//[^\"'\s>]+)", re.IGNORECASE)
DECLARED = re.compile(r'rel="?(?:canonical|alternate|prev|next)\b')
"""Links that a browser does not load."""


def keys_of(model, prefix=""):
    """Return each key with its default and its description."""
    for name, field in model.model_fields.items():
        key = prefix + name.replace("_", "-")
        if isinstance(field.default, BaseModel):
            yield from keys_of(type(field.default), f"{key}.")
        else:
            yield key, field.default, field.description


def commands_of(command, name):
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands_of(inner, f"{name} {word}")


def all_commands():
    alone = typer.Typer(add_completion=False)
    alone.command()(simulate)
    yield from commands_of(typer.main.get_command(alone), "flower-simulation")
    yield from commands_of(typer.main.get_command(app), "knot-fed")


def text_of(page):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


def said(text):
    """Return a command's help as a page shows it: without marks of code, and a full stop at the end of a cell."""
    return " ".join(text.replace("`", "").rstrip(".").split())


def read(site, page):
    return (site / page / "index.html").read_text(encoding="utf-8")


def rows_of(page):
    rows = [
        re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    ]
    return [[text_of(cell) for cell in row] for row in rows if row]


def test_every_key_is_in_the_reference_with_its_default_and_its_meaning(site):
    rows = {row[0]: row for row in rows_of(read(site, "reference/configuration")) if len(row) == 4}
    listed = list(keys_of(RunConfig))
    assert len(listed) > 80
    for key, default, description in listed:
        shown = rows[key][1].strip('"')
        assert shown == (str(default).lower() if isinstance(default, bool) else str(default))
        assert rows[key][3] == " ".join((description or "").split())
    assert set(rows) == {key for key, _, _ in listed}


def test_every_key_of_a_node_and_of_a_policy_is_in_the_reference(site):
    for page, model in (("configuration", NodeConfig), ("policy", ReleasePolicy)):
        found = set(re.findall(r"<code>([a-z-]+)(?: = [^<]*)?</code>", read(site, f"reference/{page}")))
        assert {name.replace("_", "-") for name in model.model_fields} - found == set()


def test_every_command_is_in_the_reference_with_all_that_it_takes(site):
    page = read(site, "reference/commands")
    sections = dict(re.findall(r'<h2 id="([\w-]+)">(.*?)(?=<h2 |</article>)', page, re.DOTALL))
    listed = list(all_commands())
    assert len(listed) > 20
    for name, command in listed:
        text = text_of(sections[name.replace(" ", "-")])
        assert said(command.help or "") in text
        for parameter in command.params:
            if not getattr(parameter, "hidden", False):
                names = [*parameter.opts, *parameter.secondary_opts] if parameter.param_type_name == "option" else []
                assert [option for option in names if option not in text] == [], name
                assert said(parameter.help or "") in text, f"{name} {parameter.name}"


@pytest.mark.parametrize("package", ["knot_fed", "transport", "aggregation", "mechanisms", "models", "config"])
def test_every_public_class_and_function_of_a_package_is_described(site, package):
    module = importlib.import_module("knot_fed" if package == "knot_fed" else f"knot_fed.{package}")
    anchors = re.findall(r'id="knot_fed\.([\w.]+)"', read(site, f"reference/api/{package}"))
    described = {anchor.rpartition(".")[2] for anchor in anchors}
    callables = {
        name
        for name in module.__all__
        if inspect.isclass(getattr(module, name)) or inspect.isfunction(getattr(module, name))
    }
    assert callables - described == set()


def test_each_link_and_anchor_of_the_site_resolves(site):
    anchors = {}
    for file in site.rglob("*.html"):
        anchors[file] = {unquote(found) for found in re.findall(r'\bid="?([^"\s>]+)', file.read_text(encoding="utf-8"))}
    broken, checked = [], 0
    for file in anchors:
        if file.name == "404.html":
            continue
        for target in re.findall(r'<a [^>]*?href="([^"]*)"', file.read_text(encoding="utf-8")):
            place, _, anchor = html.unescape(target).partition("#")
            if re.match(r"[a-z]+:", place):
                continue
            checked += 1
            there = (file.parent / unquote(place)).resolve() if place else file
            there = there / "index.html" if there.is_dir() else there
            if not there.is_file() or (anchor and there.suffix == ".html" and unquote(anchor) not in anchors[there]):
                broken.append(f"{file.relative_to(site)}: {target}")
    assert broken == []
    assert checked > 1000


def test_no_page_loads_anything_from_elsewhere(site):
    for file in site.rglob("*.html"):
        tags = [tag for tag in LOADED.findall(file.read_text(encoding="utf-8")) if not DECLARED.search(tag)]
        assert [tag for tag in tags if ADDRESS.search(tag)] == [], file
    for file in site.rglob("*.css"):
        style = file.read_text(encoding="utf-8")
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\s]+", style) == [], file
