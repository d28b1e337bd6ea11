"""The report: every number of the results, nothing that must be loaded, nothing that a name can break."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.evaluation.report import html, markdown, write_report
from magicmm_training.evaluation.report_rows import best_places, mean_rows, model_names, task_rows, warnings_of
from magicmm_training.evaluation.result import EvaluationResult, GridCell, MeanResult, RerankCost, TaskResult, Value


def value(score: float, pessimistic: float | None = None) -> Value:
    return Value(
        score, score, score if pessimistic is None else pessimistic, max(score - 0.05, 0), min(score + 0.05, 1)
    )


def result(model: str, score: float, reranked: bool = False) -> EvaluationResult:
    again = {"hit@1": value(score + 0.1)} if reranked else None
    task = TaskResult(
        "coco",
        "5k image to text",
        "hit@1",
        {"hit@1": value(score, score / 2), "hit@5": value(0.9)},
        queries=5000,
        scored=4990,
        candidates=25000,
        mean_pool=25000.0,
        unreadable_queries=10,
        truncated=12,
        tied=3,
        facts={"captions_beyond_the_fifth": 10, "nothing": 0},
        reranked=again,
    )
    mean = MeanResult("mmeb", "IND", 2, 20, value(score), value(score + 0.1) if reranked else None)
    cells = tuple(
        GridCell(dim, precision, dim * width, score * dim / 64, {})
        for dim in (16, 64)
        for precision, width in (("float32", 4), ("int8", 1))
    )
    cost = RerankCost(5, 25000, 12.5) if reranked else None
    return EvaluationResult(model, "abc", 64, (task,), (mean,), cells if reranked else (), cost, 30000, 99.0)


RESULTS = [result("stage 3", 0.612, reranked=True), result("stage 2a", 0.4)]


class Tags(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def test_all_numbers_are_there_in_both_forms() -> None:
    for text in ("".join(parsed(html(RESULTS)).text), markdown(RESULTS)):
        for number in (
            "61.2 [56.2, 66.2]",
            "71.2 [66.2, 76.2]",
            "40.0 [35.0, 45.0]",
            "30.6",  # pessimistic
            "4,990 of 5,000",
            "25,000",
            "captions beyond the fifth 10",
            "top 5: 25,000 pairs, 12.5 s",
            "30,000 in 99.0 s",
        ):
            assert number in text, number
        assert "nothing 0" not in text


def test_the_page_needs_nothing_else() -> None:
    page = html(RESULTS, "A title")
    tags = parsed(page)
    assert {"script", "link", "img", "iframe", "object"} & set(tags.tags) == set()
    assert {name for name, _ in tags.attributes} & {"src", "href", "onload", "onclick", "style"} == set()
    assert not re.search(r"https?:|url\(|@import", page)
    assert "<title>A title</title>" in page


def test_the_charts_are_well_formed_and_in_proportion() -> None:
    charts = re.findall(r'<svg viewBox="0 0 960.*?</svg>', html(RESULTS), re.DOTALL)
    assert len(charts) == 3
    bars = [ElementTree.fromstring(chart) for chart in charts][1].findall("rect")
    assert [float(bar.get("width", "")) for bar in bars] == pytest.approx(
        [570 * score for score in (0.612, 0.4, 0.712)], abs=0.06
    )
    grid = ElementTree.fromstring(charts[2])
    assert len(grid.findall("circle")) == 4
    assert len(grid.findall("path[@stroke-width='2']")) == 2


def test_names_cannot_break_the_page() -> None:
    evil = replace(result("<script>alert(1)</script>", 0.5), notes=('a "note" & <b>',))
    page = html([evil], "</title><script>")
    assert "script" not in parsed(page).tags
    assert "b" not in parsed(page).tags
    assert "| a \\| b" in markdown([replace(result("x", 0.5), model="a | b")])


def test_models_of_one_name_are_told_apart() -> None:
    assert model_names([RESULTS[0], RESULTS[1], RESULTS[0]]) == ("stage 3", "stage 2a", "stage 3 (2)")


def test_missing_values_leave_a_gap() -> None:
    other = replace(RESULTS[1], tasks=(), means=())
    rows = task_rows([RESULTS[0], other])
    assert [row.label for row in rows] == ["coco 5k image to text, hit@1", "coco 5k image to text, hit@1, reranked"]
    assert [row.values[1] for row in rows] == [None, None]
    assert "–" in html([RESULTS[0], other])  # noqa: RUF001 -- a dash is meant
    assert [len(row.values) for row in mean_rows(RESULTS)] == [2, 2]


def test_the_best_of_a_row_is_marked_only_in_company() -> None:
    rows = task_rows(RESULTS)
    assert [best_places(row) for row in rows] == [{0}, set()]
    assert best_places(task_rows([RESULTS[0], RESULTS[0]])[0]) == {0, 1}
    assert html(RESULTS).count("class=best") == 2


def test_what_must_be_known_comes_first() -> None:
    warned = replace(
        RESULTS[1], tasks=(replace(RESULTS[1].tasks[0], warnings=("collapse: all the same",)),), notes=("no roles",)
    )
    found = warnings_of([RESULTS[0], warned])
    assert found == [
        "stage 3: means over fewer tasks than the published ones: mmeb IND (2 of 20)",
        "stage 2a: 1 of 1 tasks have warnings, first coco 5k image to text: collapse: all the same",
        "stage 2a: no roles",
        "stage 2a: means over fewer tasks than the published ones: mmeb IND (2 of 20)",
    ]
    page = html([RESULTS[0], warned])
    assert page.index("collapse") < page.index("<h2>")


def test_files_are_written_by_their_ending(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", RESULTS)
    write_report(tmp_path / "report.md", RESULTS)
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "report.md").read_text().startswith("# Evaluation")
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md"}


def test_a_report_of_nothing_is_refused_and_an_old_one_is_kept(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", RESULTS)
    before = (tmp_path / "report.html").read_text()
    with pytest.raises(MagicError, match="no result to report"):
        write_report(tmp_path / "report.html", [])
    assert (tmp_path / "report.html").read_text() == before
    (tmp_path / "folder").write_text("")
    with pytest.raises(MagicError) as caught:
        write_report(tmp_path / "folder" / "report.html", RESULTS)
    assert caught.value.code is ErrorCode.STORAGE_FAILED
