"""The distinct candidates of a data set, and which of them are true for which query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicmm import MagicError
from magicmm_model.templates import Side
from magicmm_training.data.candidates import BROKEN, CandidateRef, Candidates, part_of
from magicmm_training.data.registry import open_pairs
from magicmm_training.entries import Entry, Pair
from training_rows import source, write_jsonl, write_picture


class Listed:
    """Pairs in memory; None cannot be read."""

    name = "set"
    fingerprint = "f"

    def __init__(self, *rows: tuple[str, str, list[str]] | None) -> None:
        self.rows = rows
        self.reads = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Pair:
        self.reads += 1
        row = self.rows[place]
        if row is None:
            return Pair(str(place), "set", entry(""), entry(""))  # raises what a reader raises
        query, positive, negatives = row
        return Pair(
            str(place), "set", entry(query, Side.QUERY), entry(positive), tuple(entry(text) for text in negatives)
        )


def entry(text: str, side: Side = Side.CANDIDATE) -> Entry:
    return Entry(text, None, f"instruction of {text}", side)


def texts(found: Candidates, places: Any) -> set[str | None]:
    return {found.entries[place].text for place in places}


def test_by_hand() -> None:
    pairs = Listed(("q0", "a", ["b", "c"]), ("q1", "b", ["a", "c", "d"]), None, ("q0", "d", []), ("a", "e", []))
    found = Candidates.of(pairs)
    assert [one.text for one in found.entries] == ["a", "b", "c", "d", "e"]
    assert found.refs == (
        CandidateRef(0, "positive"),
        CandidateRef(0, "negative:0"),
        CandidateRef(0, "negative:1"),
        CandidateRef(1, "negative:2"),
        CandidateRef(4, "positive"),
    )
    assert found.own == (0, 1, BROKEN, 3, 4)
    # q0 comes twice, so both its targets are true for both rows; the query "a" is itself a candidate.
    assert found.truths == (frozenset({0, 3}), frozenset({1}), frozenset(), frozenset({0, 3}), frozenset({4, 0}))
    assert found.query_ids[0] == found.query_ids[3] != found.query_ids[1]
    assert found.query_ids[2] == ""
    assert found.ids == tuple(one.content_id() for one in found.entries)
    assert found.query_ids[4] == found.ids[0]


def test_candidates_are_read_only_when_asked_for() -> None:
    pairs = Listed(*(("q", f"t{place}", []) for place in range(9)))
    found = Candidates.of(pairs)
    assert pairs.reads == 9
    assert found.entries[4].text == "t4"
    assert [one.text for one in found.entries[2:4]] == ["t2", "t3"]
    assert pairs.reads == 12


names = st.sampled_from("abcdef")


@given(st.lists(st.tuples(names, names, st.lists(names, max_size=3)), max_size=8))
def test_truths_are_what_comparing_all_pairs_gives(rows: list[tuple[str, str, list[str]]]) -> None:
    found = Candidates.of(Listed(*rows))
    every = {text for _, positive, negatives in rows for text in (positive, *negatives)}
    assert texts(found, range(len(found.refs))) == every
    assert len(found.refs) == len(every) == len(set(found.ids))
    for (query, positive, _), own, truths in zip(rows, found.own, found.truths, strict=True):
        assert texts(found, [own]) == {positive}
        same = {other for other_query, other, _ in rows if other_query == query}
        assert texts(found, truths) == same | ({query} & every)


def test_the_same_picture_under_two_names_is_one_candidate(tmp_path: Path) -> None:
    for name, seed in (("a.png", 0), ("b.png", 0), ("c.png", 1)):
        write_picture(tmp_path / name, seed)
    targets = (
        {"image": "a.png"},
        {"image": "b.png"},
        {"image": "c.png"},
        {"image": "gone.png"},
        {"image": "a.png", "text": "x"},
    )
    write_jsonl(tmp_path / "train.jsonl", [{"query": {"text": "q"}, "positive": target} for target in targets])
    found = Candidates.of(open_pairs(source("pairs", ".", instructions="BLIP"), tmp_path))
    assert found.own == (0, 0, 1, BROKEN, 2)
    assert found.truths[0] == frozenset({0, 1, 2})
    assert found.entries[0].image == tmp_path / "a.png"


def test_parts_that_are_not_there_are_refused() -> None:
    pair = Listed(("q", "a", ["b"]))[0]
    assert (part_of(pair, "positive").text, part_of(pair, "negative:0").text) == ("a", "b")
    for part in ("negative:1", "negative:-1", "query"):
        with pytest.raises(MagicError, match=f"has no part '{part}'"):
            part_of(pair, part)
