"""The structure of report.html, without a browser."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from reports.html.filters import filters
from reports.html.page import render_page
from reports.html.parts import layers, pickers, stacks, tiles
from reports.model import Report
from tests.reports.html.conftest import CHEB, COS, HOSTILE
from tests.support.reports import make_kernels, make_target_row

VOID = {"meta", "link", "br", "img", "input", "path", "rect", "use", "hr"}
LARGEST = 5_000_000


class Page(HTMLParser):
    """Checks that every element is closed, and collects elements, ids, links and texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module", params=["page", "hostile_page"])
def parsed(request) -> Page:
    return Page(request.getfixturevalue(request.param))


def test_every_element_is_closed_and_every_id_is_unique(parsed) -> None:
    assert parsed.open == []
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [each["href"] for each in parsed.all("a") + parsed.all("use")]
    assert links
    assert {link[1:] for link in links if link} <= set(ids)
    labels = [attributes["aria-labelledby"] for _, attributes in parsed.elements if "aria-labelledby" in attributes]
    assert set(labels) <= set(ids)


def without_vega(page: str) -> str:
    """The page without Vega, whose code names addresses that it never opens."""
    return re.sub(r'<script type="module">.*?</script>', "", page, flags=re.DOTALL)


def test_nothing_is_loaded_from_elsewhere(page) -> None:
    parsed = Page(page)
    for _, attributes in parsed.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))
        assert not re.search(r"url\((?!#)", attributes.get("style") or "")
    sheet = next(text for tag, text in parsed.texts if tag == "style")
    assert not re.search(r"@import|url\(|https?:", sheet)
    assert "://" not in without_vega(page)
    assert len(page.encode()) < LARGEST


def test_only_the_pages_own_scripts_may_run(parsed, page) -> None:
    policy = next(each["content"] for each in parsed.all("meta") if each.get("http-equiv"))
    scripts = re.findall(r'<script(?: type="module")?>(.*?)</script>', page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(digests) == 2
    assert f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}';" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert [each.get("type") for each in parsed.all("script")] == [None, "application/json", "module"]
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]


def test_names_are_escaped(hostile_page) -> None:
    assert HOSTILE not in hostile_page
    assert "alert('x')</" not in hostile_page
    assert any(HOSTILE in each["words"] for each in values(hostile_page, "points"))
    texts = [text for tag, text in Page(hostile_page).texts if tag in ("h1", "code", "th", "td", "h3", "title")]
    assert sum("<script>alert('x')</script>" in text for text in texts) >= 6


def test_the_page_depends_on_the_json_alone(full, page) -> None:
    assert render_page(Report.model_validate_json(full.model_dump_json())) == page


def values(page: str, layer: str) -> list[dict[str, object]]:
    """The data of a layer of the plot."""
    text = re.search(r'id="size-plot">(.*?)</script>', page, re.DOTALL)[1]
    return next(each["data"]["values"] for each in json.loads(text)["layer"] if each["name"] == layer)


def test_every_row_has_a_line_a_mark_and_a_bar(full, page) -> None:
    rows = {int(each["data-row"]) for each in Page(page).all("tr") if "data-row" in each}
    assert len(rows) == 4 + 2 * 12 + 2
    points = values(page, "points")
    assert {each["row"] for each in points} == rows | {None}
    assert len(points) == len(rows) + 1
    assert len(stacks(full)) == len(rows)
    assert all(100 >= stack.length > 0 for stack in stacks(full))


def test_gate_and_warnings_come_before_the_figures(page) -> None:
    places = [page.index(f">{title}</h2>") for title in ("Warnings", "Rows that fail the gate", "Which file to take")]
    assert places == sorted(places)
    assert "cosine 2,2,2,2 at 2 bits loses 59.17 points" in page
    assert "was rolled back" in page


def test_the_page_shows_no_marks_of_markdown(page) -> None:
    shown = [text for tag, text in Page(page).texts if tag not in ("script", "style")]
    assert not [text for text in shown if "`" in text or "**" in text]


def test_warnings_about_the_baseline_are_shown_too(report, row) -> None:
    data = report([row(COS, "3,3", 4, 98.0)])
    data.baseline.warnings = ["the baseline's Top-1 of 11.00 is <near> chance"]
    text = render_page(data)
    assert ("p", "the baseline's Top-1 of 11.00 is <near> chance.") in Page(text).texts
    assert text.index("is &lt;near&gt; chance.") < text.index('<p class="summary">')


