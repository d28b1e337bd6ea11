"""The formats "colpali", "visrag" and "webdataset"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magicmm import ErrorCode, MagicError
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_training.data.registry import open_pairs
from magicmm_training.entries import Pair
from training_rows import picture, source, write_parquet, write_tar


@pytest.mark.parametrize(("kind", "name"), [("colpali", "ColPali"), ("visrag", "VisRAG")])
def test_a_page_is_read_out_of_its_column(tmp_path: Path, kind: str, name: str) -> None:
    rows = [
        {"image": {"bytes": picture(place), "path": f"{place}.png"}, "query": f"Question {place}?", "answer": "x"}
        for place in range(5)
    ]
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", rows[:3])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", rows[3:])
    pairs = open_pairs(source(kind, ".", max_tiles=4), tmp_path)
    assert len(pairs) == 5
    pair = pairs[4]
    task = INSTRUCTIONS[TaskGroup.TEXT_TO_DOCUMENT][name]
    assert (pair.query.text, pair.query.instruction) == ("Question 4?", task.query)
    assert (pair.positive.image, pair.positive.instruction) == (picture(4), task.target)
    assert pair.positive.max_tiles == 4
    assert pair.id == "train-00001-of-00002.parquet:2"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"image": None, "query": "q"}, "image"),
        ({"image": {"bytes": b"", "path": ""}, "query": "q"}, "image"),
        ({"image": {"bytes": b"x", "path": None}, "query": None}, "query"),
        ({"image": {"bytes": b"x", "path": None}, "query": " "}, "query"),
    ],
)
def test_a_page_without_question_or_picture_is_named(tmp_path: Path, row: dict[str, Any], field: str) -> None:
    whole = {"image": {"bytes": b"x", "path": "y"}, "query": "q"}
    write_parquet(tmp_path / "train.parquet", [whole, row])
    with pytest.raises(MagicError, match=f"train.parquet, row 2, field '{field}': ") as caught:
        open_pairs(source("colpali", "."), tmp_path)[1]
    assert caught.value.code is ErrorCode.TEXT_INVALID


def samples(root: Path, members: dict[str, bytes], **options: Any) -> list[Pair]:
    write_tar(root / "train-0.tar", members)
    pairs = open_pairs(source("webdataset", ".", **options), root)
    return [pairs[place] for place in range(len(pairs))]


def test_captioned_pictures_are_searched_either_way(tmp_path: Path) -> None:
    members = {"0.jpg": picture(0, "JPEG"), "0.txt": "ein Hund é\n".encode(), "1.txt": b"b", "1.png": picture(1)}
    first, second = samples(tmp_path, members, group="T->I", instructions="BLIP")
    assert (first.id, first.query.text, first.positive.image) == ("0", "ein Hund é", picture(0, "JPEG"))
    assert (second.query.image, second.positive.image) == (None, picture(1))
    first, _ = samples(tmp_path, members, group="I->T", instructions="MSCOCO")
    assert (first.query.image, first.query.text, first.positive.text) == (picture(0, "JPEG"), None, "ein Hund é")
    with pytest.raises(MagicError, match="Set the source's group"):
        samples(tmp_path, members, instructions="BLIP")


def test_a_shard_can_hold_whole_pairs(tmp_path: Path) -> None:
    row = {
        "query": {"text": "add a hat", "image": "query.png"},
        "positive": {"image": "target.png"},
        "negatives": [{"image": "query.png"}, {"text": "a hat"}],
    }
    members = {"k.json": json.dumps(row).encode(), "k.query.png": picture(0), "k.target.png": picture(1)}
    (pair,) = samples(tmp_path, members, group="IT->I", instructions="CIRR")
    assert (pair.id, pair.query.image, pair.positive.image) == ("k", picture(0), picture(1))
    assert [(one.text, one.image) for one in pair.negatives] == [(None, picture(0)), ("a hat", None)]


@pytest.mark.parametrize(
    ("members", "field", "said"),
    [
        ({"0.txt": b"a"}, "jpg", "0 has 0 pictures instead of one"),
        ({"0.txt": b"a", "0.jpg": b"x", "0.png": b"y"}, "jpg", "0 has 2 pictures instead of one"),
        ({"0.jpg": b"x"}, "txt", "is missing"),
        ({"0.jpg": b"x", "0.txt": b"\xff"}, "txt", "is no UTF-8"),
        ({"0.jpg": b"x", "0.txt": b"  "}, "txt", "has neither text nor picture"),
        ({"0.json": b"{"}, "json", "is no JSON"),
        ({"0.json": b"[]"}, "json", "is no object but list"),
        ({"0.json": b'{"query": {"image": "jpg"}}'}, "query.image", "is no member of the sample"),
        ({"0.json": b'{"query": {"text": "a"}}'}, "positive", "is missing"),
    ],
)
def test_a_broken_sample_is_named(tmp_path: Path, members: dict[str, bytes], field: str, said: str) -> None:
    with pytest.raises(MagicError) as caught:
        samples(tmp_path, members, group="T->I", instructions="BLIP")
    assert caught.value.message.startswith(f"train-0.tar, row 1, field '{field}': ")
    assert said in caught.value.message


def test_a_member_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MagicError, match=r"holds ./a/0.jpg twice"):
        samples(tmp_path, {"a/0.jpg": b"x", "./a/0.jpg": b"y", "a/0.txt": b"z"}, group="T->I", instructions="BLIP")
