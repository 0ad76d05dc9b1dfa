"""Reads the built site in chromium: `python -m pytest -m browser tests/docs_site`."""

import functools
import http.server
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
WIDTHS = {"desk": 1280, "phone": 390}
PAGES = (
    "", "tutorials/your-own-code/", "how-to/deploy/", "reference/configuration/", "reference/commands/",
    "reference/failures/", "reference/wire-protocol/", "reference/api/losses/", "explanation/privacy/",
    "explanation/how-a-run-works/", "explanation/hostile-inputs/", "explanation/transport/", "results/",
)  # fmt: skip
FOUND = "return [...document.querySelectorAll('.md-search-result__link')].map(link => link.href)"
SERIOUS = ("serious", "critical")
PALETTE = """
const scheme = arguments[0];
localStorage.setItem("/.__palette", JSON.stringify({index: scheme == "dark" ? 1 : 0, color: {
  scheme: scheme == "dark" ? "slate" : "default", media: `(prefers-color-scheme: ${scheme})`}}));
"""
ASKED = "return performance.getEntriesByType('resource').map(entry => entry.name)"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def home(site):
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def wait(browser, condition):
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 20).until(condition)


@pytest.mark.parametrize(("words", "expected"), [
    ("secure sum", "secure-sum/"), ("keep-answers", "reference/configuration/"), ("OTLoss", "api/transport/"),
])  # fmt: skip
def test_the_search_finds_a_page(browser, home, words, expected):
    browser.get(home)
    field = browser.find_element("css selector", "input.md-search__input")
    browser.execute_script("document.querySelector('#__search').click()")
    wait(browser, lambda _: field.is_displayed())
    field.send_keys(words)
    wait(browser, lambda _: any(expected in place for place in browser.execute_script(FOUND)))


@pytest.mark.parametrize("device", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_no_wider_than_the_screen_and_asks_its_own_server_only(browser, home, page, device):
    size = {"width": WIDTHS[device], "height": 900, "deviceScaleFactor": 1, "mobile": device == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(home + page)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= WIDTHS[device]
    assert [name for name in browser.execute_script(ASKED) if not name.startswith((home, "data:", "blob:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_serious_violation_of_the_rules_for_accessibility(browser, home, page, scheme):
    axe = pytest.importorskip("axe_core_python")
    script = next(Path(axe.__file__).parent.rglob("axe*.js")).read_text(encoding="utf-8")
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(home + page)
    browser.execute_script(PALETTE, scheme)
    browser.get(home + page)
    browser.execute_script(script)
    found = browser.execute_async_script("const done = arguments[0]; axe.run().then(done)")["violations"]
    serious = [
        (rule["id"], node["html"][:200]) for rule in found if rule["impact"] in SERIOUS for node in rule["nodes"]
    ]
    assert serious == []


def test_the_palette_can_be_switched_and_is_kept(browser, home):
    browser.get(home)
    scheme = "return document.body.dataset.mdColorScheme"
    before = browser.execute_script(scheme)
    browser.execute_script("document.querySelector('form[data-md-component=palette] label:not([hidden])').click()")
    wait(browser, lambda _: browser.execute_script(scheme) != before)
    browser.get(home + "how-to/deploy/")
    assert browser.execute_script(scheme) != before
