"""The page of `mbt table --html`, opened in a real browser, and what must hold of it without one."""

import json
import re
import shutil
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from made_runs import bottleneck, make_run, make_sweep

from mbt_lightning.cli import table
from mbt_lightning.table.html_page import SCRIPTS, thinned

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
NASTY = "</script><script>alert(1)</script> <b>&amp;\u2028"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of a sweep, one run of which failed with a message that is no HTML."""
    folder = tmp_path_factory.mktemp("page")
    make_sweep(folder / "runs/fusion", layers=(0, 8, 12))
    for path in folder.glob("runs/fusion/late-*/config.yaml"):
        path.write_text(path.read_text().replace("\nruns: runs\n", "\nruns: elsewhere\n"))
    make_run(folder / "runs/alone/v", 0.5, model__modalities=["rgb"])
    failed = {"state": "failed", "message": NASTY, "pid": 1, "host": ""}
    own = {"class_path": f"my.{NASTY}", "init_args": bottleneck()["init_args"]}
    make_run(folder / "runs/fusion/x", None, failed, model__fusion=own)
    table.main([str(folder / "runs"), "--out", str(folder / "out"), "--html"])
    return folder / "out/index.html"


@pytest.fixture(scope="module")
def text(page: Path) -> str:
    """The page without BokehJS."""
    text = page.read_text(encoding="utf-8")
    for name in SCRIPTS:
        text = text.replace(files("bokeh").joinpath("server/static/js", name).read_text(encoding="utf-8"), "")
    return text


def test_nothing_is_asked_of_the_network(text: str) -> None:
    """No address is loaded, and the page forbids itself to load any."""
    assert "default-src 'none'" in text and len(text) < 400_000
    addresses = set(re.findall(r"""(?:src|href|action|data)\s*=\s*["']([^"']*)""", text))
    assert {address for address in addresses if not address.startswith(("#", "data:"))} == set()
    assert "url(" not in text and "@import" not in text


def test_foreign_text_is_no_markup(text: str) -> None:
    assert text.count("<script") == 4 and "<b>" not in text and "\\u003cb\\u003e" in text
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*)</script>', text)[1])
    assert NASTY in {run["message"] for row in data["rows"] for run in row["runs"]}


