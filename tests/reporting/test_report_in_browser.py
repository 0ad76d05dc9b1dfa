"""Reads the reports in chromium: `python -m pytest -m browser tests/reporting [--screenshots FOLDER]`."""

import base64
import io
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from knot_fed.reporting.comparison import write_comparison
from knot_fed.reporting.report import write_report
from knot_fed.runs.results import collect_runs, read_sweep
from tests.reporting.made_up import change_summary, make_audit, make_frontier, make_run, make_sweep

pytestmark = pytest.mark.browser
WIDTHS = {"desk": 1200, "phone": 390}
OVERFLOWING = """
const within = element => element.closest(".scroll") && !element.matches(".scroll");
return [...document.body.querySelectorAll("*")].filter(element => !within(element))
  .filter(element => element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map(element => element.outerHTML.slice(0, 80));
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    run, sweep = (
        make_run(folder, "run", clients=("chats", "a-client-with-a-rather-long-name-42", "radio")),
        folder / "sweep",
    )
    write_report(run)
    write_comparison(read_sweep(make_sweep(sweep)), sweep / "report.html")
    failed, runs = make_run(folder, "failed"), [make_run(folder, name, seed=ord(name)) for name in "ab"]
    change_summary(failed, error="too few", domains={}, student={"before": None, "after": None}, details={})
    write_report(failed)
    write_comparison(collect_runs(runs), folder / "runs.html")
    return {
        "run": run.path / "report.html", "failed": failed.path / "report.html", "sweep": sweep / "report.html",
        "runs": folder / "runs.html", "frontier": make_frontier(folder / "frontier.html"),
        "audit": make_audit(folder / "audit.html"),
    }  # fmt: skip


def show(browser, file, *, device="desk", scheme="light"):
    size = {"width": WIDTHS[device], "height": 900, "deviceScaleFactor": 1, "mobile": device == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(file.as_uri())


def screenshot(browser):
    width, height = browser.execute_script("const e = document.documentElement; return [e.clientWidth, e.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    request = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    return base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", request)["data"])


def column(browser, table, place):
    rows = f"document.querySelectorAll('table.sortable')[{table}].tBodies[0].rows"
    return browser.execute_script(f"return [...{rows}].map(row => row.cells[{place}].dataset.key)")


def head(browser, table, text):
    heads = browser.find_elements("css selector", "table.sortable")[table].find_elements("css selector", "thead th")
    place = next(place for place, each in enumerate(heads) if each.text.startswith(text))
    return place, heads[place]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS)
@pytest.mark.parametrize("name", ["run", "sweep"])
def test_a_report_fits_its_screen_and_shows_every_figure(browser, reports, tmp_path, request, name, device, scheme):
    show(browser, reports[name], device=device, scheme=scheme)
    assert browser.execute_script(OVERFLOWING) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= WIDTHS[device]
    sizes = browser.execute_script("return [...document.images].map(image => image.naturalWidth * image.naturalHeight)")
    assert sizes
    assert min(sizes) > 0
    folder = request.config.getoption("--screenshots") or tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-{device}-{scheme}.png").write_bytes(screenshot(browser))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_and_figures_follow_the_scheme_with_legible_ink(browser, reports, scheme):
    image = pytest.importorskip("PIL.Image")
    show(browser, reports["run"], scheme=scheme)
    figure = browser.find_element("css selector", "figure img")
    grey = np.asarray(image.open(io.BytesIO(figure.screenshot_as_png)).convert("L"))
    paper = np.bincount(grey.ravel()).argmax()
    assert (paper > 200) if scheme == "light" else (paper < 60)
    assert (grey.min() < 60) if scheme == "light" else (grey.max() > 200)


def test_a_click_on_a_head_sorts_numbers_as_numbers_and_again_turns_them_round(browser, reports):
    show(browser, reports["sweep"])
    place, sd = head(browser, 0, "SD ↓")
    button = sd.find_element("css selector", "button")
    button.click()
    keys = [float(key) for key in column(browser, 0, place)]
    assert keys == sorted(keys)
    assert sd.get_attribute("aria-sort") == "ascending"
    button.click()
    assert [float(key) for key in column(browser, 0, place)] == keys[::-1]
    assert sd.get_attribute("aria-sort") == "descending"


def test_the_keyboard_sorts_words_and_empty_cells_stay_last(browser, reports):
    show(browser, reports["sweep"])
    _, accuracy = head(browser, 0, "accuracy")
    place, loss = head(browser, 0, "loss")
    loss.find_element("css selector", "button").send_keys("\n")
    keys = column(browser, 0, place)
    named = [key for key in keys if key]
    assert named == sorted(named)
    assert keys == named + [""] * (len(keys) - len(named))
    assert loss.get_attribute("aria-sort") == "ascending"
    assert accuracy.get_attribute("aria-sort") is None


def test_the_foot_of_a_run_stays_below_when_its_domains_are_sorted(browser, reports):
    show(browser, reports["run"])
    place, f1 = head(browser, 0, "macro-F1")
    f1.find_element("css selector", "button").click()
    keys = [float(key) for key in column(browser, 0, place)]
    assert keys == sorted(keys)
    last = browser.execute_script(
        "return [...document.querySelector('table.sortable').rows].at(-1).cells[0].textContent"
    )
    assert last == "mean of the domains"


PAGES = ("run", "failed", "sweep", "runs", "frontier", "audit")
AXE = "const done = arguments[0]; axe.run(document).then(done)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_violation(browser, reports, name, device, scheme):
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    show(browser, reports[name], device=device, scheme=scheme)
    browser.set_script_timeout(300)
    browser.execute_script(axe.axe_script)
    found = browser.execute_async_script(AXE)
    assert [(broken["id"], broken["nodes"][0]["html"]) for broken in found["violations"]] == []
    assert len(found["passes"]) > 20


@pytest.mark.parametrize("name", PAGES)
def test_headings_landmarks_and_names_serve_a_screen_reader(browser, reports, name):
    show(browser, reports[name])
    levels = browser.execute_script("return [...document.querySelectorAll('h1, h2')].map(head => head.tagName)")
    assert levels[0] == "H1"
    assert set(levels[1:]) == {"H2"}
    for landmark in ("header", "nav", "main"):
        assert len(browser.find_elements("css selector", landmark)) == 1
    names = browser.execute_script(
        "return [...document.querySelectorAll('.tools > *')].map(tool => tool.getAttribute('aria-label'))"
    )
    assert len(set(names)) == len(names)
    targets = browser.execute_script(
        "return [...document.querySelectorAll('a[href^=\"#\"]')].map(link => !!document.querySelector(link.hash))"
    )
    assert targets
    assert all(targets)


def test_the_first_stop_of_the_keyboard_skips_to_the_report(browser, reports):
    show(browser, reports["run"])
    browser.find_element("css selector", "body").send_keys("\t")
    skip = browser.switch_to.active_element
    assert skip.text == "Skip to the report"
    skip.send_keys("\n")
    assert browser.execute_script("return document.activeElement.id") == "main"


def test_the_svg_button_saves_a_drawing_that_needs_no_page(browser, reports, tmp_path):
    show(browser, reports["run"])
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.find_element("css selector", "#figure-3 .tools button").click()
    file, until = tmp_path / "run-sd-by-domain.svg", time.monotonic() + 60
    while not file.is_file() and time.monotonic() < until:
        time.sleep(0.1)
    drawn = file.read_text()
    assert ET.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in drawn
    assert "prefers-color-scheme" not in drawn
    assert "#0072b2" in drawn


@pytest.mark.parametrize("name", PAGES)
def test_paper_has_no_buttons_and_cuts_nothing_off(browser, reports, name):
    show(browser, reports[name])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = browser.execute_script(
        "return [...document.querySelectorAll('.tools, nav, .skip')].filter(each => each.offsetParent).length"
    )
    cut = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')]"
        ".filter(each => getComputedStyle(each).overflowX !== 'visible').length"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert (shown, cut) == (0, 0)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
