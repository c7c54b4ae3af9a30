"""report.html in a headless browser: plots, sorting, picking, dark mode, narrow screens, and no request."""

import json
import os
import shutil
from collections.abc import Callable, Iterator

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: it drives the browser")
wait = pytest.importorskip("selenium.webdriver.support.wait")

PATIENCE = 600
LOADED = "return location.href === arguments[0] && document.readyState === 'complete'"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
if not BROWSER or not DRIVER:
    pytest.skip("no browser: chromium or google-chrome, and chromedriver, are not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    flags = ["--headless=new", "--disable-gpu", "--disable-background-networking"]
    for flag in flags + (["--no-sandbox"] if os.geteuid() == 0 else []):  # root has no sandbox
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page, tmp_path) -> Callable[..., object]:
    """Open the page at a width, and check that nothing went wrong and that nothing was loaded."""

    def open_page(width: int = 1280, text: str = page):
        path = tmp_path / "report.html"
        path.write_text(text, encoding="utf-8")
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        browser.get_log("performance")
        browser.get(path.as_uri())
        # On a busy machine the driver may return before the page is there.
        wait.WebDriverWait(browser, PATIENCE).until(lambda _: browser.execute_script(LOADED, path.as_uri()))
        return browser

    yield open_page
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "DEBUG"] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert requests
    assert all(url.startswith(("file:", "data:")) for url in requests)


def cells(driver, column: int) -> list[str]:
    script = "return [...document.querySelectorAll('section[aria-labelledby=choice] tbody tr')]"
    return driver.execute_script(script + ".filter(r => !r.hidden).map(r => r.cells[arguments[0]].textContent)", column)


def visible(driver, css: str) -> list[object]:
    return [each for each in driver.find_elements("css selector", css) if each.is_displayed()]


@pytest.mark.parametrize(("width", "shown", "other"), [(1280, "wide", "narrow"), (390, "narrow", "wide")])
def test_the_plot_is_drawn_and_nothing_is_cut_off(opened, full, width, shown, other) -> None:
    driver = opened(width)
    (plot,) = visible(driver, f"svg.{shown}")
    assert not visible(driver, f"svg.{other}")
    assert plot.size["width"] > 0.85 * (min(width, 1180) - 32)
    marks = driver.find_elements("css selector", f"svg.{shown} [data-mark] use")
    assert len(marks) >= len(cells(driver, 0)) - 1
    assert all(mark.size["width"] > 0 for mark in marks)
    inside = driver.execute_script(
        "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    assert inside
    frame, texts = plot.rect, driver.find_elements("css selector", f"svg.{shown} text")
    for text in texts:
        box = text.rect
        assert frame["x"] - 1 <= box["x"]
        assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1


def test_tables_sort_with_the_keyboard(opened) -> None:
    driver = opened()
    buttons = driver.find_elements("css selector", "section[aria-labelledby=choice] thead button")
    heading = "return arguments[0].closest('th').getAttribute('aria-sort')"
    top1, p = buttons[3], buttons[-1]
    top1.send_keys("\ue007")  # Enter
    assert driver.execute_script(heading, top1) == "ascending"
    values = [float(text) for text in cells(driver, 3)]
    assert values == sorted(values)
    top1.send_keys(" ")
    assert driver.execute_script(heading, top1) == "descending"
    values = [float(text) for text in cells(driver, 3)]
    assert values == sorted(values, reverse=True)
    for _ in range(2):  # what was not measured is last in both orders
        p.click()
        assert cells(driver, len(buttons) - 1)[-1] == "-"
    assert driver.execute_script(heading, top1) is None


def test_the_pickers_filter_table_plot_and_bars(opened) -> None:
    driver = opened()
    everything = len(cells(driver, 0))
    for name, value in (("width", "4"), ("basis", "CosConv")):
        driver.find_element("css selector", f"select[name={name}] option[value='{value}']").click()
    names = cells(driver, 0)
    assert names[0] == "Original, float32"
    series = [f"CosConv {config} at 4 bits" for config in ("2,2,2,2,2", "6,3,3,2,2", "6,3,3,3,2")]
    assert sorted(names[1:]) == [*series, "dense at 4 bits"]
    assert driver.find_element("css selector", ".picker output").text.startswith("4 of ")
    assert len({each.get_attribute("data-mark") for each in visible(driver, "svg.wide [data-mark]")}) == 4
    assert len(visible(driver, ".stacks li")) == 4
    layers = [each.text for each in visible(driver, "summary") if each.text.startswith("Layers: ")]
    configs = ("2,2,2,2,2", "6,3,3,2,2", "6,3,3,3,2", "Conv2D")
    assert sorted(layers) == [f"Layers: {config}" for config in configs]
    driver.find_element("css selector", ".picker button").click()
    # The page filters once the browser has reset the form, which may be after the click returns.
    wait.WebDriverWait(driver, PATIENCE).until(lambda _: len(cells(driver, 0)) == everything)


def test_dark_mode_changes_page_and_plot(opened) -> None:
    driver = opened()
    color = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    light = [driver.execute_script(color, *what) for what in (("body", "backgroundColor"), ("svg.wide text", "fill"))]
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    dark = [driver.execute_script(color, *what) for what in (("body", "backgroundColor"), ("svg.wide text", "fill"))]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert light[0] == "rgb(255, 255, 255)"
    assert light[0] != dark[0]
    assert light[1] != dark[1]


def test_a_mark_and_its_line_show_each_other(opened) -> None:
    driver = opened()
    line = driver.find_element("css selector", "tr[data-row]")
    webdriver.ActionChains(driver).move_to_element(line).perform()
    pointed = driver.find_elements("css selector", "svg.wide .pointed")
    assert {each.get_attribute("data-mark") for each in pointed} == {line.get_attribute("data-row")}


def test_names_that_are_markup_do_nothing(opened, hostile_page) -> None:
    driver = opened(text=hostile_page)
    assert "<script>" in driver.find_element("css selector", "h1").text
    assert driver.execute_script("return document.scripts.length") == 1