def test_curves_are_thinned_evenly() -> None:
    curve = [(step, step / 7) for step in range(1000)]
    thin = thinned({"train/loss": curve, "train/other": curve, "val/score": curve[:3]}, ["train/loss", "val/score"], 50)
    assert set(thin) == {"train/loss", "val/score"} and len(thin["val/score"]) == 3
    steps = [step for step, _ in thin["train/loss"]]
    assert len(steps) == 50 and (steps[0], steps[-1]) == (0, 999)
    assert {b - a for a, b in pairwise(steps)} <= {20, 21}
    assert thin["train/loss"][-1][1] == pytest.approx(999 / 7, rel=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# In a browser
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium that writes down what it asks the network for."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (BROWSER and DRIVER):
        pytest.skip("there is no Chromium with its driver here")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1300,900",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page: Path):
    """The page, loaded anew; at the end it has asked for nothing but itself, and its console shows no problem."""
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(page.as_uri())
    yield browser
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [
        params["request"]["url"] for params in sent if params["documentURL"] == page.as_uri()
    ]  # not Chromium's own
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []


def texts(browser, selector: str) -> list[str]:
    return [found.text for found in browser.find_elements("css selector", selector)]


def column(browser, number: int) -> list[str]:
    return texts(browser, f"tr.point > :nth-child({number})")


def test_a_heading_sorts(opened) -> None:
    heads = texts(opened, "thead button")
    place = heads.index("mAP") + 1
    before = column(opened, place)
    head = opened.find_element("css selector", f"thead th:nth-child({place})")
    assert head.get_attribute("aria-sort") == "none"

    def numbers(cells: list[str]) -> list[float]:
        return [float(cell.split()[0]) for cell in cells if cell != "–"]

    head.find_element("css selector", "button").click()
    down = column(opened, place)
    assert head.get_attribute("aria-sort") == "descending" and down != before
    assert numbers(down) == sorted(numbers(before), reverse=True) and down[-1] == "–"
    head.find_element("css selector", "button").send_keys("\ue007")  # Enter
    up = column(opened, place)
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers(up) == sorted(numbers(before)) and up[-1] == "–", "what has no value stays behind"
    opened.find_element("css selector", "thead th:first-child button").click()
    names = column(opened, 1)
    assert names == sorted(names, key=str.lower) and head.get_attribute("aria-sort") == "none"


def glyphs(browser) -> list[list[tuple[str, int]]]:
    """Kind and number of points of what each plot of the page draws."""
    return browser.execute_script(
        "return Bokeh.documents.map(d => d.roots()[0].renderers.map("
        "r => [r.glyph.type, r.data_source.get('x') ? r.data_source.get('x').length : 0]))"
    )


def test_a_row_opens_its_settings_and_curves(opened) -> None:
    row = next(i for i, cells in enumerate(zip(column(opened, 1), column(opened, 2), strict=True)) if cells[1] == "12")
    button = opened.find_elements("css selector", "tr.point button")[row]
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    (detail,) = opened.find_elements("css selector", "tr.detail")
    assert "late fusion" in detail.text and detail.text.count("finished") == 3
    assert [found.text for found in detail.find_elements("css selector", "figcaption")] == ["train/loss", "val/score"]
    assert glyphs(opened)[1:] == [[["Line", 32]] * 3, [["Line", 8]] * 3]
    differing, everything = detail.find_elements("css selector", "dl")
    assert differing.text.split("\n") == ["model.fusion_layer", "12"]
    assert not everything.is_displayed()
    detail.find_element("css selector", "summary").click()
    lines = everything.text.split("\n")
    assert lines[lines.index("data.window_seconds") + 1] == "1.6" and "model.optimizer.init_args.lr" in lines
    assert lines[lines.index("runs") + 1] == "elsewhere", "what makes no difference is with the rest only"

    opened.find_element("css selector", "thead th:nth-child(4) button").click()  # it moves along with its row
    after = "return document.querySelector('tr.detail').previousElementSibling.innerText"
    assert opened.execute_script(after).startswith("late fusion")
    button.click()
    assert opened.find_elements("css selector", "tr.detail") == []


def test_any_column_is_plotted_over_any(opened) -> None:
    """Over L_f a line a strategy, late fusion a point; over costs the points of each strategy."""
    webdriver_select = pytest.importorskip("selenium.webdriver.support.ui").Select
    x, y = (webdriver_select(opened.find_element("id", name)) for name in "xy")
    assert (x.first_selected_option.text, y.first_selected_option.text) == ("L_f", "mAP")
    names = [option.text for option in y.options]
    assert names == ["mAP", "rgb", "spectrogram", "video", "relation"]
    drawn = glyphs(opened)[-1]
    assert [n for kind, n in drawn if kind == "Line"] == [2, 2, 2]
    assert sorted(n for kind, n in drawn if kind == "Scatter") == [1, 2, 2, 2]
    x.select_by_visible_text("GFLOPs")
    drawn = glyphs(opened)[-1]
    assert len(glyphs(opened)) == 2 and {kind for kind, _ in drawn} == {"Scatter", "Segment"}
    assert sorted(n for kind, n in drawn if kind == "Scatter") == [1, 1, 2, 2, 2]
    assert len(opened.find_elements("css selector", "#plot > .bk-Figure")) == 1


def test_foreign_text_is_shown_as_it_is(opened) -> None:
    for button in opened.find_elements("css selector", "tr.point button"):
        button.click()
    details = "\n".join(texts(opened, "tr.detail"))
    assert "</script><script>alert(1)</script> <b>&amp;" in details
    assert "\\<b\\>" not in details and texts(opened, "b") == []


@pytest.mark.parametrize("width", [390, 1300])
def test_the_page_is_as_wide_as_the_screen(opened, width: int) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    opened.find_elements("css selector", "tr.point button")[0].click()
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    assert len(opened.find_elements("css selector", ".figures img")) == 4
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
