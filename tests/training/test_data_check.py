"""The check before a run, on a small recipe with every kind of fault planted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from magicmm import ErrorCode, MagicError
from magicmm_model.templates import Side
from magicmm_training.data.check import check_data
from magicmm_training.data.findings import DataReport, Finding, Kind, Severity
from magicmm_training.entries import Entry
from magicmm_training.recipe import Recipe
from training_rows import picture, write_jsonl, write_picture

OPTIMISER = {"lr": 1e-4}


def pairs_source(path: str, **options: Any) -> dict[str, Any]:
    common = {"name": Path(path).stem, "format": "pairs", "path": path, "instructions": "BLIP", "licence": "MIT"}
    return {**common, **options}


def contrastive(*data: dict[str, Any], **options: Any) -> dict[str, Any]:
    stage = {"kind": "contrastive", "name": "warm", "batch": {"per_device": 4}, "optimiser": OPTIMISER, "data": data}
    return {**stage, **options}


def evaluation(*benchmarks: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "evaluation", "name": "score", "init": "warm", "benchmarks": benchmarks}


def recipe(*stages: dict[str, Any], **options: Any) -> Recipe:
    return Recipe.model_validate({"name": "planted", "model": {"base": "."}, "stages": stages, **options})


def check(root: Path, *stages: dict[str, Any], **options: Any) -> DataReport:
    return check_data(recipe(*stages), root, **options)


def good_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"id": place, "query": {"text": f"query {place}"}, "positive": {"text": f"target {place}"}}
        for place in range(count)
    ]


def found(report: DataReport, kind: Kind, place: int = 0) -> Finding:
    (finding,) = [one for one in report.sources[place].findings if one.kind is kind]
    return finding


def kinds(report: DataReport, place: int = 0) -> set[Kind]:
    return {one.kind for one in report.sources[place].findings}


def test_clean_data_have_no_findings(tmp_path: Path) -> None:
    write_picture(tmp_path / "1.png", 0)
    rows = [*good_rows(6), {"id": "p", "query": {"text": "p"}, "positive": {"image": "1.png"}}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    seen: list[tuple[str, int, int]] = []
    report = check(tmp_path, contrastive(pairs_source("a.jsonl")), progress=lambda *told: seen.append(told))
    (source,) = report.sources
    assert (source.rows, source.checked, source.images, source.targets) == (7, 7, 1, 7)
    assert (source.findings, source.stages, source.licence) == ((), ("warm",), "MIT")
    assert not report.has_errors
    assert seen == [("a", done, 7) for done in range(1, 8)]


def test_every_planted_fault_of_rows_is_found(tmp_path: Path) -> None:
    write_picture(tmp_path / "1.png", 0)
    write_picture(tmp_path / "same.png", 0)
    whole = picture(3, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.png").write_bytes(b"no picture")
    one = {"image": "1.png"}
    rows: list[Any] = [
        *good_rows(3),
        {"id": "broken", "query": {"text": 5}, "positive": one},
        {"id": "gone", "query": {"text": "a"}, "positive": {"image": "gone.png"}},
        {"id": "cut", "query": {"text": "b"}, "positive": {"image": "cut.jpg"}},
        {"id": "none", "query": {"text": "c"}, "positive": one, "negatives": [{"image": "none.png"}]},
        {"id": 0, "query": {"text": "d"}, "positive": {"text": "d"}},
        {"id": "query", "query": {"text": "query 1"}, "positive": {"text": "other"}},
        {"id": "pair", "query": {"text": "query 2"}, "positive": {"text": "target 2"}},
        {"id": "self", "query": {"text": "e"}, "positive": one, "negatives": [{"text": "x"}, {"image": "same.png"}]},
        {"id": "twice", "query": {"text": "f"}, "positive": {"text": "f"}, "negatives": [{"text": "x"}, {"text": "x"}]},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    data = pairs_source("a.jsonl", licence="unknown", group="T->I")
    report = check(tmp_path, contrastive(data, batch={"per_device": 2}))
    expected = {
        Kind.BROKEN_ROW: (Severity.ERROR, "a.jsonl, row 4, field 'query.text': is no text but int 5."),
        Kind.MISSING_IMAGE: (Severity.ERROR, "no picture str 'gone.png'"),
        Kind.CORRUPT_IMAGE: (Severity.ERROR, "a cut: "),
        Kind.DUPLICATE_ID: (Severity.ERROR, "a 0"),
        Kind.DUPLICATE_QUERY: (Severity.WARNING, "a query, with another target"),
        Kind.DUPLICATE_PAIR: (Severity.WARNING, "a pair"),
        Kind.POSITIVE_AS_NEGATIVE: (Severity.ERROR, "a self"),
        Kind.DUPLICATE_NEGATIVE: (Severity.WARNING, "a twice"),
        Kind.LICENCE: (Severity.WARNING, "a: set its licence"),
    }
    assert kinds(report) == set(expected)
    for kind, (severity, said) in expected.items():
        finding = found(report, kind)
        assert finding.severity is severity
        assert said in finding.examples[0]
        assert finding.count == (2 if kind is Kind.CORRUPT_IMAGE else 1)
    assert report.has_errors
    assert (report.sources[0].checked, report.sources[0].images) == (12, 3)


def test_unusable_rows_within_the_stated_share_are_warnings(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*good_rows(9), {"query": {}}])
    strict = check(tmp_path, contrastive(pairs_source("a.jsonl")))
    assert strict.has_errors
    lenient = check(tmp_path, contrastive(pairs_source("a.jsonl"), max_bad_share=0.1))
    assert found(lenient, Kind.BROKEN_ROW).severity is Severity.WARNING
    assert not lenient.has_errors


def test_sources_that_cannot_be_opened_or_are_empty_are_errors(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "empty.jsonl", [])
    (tmp_path / "bad.parquet").write_bytes(b"none")
    data = [pairs_source(name) for name in ("empty.jsonl", "absent.jsonl", "bad.parquet")]
    report = check(tmp_path, contrastive(*data, pairs_source("x.jsonl", format="csv")))
    assert [kinds(report, place) for place in range(4)] == [{Kind.EMPTY}, *[{Kind.UNREADABLE}] * 3]
    assert report.has_errors
    assert report.sources[1].rows == 0


def test_few_distinct_targets_are_counted_against_the_batch(tmp_path: Path) -> None:
    labels = [
        {"query": {"text": f"q{place}"}, "positive": {"text": "yes" if place % 2 else "no"}} for place in range(10)
    ]
    write_jsonl(tmp_path / "a.jsonl", labels)
    report = check_data(recipe(contrastive(pairs_source("a.jsonl")), hardware={"devices": 3}), tmp_path)
    # 2 x 5 x 4 of the 10 x 9 ordered pairs of rows share a target, and 11 others are in a batch of 3 x 4.
    assert (
        found(report, Kind.FEW_TARGETS)
        .examples[0]
        .startswith(f"2 targets in 10 rows: a batch of 12 holds {11 * 40 / 90:.3g}")
    )
    assert report.sources[0].targets == 2
    assert not report.has_errors
    mined = {"kind": "mining", "name": "mined", "init": "warm", "data": [pairs_source("a.jsonl")]}
    other = contrastive(pairs_source("b.jsonl"))
    write_jsonl(tmp_path / "b.jsonl", good_rows(5))
    assert kinds(check(tmp_path, other, mined), 1) == set()


def test_settings_of_sources_are_checked(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", good_rows(2))
    write_jsonl(tmp_path / "b.jsonl", good_rows(2))
    documents = pairs_source("a.jsonl", group="T->VD", instructions="ColPali")
    assert kinds(check(tmp_path, contrastive(documents))) == {Kind.ONE_TILE}
    assert kinds(check(tmp_path, contrastive({**documents, "max_tiles": 4}))) == set()
    report = check(tmp_path, contrastive(pairs_source("a.jsonl", name="x"), pairs_source("b.jsonl", name="x")))
    assert found(report, Kind.SAME_NAME, 1).examples == ("stage warm has several sources 'x'",)
    assert report.has_errors


def test_a_source_of_several_stages_is_checked_once(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", good_rows(4))
    stages = [
        contrastive(pairs_source("a.jsonl", weight=1.0)),
        {"kind": "mining", "name": "mined", "init": "warm", "data": [pairs_source("a.jsonl", judged=False)]},
        contrastive(pairs_source("a.jsonl", limit=2), name="again"),
    ]
    report = check(tmp_path, *stages)
    assert [(source.stages, source.rows) for source in report.sources] == [(("warm", "mined"), 4), (("again",), 2)]


def test_a_sample_can_be_checked(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", good_rows(50))
    report = check(tmp_path, contrastive(pairs_source("a.jsonl")), limit=10)
    assert (report.sources[0].rows, report.sources[0].checked) == (50, 10)


def test_instruction_samples_are_checked(tmp_path: Path) -> None:
    write_picture(tmp_path / "1.png", 0)
    (tmp_path / "2.png").write_bytes(picture(1)[:40])
    turns = [{"from": "human", "value": "<image> What?"}, {"from": "gpt", "value": "A dog."}]
    rows: list[Any] = [
        {"id": "good", "image": "1.png", "conversations": turns},
        {"id": "good", "image": "1.png", "conversations": turns},
        {"id": "corrupt", "image": "2.png", "conversations": turns},
        {"id": "missing", "image": "3.png", "conversations": turns},
        {"id": "broken", "conversations": turns},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    data = {"name": "talk", "format": "instructions", "path": "a.jsonl", "licence": "MIT"}
    stage = {
        "kind": "restoration",
        "name": "restore",
        "batch": {"per_device": 1},
        "optimiser": OPTIMISER,
        "data": [data],
    }
    report = check(tmp_path, stage)
    assert kinds(report) == {Kind.DUPLICATE_ID, Kind.CORRUPT_IMAGE, Kind.MISSING_IMAGE, Kind.BROKEN_ROW}
    assert (report.sources[0].targets, report.sources[0].checked, report.sources[0].images) == (None, 5, 2)


LONG = "a brown dog runs on the wet beach"


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    """Training data with entries, pictures and texts of a benchmark."""
    for name, seed in (("train/1.png", 0), ("train/2.png", 1), ("test/1.png", 0), ("test/9.png", 9)):
        write_picture(tmp_path / name, seed)
    rows: list[Any] = [
        {"id": "entry", "query": {"text": "a dog"}, "positive": {"image": "1.png"}},
        {"id": "image", "query": {"text": "other words", "image": "1.png"}, "positive": {"image": "2.png"}},
        {"id": "text", "query": {"text": f"  {LONG.upper()} "}, "positive": {"text": "yes"}},
        {"id": "clean", "query": {"text": "a cat"}, "positive": {"text": "a clean long caption of a cat"}},
    ]
    write_jsonl(tmp_path / "train" / "a.jsonl", rows)
    tests: list[Any] = [
        {"query": {"text": LONG}, "positive": {"image": "1.png"}, "negatives": [{"text": "yes"}]},
        {"query": {"text": "a cat"}, "positive": {"image": "9.png"}},
    ]
    write_jsonl(tmp_path / "test" / "test.jsonl", tests)
    return tmp_path


def test_evaluation_data_are_found_among_training_data(leaking: Path) -> None:
    bench = {"name": "bench", "format": "pairs", "path": "test"}
    report = check(leaking, contrastive(pairs_source("train/a.jsonl")), evaluation(bench))
    assert kinds(report) == {Kind.LEAKAGE, Kind.SHARED_IMAGE, Kind.SHARED_TEXT}
    assert found(report, Kind.LEAKAGE).examples == ("a entry positive is an entry of bench",)
    assert found(report, Kind.SHARED_IMAGE).examples == ("a image query has a picture of bench",)
    assert found(report, Kind.SHARED_TEXT).examples == ("a text query is a text of bench",)
    assert found(report, Kind.LEAKAGE).severity is Severity.ERROR
    assert found(report, Kind.SHARED_TEXT).severity is Severity.WARNING
    assert [(one.name, one.entries, one.findings) for one in report.benchmarks] == [("bench", 5, ())]


def test_entries_of_other_readers_are_looked_for(leaking: Path) -> None:
    bench = {"name": "karpathy", "format": "coco", "path": "test"}
    stages = (contrastive(pairs_source("train/a.jsonl")), evaluation(bench))
    unread = check(leaking, *stages)
    assert [finding.kind for finding in unread.benchmarks[0].findings] == [Kind.UNCHECKED]
    assert not unread.has_errors
    entries = [
        Entry(None, leaking / "test" / "1.png", "any", Side.CANDIDATE),
        Entry(None, leaking / "test" / "gone.png", "any", Side.CANDIDATE),
        Entry(None, b"", "any", Side.CANDIDATE),
    ]
    report = check(leaking, *stages, benchmark_entries={"karpathy": iter(entries)})
    assert {Kind.LEAKAGE, Kind.SHARED_IMAGE} == kinds(report)
    assert report.benchmarks[0].entries == 1
    assert [(one.kind, one.count) for one in report.benchmarks[0].findings] == [(Kind.MISSING_IMAGE, 2)]


def test_a_reader_that_fails_is_reported(leaking: Path) -> None:
    def failing() -> Iterator[Entry]:
        yield Entry("a", None, "any", Side.QUERY)
        raise MagicError(ErrorCode.SOURCE_UNAVAILABLE, "The captions are gone.", "Restore them.")

    bench = {"name": "karpathy", "format": "coco", "path": "test"}
    stages = (contrastive(pairs_source("train/a.jsonl")), evaluation(bench))
    (benchmark,) = check(leaking, *stages, benchmark_entries={"karpathy": failing()}).benchmarks
    assert [(one.kind, one.examples) for one in benchmark.findings] == [(Kind.UNREADABLE, ("The captions are gone.",))]


def test_pictures_of_instruction_samples_are_compared(leaking: Path) -> None:
    turns = [{"from": "human", "value": "<image> What?"}, {"from": "gpt", "value": "A dog."}]
    write_jsonl(leaking / "train" / "talk.jsonl", [{"id": "t", "image": "1.png", "conversations": turns}])
    data = {"name": "talk", "format": "instructions", "path": "train/talk.jsonl", "licence": "MIT"}
    stage = {"kind": "restoration", "name": "warm", "batch": {"per_device": 1}, "optimiser": OPTIMISER, "data": [data]}
    report = check(leaking, stage, evaluation({"name": "bench", "format": "pairs", "path": "test"}))
    assert found(report, Kind.SHARED_IMAGE).examples == ("talk t has a picture of bench",)


def test_benchmarks_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", good_rows(2))
    write_jsonl(tmp_path / "empty" / "test.jsonl", [])
    write_jsonl(tmp_path / "broken" / "test.jsonl", [*good_rows(1), {"query": {}}])
    benchmarks = [{"name": name, "format": "pairs", "path": name} for name in ("absent", "empty", "broken")]
    report = check(tmp_path, contrastive(pairs_source("a.jsonl")), evaluation(*benchmarks))
    assert [[one.kind for one in each.findings] for each in report.benchmarks] == [
        [Kind.UNREADABLE],
        [Kind.EMPTY],
        [Kind.BROKEN_ROW],
    ]
    assert report.has_errors


def test_the_report_as_text_and_json(leaking: Path) -> None:
    bench = {"name": "bench", "format": "pairs", "path": "test"}
    report = check(leaking, contrastive(pairs_source("train/a.jsonl", licence="CC-BY-4.0")), evaluation(bench))
    lines = report.table().splitlines()
    assert lines[0].split() == ["data", "set", "rows", "checked", "images", "targets", "licence"]
    assert lines[1].split() == ["a", "4", "4", "2", "4", "CC-BY-4.0"]
    assert lines[2:4] == [
        "  error: evaluation entry in training data, 1 x",
        "    a entry positive is an entry of bench",
    ]
    assert lines[-1].split()[:3] == ["bench", "(benchmark)", "5"]
    data = json.loads(json.dumps(report.to_json()))
    assert data["has_errors"] is True
    assert data["sources"][0]["findings"][0] == {
        "kind": "evaluation entry in training data",
        "severity": "error",
        "count": 1,
        "examples": ["a entry positive is an entry of bench"],
    }


def test_only_some_examples_are_kept(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"query": {}}] * 9)
    finding = found(check(tmp_path, contrastive(pairs_source("a.jsonl"))), Kind.BROKEN_ROW)
    assert (finding.count, len(finding.examples)) == (9, 5)