def test_the_tile_of_top1_names_the_baseline_that_the_change_is_against(report, row) -> None:
    words = [tile.words for tile in tiles(report([row(COS, "3,3,3,2", 4, 98.5)])) if tile.label == "Top-1"]
    assert words == ["-0.67 points against 99.17"]
    own = row(COS, "3,3,3,2", 4, 98.5).model_copy(update={"baseline_top1": 99.0})  # of its seed, in a merged report
    assert tiles(report([own]))[1].words == "-0.50 points against 99.00"


def test_the_pickers_offer_what_differs(full, report, row) -> None:
    offered = {picker.name: picker.values for picker in pickers(full)}
    assert offered["basis"] == ["CosConv", "ChebConv"]
    assert offered["width"] == ["8", "4", "3", "2", "0.9 MB"]
    assert "Conv2D" in offered["config"]
    one = report([row(COS, "3,3", 4, 98.0)])
    assert pickers(one) == []
    assert '<form class="picker"' not in render_page(one)


def test_the_layers_have_the_values_of_their_rows_for_the_pickers(report, row) -> None:
    rows = [row(basis, "a", bits, 98.0) for basis in (COS, CHEB) for bits in (8, 4)]
    data = report([*rows, row(COS, "dense", 3, 98.0), make_target_row(CHEB, 98.0, config="b")], errors=True)
    for layer in data.layers:
        layer.target_mb = 0.04 if layer.config == "b" else None
    found = {each.title: each.attributes for each in layers(data)}
    assert found["a"] == {"data-basis": "CosConv\nChebConv", "data-config": "a", "data-width": "8\n4"}
    assert found["Conv2D"] == {"data-config": "Conv2D", "data-width": "3"}
    assert found["b at 0.04 MB"] == {"data-basis": "ChebConv", "data-config": "b", "data-width": "0.04 MB"}


def test_bars_of_errors_are_logarithmic(report, row) -> None:
    data = report([row(COS, "a", 4, 98.0)], errors=True)
    data.layers[0].fit_error, data.layers[1].fit_error, data.layers[2].fit_error = 0.1, 1e-9, 3.0
    lengths = re.findall(r"--length:([\d.]+)%", layers(data)[0].table)
    assert [float(length) for length in lengths[::3]][:3] == [80.0, 0.0, 100.0]


@pytest.mark.parametrize(("series", "orders"), [([COS], [6, 6]), ([], None)])
def test_the_filters_of_families_have_no_order(report, row, series, orders) -> None:
    data = report([row(COS, "a", 4, 98.0)])
    data.kernels = make_kernels([*series, "fracsrf"]).model_copy(update={"orders": orders})
    captions = [picture.caption for part in filters(data) for picture in part.pictures]
    assert captions[0] == "As trained, 7×7 weights"
    assert [caption.partition(", error")[0] for caption in captions[1:-1]] == ["CosConv, order 6×6"][: len(series)]
    assert re.fullmatch(r"FracSRF, error \d+\.\d %", captions[-1])
    assert Page(render_page(data)).open == []


def test_a_layer_of_several_orders_has_one_heading(report, row) -> None:
    data = report([row(COS, "a", 4, 98.0)])
    data.kernels = make_kernels([COS]).model_copy(update={"orders": [6, 6]})
    data.kernels.further = [data.kernels.model_copy(update={"orders": [5, 5], "further": []})]
    (layer,) = filters(data)
    captions = [picture.caption.partition(", error")[0] for picture in layer.pictures]
    assert captions == ["As trained, 7×7 weights", "CosConv, order 6×6", "CosConv, order 5×5"]


def test_a_weight_that_rounds_to_zero_has_no_sign(report, row) -> None:
    data = report([row(COS, "a", 4, 98.0)])
    data.kernels = make_kernels([COS]).model_copy(update={"original": [[-0.001, 0.5], [0.0, -0.5]], "fits": {}})
    (picture,) = filters(data)[0].pictures
    assert re.findall(r"<text[^>]*>([^<]*)</text>", picture.drawing) == ["0.00", "0.50", "0.00", "-0.50"]


def test_a_report_with_little_in_it_is_a_page(report, row) -> None:
    bare = report([row(COS, "a", 4, 98.0, top1_quant=None)], dataset=None)
    bare.kernels, bare.layers, bare.baseline.top1 = None, [], None
    parsed = Page(render_page(bare))
    assert parsed.open == []
    assert parsed.all("svg") == []
    assert len(parsed.all("script")) == 1
    assert Page(render_page(report([]))).open == []
