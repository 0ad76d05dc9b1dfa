"""Reads the reports in chromium: `python -m pytest -m browser tests/reporting [--screenshots FOLDER]`."""

import base64
import io
import shutil

import numpy as np
import pytest

from knot_fed.reporting.comparison import write_comparison
from knot_fed.reporting.report import write_report
from knot_fed.runs.results import read_sweep
from tests.reporting.made_up import make_run, make_sweep

pytestmark = pytest.mark.browser
CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDTHS = {"desk": 1200, "phone": 390}
OVERFLOWING = """
const within = element => element.closest(".scroll") && !element.matches(".scroll");
return [...document.body.querySelectorAll("*")].filter(element => !within(element))
  .filter(element => element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map(element => element.outerHTML.slice(0, 80));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("chromium or chromedriver is missing; on Debian: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    run, sweep = (
        make_run(folder, "run", clients=("chats", "a-client-with-a-rather-long-name-42", "radio")),
        folder / "sweep",
    )
    write_report(run)
    write_comparison(read_sweep(make_sweep(sweep)), sweep / "report.html")
    return {"run": run.path / "report.html", "sweep": sweep / "report.html"}


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
    rows = f"document.querySelectorAll('table')[{table}].tBodies[0].rows"
    return browser.execute_script(f"return [...{rows}].map(row => row.cells[{place}].dataset.key)")


def head(browser, table, text):
    heads = browser.find_elements("css selector", "table")[table].find_elements("css selector", "thead th")
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
    last = browser.execute_script("return [...document.querySelector('table').rows].at(-1).cells[0].textContent")
    assert last == "mean of the domains"
