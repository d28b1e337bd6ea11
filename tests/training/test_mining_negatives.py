"""The file of negatives: what goes in comes out, whatever is broken is said, nothing half-written is left."""

from __future__ import annotations

import errno
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from magicmm import ErrorCode, MagicError
from magicmm_training.entries import Pair
from magicmm_training.mining.negative_rows import Margins, NegativeRef, NegativesRow
from magicmm_training.mining.negatives import FILE_NAME, Kind, Negatives, NegativesWriter
from training_pairs import MemoryPairs, candidate, numbered_pairs, query

PAIRS = numbered_pairs(5)
WITH_OWN = MemoryPairs(
    [Pair("ü\n1", "own", query("q"), candidate("yes"), (candidate("no"), candidate("never")))], "own", "f1"
)


def positive(place: int) -> NegativeRef:
    return NegativeRef(place, str(place))


ROWS = [
    NegativesRow("toys", 0, "0", (positive(2), positive(1)), (positive(4),), Margins(2.5, (-1.0, -0.125), (0.5,))),
    NegativesRow("toys", 3, "3", ()),
    NegativesRow("own", 0, "ü\n1", (NegativeRef(0, "ü\n1", "negative:1"),)),
]


def write(folder: Path, rows: list[NegativesRow] = ROWS, kind: Kind = "judge") -> Path:
    with NegativesWriter(folder, kind, [PAIRS, WITH_OWN]) as writer:
        for row in rows:
            writer.write(row)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "out")


def test_entries_margins_and_approved_come_back(folder: Path) -> None:
    negatives = Negatives.load(folder, [PAIRS, WITH_OWN])
    assert (len(negatives), negatives.kind) == (3, "judge")
    assert negatives.for_query("toys", "0") == (PAIRS[2].positive, PAIRS[1].positive)
    assert negatives.approved("toys", "0") == (PAIRS[4].positive,)
    assert negatives.margins("toys", "0") == Margins(2.5, (-1.0, -0.125), (0.5,))
    assert negatives.for_query("own", "ü\n1") == (candidate("never"),)
    assert [negatives.row(row.dataset, row.query_id) for row in ROWS] == ROWS


def test_queries_without_a_row_have_nothing(folder: Path) -> None:
    negatives = Negatives.load(folder / FILE_NAME, [PAIRS])
    assert negatives.for_query("toys", "1") == negatives.approved("toys", "1") == ()
    assert negatives.margins("toys", "1") is None
    assert negatives.margins("toys", "3") is None
    assert negatives.row("else", "0") is None
    assert negatives.for_query("toys", "3") == ()
    assert negatives.places("toys").tolist() == [0]
    assert negatives.places("else").tolist() == []


def test_many_rows_are_found_whatever_their_order(tmp_path: Path) -> None:
    many = numbered_pairs(500)
    with NegativesWriter(tmp_path, "mining", [many]) as writer:
        for n in reversed(range(500)):
            writer.write(NegativesRow("toys", n, str(n), (positive((n * 7 + 1) % 500),)))
    negatives = Negatives.load(tmp_path, [many])
    for n in range(500):
        assert negatives.for_query("toys", str(n)) == (many[(n * 7 + 1) % 500].positive,)
    assert negatives.places("toys").tolist() == list(range(500))


def test_the_fingerprint_names_the_content(tmp_path: Path) -> None:
    one, same, other = (write(tmp_path / name, rows) for name, rows in (("a", ROWS), ("b", ROWS), ("c", ROWS[:2])))
    prints = [Negatives.load(folder, []).fingerprint for folder in (one, same, other)]
    assert prints[0] == prints[1] != prints[2]


def test_a_worker_process_can_be_given_the_object(folder: Path) -> None:
    copy = pickle.loads(pickle.dumps(Negatives.load(folder, [PAIRS])))
    assert copy.for_query("toys", "0") == (PAIRS[2].positive, PAIRS[1].positive)


