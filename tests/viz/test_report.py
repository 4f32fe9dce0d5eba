from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jaxvl.viz import html, terminal
from jaxvl.viz.cells import cell, column
from jaxvl.viz.curves import Series
from jaxvl.viz.timeline import Bar

EVIL = '<script>alert("x")</script> & "quotes"'
VOID = {"meta", "img", "br", "line", "rect", "circle", "path"}


class Page(HTMLParser):
    """Collects tags, attributes and text; fails where an element is closed that is not the open one."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open, f"</{tag}> without its beginning"
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag) -> list[dict]:
        return [attrs for t, attrs in self.tags if t == tag]


@pytest.fixture(scope="module")
def page() -> str:
    return html.render_report(
        EVIL,
        [
            html.KeyValues("Run " + EVIL, {"method": EVIL, "seed": 3, "amp": None, EVIL: 0.5}),
            html.Table(EVIL, ["direction", "R@1", EVIL], [[EVIL, 34.375, 7], ["chance", 0.390625, None]], EVIL),
            html.Curves("Curves", [(EVIL, [Series(EVIL, [1, 2], [3.0, 4.0])]), ("lr", [])], log_y=["lr"]),
            html.Picture("Picture", np.full((6, 9, 3), 77, np.uint8), EVIL),
            html.Text("Notes", [EVIL, "second"]),
            html.Timeline("Events", [(EVIL, [Bar(0, 1, EVIL)])], 2.0, EVIL),
        ],
    )


def test_the_page_is_well_formed_and_needs_nothing_else(page):
    parsed = Page(page)
    assert page.startswith("<!DOCTYPE html>")
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert "http" not in page
    assert "@import" not in page
    assert "url(" not in page
    for _, attrs in parsed.tags:
        assert not any(name.startswith("on") for name in attrs)
        assert attrs.get("src", "data:image/").startswith("data:image/")
        assert attrs.get("href", "#").startswith("#")
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert {attrs["href"][1:] for attrs in parsed.all("a")} == set(ids)


def test_everything_from_the_run_is_escaped_and_still_said(page):
    assert "<script" not in page.lower()
    text = Page(page).text
    assert text.count(EVIL) >= 10
    assert Page(page).all("img")[0]["alt"] == EVIL


def test_numbers_go_right_and_share_their_decimals(page):
    cells = re.findall(r"<td( class=\"number\")?>([^<]*)</td>", page)
    assert (' class="number"', "34.4") in cells
    assert (' class="number"', "0.4") in cells
    assert (' class="number"', "–") in cells
    assert ("", "chance") in cells


def test_the_picture_is_in_the_page(page):
    (img,) = Page(page).all("img")
    picture = Image.open(io.BytesIO(base64.b64decode(img["src"].split(",")[1])))
    assert picture.size == (9, 6) == (int(img["width"]), int(img["height"]))
    assert picture.convert("RGB").getpixel((3, 3)) == (77, 77, 77)


def test_wrong_sections_are_refused():
    with pytest.raises(ValueError, match="1 cells in a row of 2"):
        html.render_report("t", [html.Table("a", ["x", "y"], [[1]])])
    with pytest.raises(TypeError, match="str is no section"):
        html.render_report("t", ["no section"])
    assert Page(html.render_report("empty", [])).all("nav") == []


# --------------------------------------------------------------------------------------------------- cells


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([34.375, 0.390625], ["34.4", "0.4"]), ([2.0, 128.0], ["2", "128"]), ([0.1234, 0.5], ["0.123", "0.500"]),
        ([1.5, None, 2], ["1.50", "–", "2"]), ([3e-5, 1e-4], ["3e-05", "0.0001"]), ([12345, True], ["12,345", "yes"]),
        ([1234.5, 2.0], ["1,234", "2"]), ([float("nan"), 2.5], ["nan", "2.50"]), 
        (["a", np.float32(0.5)], ["a", "0.500"]),
    ],
)  # fmt: skip
def test_a_column_shares_its_decimals(values, expected):
    assert column(values) == expected


def test_single_cells():
    assert [cell(v) for v in (None, False, 7, 10_000, 0.12345678, "x")] == ["–", "no", "7", "10,000", "0.1235", "x"]


# ------------------------------------------------------------------------------------------------- terminal


def test_plain_text_is_aligned():
    text = terminal.format_table([["text to video", 34.375, 2], ["chance", 0.39, 128]], ["", "R@1", "MdR"], "Retrieval")
    assert text.splitlines() == [
        "Retrieval",
        "                R@1  MdR",
        "-------------  ----  ---",
        "text to video  34.4    2",
        "chance          0.4  128",
    ]
    assert terminal.format_table([], ["a", "b"]) == "a  b\n-  -"
    assert len(terminal.format_table([["two\nlines"]], ["a"]).splitlines()) == 3


def test_a_pipe_gets_plain_text_and_a_terminal_a_drawn_table():
    pytest.importorskip("rich")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    rows, columns = [["[bold]red[/bold]", 1.5]], ["name", "R@1"]
    pipe, tty = io.StringIO(), Terminal()
    terminal.table(rows, columns, "T [x]", file=pipe)
    terminal.table(rows, columns, "T [x]", file=tty)
    assert pipe.getvalue() == terminal.format_table(rows, columns, "T [x]") + "\n"
    drawn = tty.getvalue()
    assert "[bold]red[/bold]" in drawn  # no markup
    assert "1.50" in drawn
    assert any(rule in drawn for rule in "│┃|")
    with pytest.raises(ValueError, match="2 columns"):
        terminal.table([[1]], columns, file=pipe)
