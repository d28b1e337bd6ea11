"""The contact sheet is one self-contained page, whatever the names and photos are."""

from __future__ import annotations

import base64
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from magicmm import ErrorCode, MagicError, Match, Results, Signal
from magicmm.sheet import THUMBNAIL_SIDE, write_sheet
from magicmm.sources import path_uri


class Page(HTMLParser):
    """Collects what a browser would load and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


def results_for(*paths: Path) -> Results:
    matches = [Match(place, path_uri(path), 0.9 - place / 10, None, 1, 1) for place, path in enumerate(paths)]
    return Results(tuple(matches), len(paths))


def test_the_page_holds_its_thumbnails_and_loads_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 900), (10, 200, 30)).save(tmp_path / "wide.jpg")
    write_sheet(tmp_path / "out.html", "green", results_for(tmp_path / "wide.jpg"))
    text = (tmp_path / "out.html").read_text("utf-8")
    page = Page(text)
    (image,) = page.images
    assert image["src"].startswith("data:image/jpeg;base64,")
    thumbnail = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
    assert max(thumbnail.size) <= 2 * THUMBNAIL_SIDE
    assert thumbnail.resize((1, 1)).getpixel((0, 0))[1] > 150
    assert not re.search(r"(src|href)=\"https?:|<script|<link|@import", text)


def test_names_and_titles_cannot_inject_markup(tmp_path: Path) -> None:
    evil = tmp_path / os.fsdecode(b'<script>alert(1)<\xff>".png'.replace(b"/", b""))
    Image.new("RGB", (8, 8)).save(evil, "PNG")
    write_sheet(tmp_path / "out.html", "<img src=x onerror=alert(1)>", results_for(evil))
    page = Page((tmp_path / "out.html").read_text("utf-8"))
    assert "script" not in page.tags
    assert len(page.images) == 1
    assert "<img src=x onerror=alert(1)>" in page.text


def test_a_photo_that_has_gone_says_so(tmp_path: Path) -> None:
    write_sheet(tmp_path / "out.html", "x", results_for(tmp_path / "gone.jpg"))
    page = Page((tmp_path / "out.html").read_text("utf-8"))
    assert page.images == []
    assert any("does not exist" in text for text in page.text)


def test_no_match_is_a_page_too(tmp_path: Path) -> None:
    write_sheet(tmp_path / "out.html", "x", Results((), 0))
    assert "No photo matches." in Page((tmp_path / "out.html").read_text("utf-8")).text


def test_a_sheet_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out.html").mkdir()
    with pytest.raises(MagicError) as caught:
        write_sheet(tmp_path / "out.html", "x", Results((), 0))
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]


def test_doubt_and_confidence_are_shown(tmp_path: Path) -> None:
    def shown(confidence: float | None, is_doubtful: bool) -> str:
        write_sheet(tmp_path / "out.html", "x", Results((), 50, confidence=confidence, is_doubtful=is_doubtful))
        return " ".join(Page((tmp_path / "out.html").read_text("utf-8")).text)

    assert "Probably nothing in this library matches" in shown(0.04, True)
    assert "Confidence of the first: 4%" in shown(0.04, True)
    assert "Probably nothing" not in shown(0.6, False)
    assert "Confidence" not in shown(None, False)


def test_signals_are_shown_where_they_lifted(tmp_path: Path) -> None:
    uri = path_uri(tmp_path / "gone.jpg")
    matches = tuple(Match(key, uri, 0.5, None, 1, 1, {"season": value}) for key, value in ((1, 1.0), (2, 0.0)))
    write_sheet(tmp_path / "out.html", "x", Results(matches, 2, signals=(Signal("season", "in <winter>"),)))
    page = Page((tmp_path / "out.html").read_text("utf-8"))
    assert page.text.count("0.500 + season") == 1
    assert page.text.count("0.500") == 1
    assert "Lifted for date or place: in <winter>." in page.text
    write_sheet(tmp_path / "out.html", "x", Results(matches[1:], 1, signals=(Signal("season", "in winter"),)))
    assert "Lifted" not in (tmp_path / "out.html").read_text("utf-8")