def test_changed_data_is_refused(folder: Path) -> None:
    with pytest.raises(MagicError, match="the data of toys has changed") as caught:
        Negatives.load(folder, [replace(PAIRS, fingerprint="f9"), WITH_OWN])
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_another_pair_at_the_place_is_refused(folder: Path) -> None:
    swapped = MemoryPairs([PAIRS[1], PAIRS[0], *PAIRS.pairs[3:]])
    with pytest.raises(MagicError, match="row 2 is pair '3', expected was '2'"):
        Negatives.load(folder, [swapped]).for_query("toys", "0")
    with pytest.raises(MagicError, match="toys has no row 2"):
        Negatives.load(folder, [MemoryPairs(PAIRS.pairs[:2])]).for_query("toys", "0")
    fewer = MemoryPairs([replace(WITH_OWN[0], negatives=())], "own", "f1")
    with pytest.raises(MagicError, match="has no part 'negative:1'"):
        Negatives.load(folder, [fewer]).for_query("own", "ü\n1")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(MagicError) as caught:
        Negatives.load(tmp_path, [PAIRS])
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


BREAKS: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "empty": (lambda lines: [], "it is empty"),
    "other format": (lambda lines: ['{"format": "x"}\n'], "it is no magicmm-negatives file of version 1"),
    "later version": (lambda lines: [lines[0].replace('"version": 1', '"version": 2')], "version 1"),
    "broken first line": (lambda lines: [lines[0].replace('"judge"', '"jury"')], "its first line is broken"),
    "no JSON": (lambda lines: [*lines[:2], "oops\n"], "line 3 is no JSON object"),
    "no place": (lambda lines: [*lines[:2], lines[2].replace('"place": 3', '"place": null')], "line 3 has no place"),
    "cut": (lambda lines: [*lines[:3], lines[3][:-1]], "line 4 is no JSON object"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_files_are_refused(folder: Path, name: str) -> None:
    change, message = BREAKS[name]
    path = folder / FILE_NAME
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(change(lines)), encoding="utf-8")
    with pytest.raises(MagicError, match=message) as caught:
        Negatives.load(folder, [PAIRS, WITH_OWN])
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("negatives", None),
        ("negatives", [{"place": "x", "pair_id": "0", "part": "positive"}]),
        ("negatives", [{"place": 0, "part": "positive"}]),
        ("approved", [3]),
        ("scores", {"positive": 1}),
        ("scores", {"positive": 1, "negatives": [1], "approved": [1]}),
    ],
)
def test_a_broken_row_is_named(folder: Path, part: str, value: object) -> None:
    path = folder / FILE_NAME
    header, first, *_ = path.read_text(encoding="utf-8").splitlines()
    path.write_text(f"{header}\n{json.dumps(json.loads(first) | {part: value})}\n", encoding="utf-8")
    with pytest.raises(MagicError, match="the row of query '0' is broken"):
        Negatives.load(folder, [PAIRS]).for_query("toys", "0")


def test_an_error_while_writing_keeps_the_old_file(folder: Path) -> None:
    before = (folder / FILE_NAME).read_bytes()
    with pytest.raises(RuntimeError), NegativesWriter(folder, "mining", []) as writer:
        writer.write(ROWS[0])
        raise RuntimeError
    assert (folder / FILE_NAME).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]


def test_a_full_disk_is_said_and_keeps_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = (folder / FILE_NAME).read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(MagicError, match="No space left") as caught:
        write(folder)
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    assert (folder / FILE_NAME).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]


def test_an_answer_without_a_margin_stays_one(tmp_path: Path) -> None:
    margins = Margins(math.nan, (math.nan, -1.5), (math.nan,))
    negatives = Negatives.load(write(tmp_path, [replace(ROWS[0], margins=margins)]), [PAIRS])
    found = negatives.margins("toys", "0")
    assert found is not None
    assert found.negatives[1] == -1.5
    assert all(map(math.isnan, (found.positive, found.negatives[0], *found.approved)))
    assert "NaN" not in (tmp_path / FILE_NAME).read_text(encoding="utf-8")
