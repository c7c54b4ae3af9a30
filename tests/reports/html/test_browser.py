"""report.html in a headless browser: plot, sorting, picking, dark mode, narrow screens, and no request.

The tests share one page, and leave it as they found it, except for the order of lines.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: it drives the browser")
wait = pytest.importorskip("selenium.webdriver.support.wait")

PATIENCE = 120
LOADED = "return location.href === arguments[0] && document.readyState === 'complete' && %s"
DRAWN = "document.querySelector('.plot svg .mark-symbol path') !== null"
MARKS = ".plot svg .mark-symbol.role-mark path"
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


def load(browser, path: Path, text: str) -> None:
    """Open a page, and wait until its plot is drawn."""
    path.write_text(text, encoding="utf-8")
    browser.get(path.as_uri())
    wait.WebDriverWait(browser, PATIENCE).until(lambda _: browser.execute_script(LOADED % DRAWN, path.as_uri()))


def resize(browser, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture(scope="module")
def loaded(browser, page, tmp_path_factory) -> object:
    """The page, 1280 pixels wide."""
    resize(browser, 1280)
    load(browser, tmp_path_factory.mktemp("page") / "report.html", page)
    return browser


@pytest.fixture
def driver(loaded) -> Iterator[object]:
    """The page. Nothing goes wrong in it, and it loads nothing."""
    yield loaded
    check(loaded)


def check(browser) -> None:
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "DEBUG"] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert all(url.startswith(("file:", "data:")) for url in requests)


def until(driver, reached: Callable[[], bool]) -> None:
    """Wait for the page, which draws the plot a little later than its parameters are set."""
    wait.WebDriverWait(driver, PATIENCE, poll_frequency=0.02).until(lambda _: reached())


def marks(driver) -> dict[int | None, object]:
    """The largest mark of each row in the plot; None: that of the original."""
    script = f"return [...document.querySelectorAll('{MARKS}')].map(each => [each.__data__.datum.row, each])"
    return dict(reversed(driver.execute_script(script)))


def faint(driver) -> set[int | None]:
    """The rows whose marks are faint, because another one is pointed at."""
    return {row for row, mark in marks(driver).items() if float(mark.get_attribute("opacity") or 1) < 0.5}


def cells(driver, column: int) -> list[str]:
    script = "return [...document.querySelectorAll('section[aria-labelledby=choice] tbody tr')]"
    return driver.execute_script(script + ".filter(r => !r.hidden).map(r => r.cells[arguments[0]].textContent)", column)


def visible(driver, css: str) -> list[object]:
    return [each for each in driver.find_elements("css selector", css) if each.is_displayed()]


def texts(driver) -> list[dict[str, float]]:
    """The boxes of the visible texts of the plot."""
    script = (
        "return [...document.querySelectorAll('.plot svg text')].filter(each => each.getAttribute('opacity') !== '0')"
    )
    return driver.execute_script(
        script + ".map(each => each.getBoundingClientRect().toJSON()).filter(each => each.width > 0)"
    )


@pytest.mark.parametrize("width", [390, 1280])
def test_the_plot_is_drawn_and_nothing_is_cut_off(driver, full, width) -> None:
    frame = "return document.querySelector('.plot svg').getBoundingClientRect().toJSON()"
    resize(driver, width)
    until(driver, lambda: abs(driver.execute_script(frame)["width"] - (min(width, 1180) - 36)) < 10)
    assert len(marks(driver)) == 4 + 2 * 12 + 2 + 1
    assert all(mark.size["width"] > 0 for mark in marks(driver).values())
    inside = driver.execute_script(
        "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    assert inside
    box, found = driver.execute_script(frame), texts(driver)
    assert len(found) > 20
    for place, text in enumerate(found):
        assert box["left"] - 1 <= text["left"]
        assert text["right"] <= box["right"] + 1
        apart = [
            text["right"] <= other["left"] + 1
            or other["right"] <= text["left"] + 1
            or text["bottom"] <= other["top"] + 4  # boxes of lines overlap a little
            or other["bottom"] <= text["top"] + 4
            for other in found[:place]
        ]
        assert all(apart)


def test_tables_sort_with_the_keyboard(driver) -> None:
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


def test_the_pickers_filter_table_plot_and_bars(driver) -> None:
    everything = len(cells(driver, 0))
    for name, value in (("width", "4"), ("basis", "CosConv")):
        driver.find_element("css selector", f"select[name={name}] option[value='{value}']").click()
    series = [f"CosConv {config} at 4 bits" for config in ("2,2,2,2,2", "6,3,3,2,2", "6,3,3,3,2")]
    assert sorted(cells(driver, 0)) == [*series, "Original, float32", "dense at 4 bits"]
    assert driver.find_element("css selector", ".picker output").text.startswith("4 of ")
    until(driver, lambda: len(marks(driver)) == 4 + 1)
    assert len(visible(driver, ".stacks li")) == 4
    layers = [each.text for each in visible(driver, "summary") if each.text.startswith("Layers: ")]
    configs = ("2,2,2,2,2", "6,3,3,2,2", "6,3,3,3,2", "Conv2D")
    assert sorted(layers) == [f"Layers: {config}" for config in configs]
    driver.find_element("css selector", ".picker button").click()
    # The page filters once the browser has reset the form, which may be after the click returns.
    until(driver, lambda: len(cells(driver, 0)) == everything == len(marks(driver)))


def test_dark_mode_changes_page_and_plot(driver) -> None:
    color = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    parts = [("body", "backgroundColor"), (".plot svg text", "fill"), (MARKS, "fill"), (".plot svg line", "stroke")]
    light = [driver.execute_script(color, *what) for what in parts]
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    dark = [driver.execute_script(color, *what) for what in parts]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert light[0] == "rgb(255, 255, 255)"
    assert all(before != after for before, after in zip(light, dark, strict=True))
    assert [driver.execute_script(color, *what) for what in parts] == light


def test_a_mark_and_its_line_show_each_other(driver) -> None:
    line = driver.find_element("css selector", "tr[data-row]")
    own = int(line.get_attribute("data-row"))
    others = set(marks(driver)) - {own}
    webdriver.ActionChains(driver).move_to_element(line).perform()
    until(driver, lambda: faint(driver) == others)

    mark = marks(driver)[target := max(row for row in others if row is not None)]
    webdriver.ActionChains(driver).move_to_element(mark).perform()
    until(driver, lambda: [each.get_attribute("data-row") for each in pointed(driver)] == [str(target)])
    until(driver, lambda: faint(driver) == set(marks(driver)) - {target})
    tooltip = driver.find_element("css selector", "#vg-tooltip-element.visible")
    assert tooltip.text.startswith(f"{pointed(driver)[0].find_element('css selector', 'th').text}: ")

    webdriver.ActionChains(driver).move_to_element(driver.find_element("css selector", "h1")).perform()
    until(driver, lambda: not pointed(driver) and not faint(driver))


def pointed(driver) -> list[object]:
    return driver.find_elements("css selector", "tr.pointed")


def test_the_wheel_scrolls_the_page_and_zooms_only_with_ctrl(driver) -> None:
    def place() -> str:
        return marks(driver)[0].get_attribute("transform")

    turn = (
        "const box = arguments[0].getBoundingClientRect(), given = {bubbles: true, cancelable: true, deltaY: -300};"
        "given.clientX = box.x + 2; given.clientY = box.y + 2; given.ctrlKey = arguments[1];"
        "return arguments[0].dispatchEvent(new WheelEvent('wheel', given));"
    )
    mark = marks(driver)[None]
    before = place()
    assert driver.execute_script(turn, mark, False)  # the page scrolls, unless the plot prevents it
    assert not driver.execute_script(turn, mark, True)
    until(driver, lambda: place() != before)
    webdriver.ActionChains(driver).double_click(driver.find_element("css selector", ".plot svg")).perform()
    until(driver, lambda: place() == before)


def test_names_that_are_markup_do_nothing(loaded, hostile_page, tmp_path) -> None:
    """The last test, because it opens another page."""
    load(loaded, tmp_path / "hostile.html", hostile_page)
    assert "<script>" in loaded.find_element("css selector", "h1").text
    assert loaded.execute_script("return document.scripts.length") == 3
    webdriver.ActionChains(loaded).move_to_element(marks(loaded)[1]).perform()
    until(loaded, lambda: "<script>" in loaded.find_element("css selector", "#vg-tooltip-element").text)
    check(loaded)
