"""The format "pairs", the pictures and instructions of all formats, and what opening a source promises."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from magicmm import ErrorCode, MagicError
from magicmm_model import instructions
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_model.templates import Side
from magicmm_training.data.pictures import Pictures
from magicmm_training.data.registry import open_conversations, open_pairs
from magicmm_training.data.rows import Row
from magicmm_training.entries import Pair
from training_rows import picture, source, write_jsonl, write_parquet, write_picture

ROW: dict[str, Any] = {"query": {"text": "a dog"}, "positive": {"image": "dogs/1.png"}}


def read(folder: Path, rows: list[Any], **options: Any) -> list[Pair]:
    write_jsonl(folder / "train.jsonl", rows)
    pairs = open_pairs(source("pairs", ".", **{"group": "T->I", "instructions": "MSCOCO", **options}), folder)
    return [pairs[place] for place in range(len(pairs))]


def test_a_pair_is_read_under_the_papers_instructions(tmp_path: Path) -> None:
    file = write_picture(tmp_path / "dogs" / "1.png", 0)
    (pair,) = read(tmp_path, [{**ROW, "id": 7, "negatives": [{"text": "a cat"}, {"text": "x", "image": "dogs/1.png"}]}])
    wanted = INSTRUCTIONS[TaskGroup.TEXT_TO_IMAGE]["MSCOCO"]
    assert (pair.id, pair.dataset) == ("7", "set")
    assert (pair.query.text, pair.query.image, pair.query.side) == ("a dog", None, Side.QUERY)
    assert (pair.positive.text, pair.positive.image, pair.positive.side) == (None, file, Side.CANDIDATE)
    assert (pair.query.instruction, pair.positive.instruction) == (wanted.query, wanted.target)
    assert [(one.text, one.image) for one in pair.negatives] == [("a cat", None), ("x", file)]


def test_instructions_of_a_row_go_first(tmp_path: Path) -> None:
    write_picture(tmp_path / "dogs" / "1.png", 0)
    (pair,) = read(tmp_path, [{**ROW, "query_instruction": "Find it.", "target_instruction": "Show it."}])
    assert (pair.query.instruction, pair.positive.instruction) == ("Find it.", "Show it.")


def test_targets_of_unknown_data_sets_get_an_instruction_by_what_they_are(tmp_path: Path) -> None:
    write_picture(tmp_path / "1.png", 0)
    targets = [{"text": "a"}, {"image": "1.png"}, {"text": "a", "image": "1.png"}]
    rows = [{"query": {"text": "q"}, "positive": target, "query_instruction": "Find."} for target in targets]
    found = [pair.positive.instruction for pair in read(tmp_path, rows, group=None, instructions=None)]
    assert found == [instructions.TEXT, instructions.IMAGE, instructions.IMAGE_WITH_TEXT]
    documents = read(tmp_path, rows, group=None, instructions=None, max_tiles=4)
    assert documents[1].positive.instruction == instructions.DOCUMENT
    assert {documents[1].query.max_tiles, documents[1].positive.max_tiles} == {4}


def test_a_query_needs_an_instruction(tmp_path: Path) -> None:
    write_picture(tmp_path / "dogs" / "1.png", 0)
    with pytest.raises(MagicError, match=r"train.jsonl, row 1, field 'query_instruction': is missing"):
        read(tmp_path, [ROW], group="T->I", instructions=None)
    write_jsonl(tmp_path / "train.jsonl", [ROW])
    given = open_pairs(source("pairs", "."), tmp_path, task=INSTRUCTIONS[TaskGroup.TEXT_TO_IMAGE]["BLIP"])
    assert given[0].query.instruction == INSTRUCTIONS[TaskGroup.TEXT_TO_IMAGE]["BLIP"].query


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": "I->X", "instructions": None}, "no task group 'I->X'"),
        ({"instructions": "Nothing"}, "no instructions 'Nothing'"),
        ({"group": None, "instructions": "MSCOCO"}, "in several task groups"),
    ],
)
def test_settings_that_name_no_instructions_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(MagicError, match=said) as caught:
        read(tmp_path, [ROW], **options)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"query": None}, "query", "is missing"),
        ({"query": "a dog"}, "query", "is no object of text and image but str"),
        ({"query": {"text": "a", "picture": "b"}}, "query", "is no object of text and image"),
        ({"query": {"text": " "}}, "query", "has neither text nor picture"),
        ({"positive": {"text": "", "image": ""}}, "positive", "has neither text nor picture"),
        ({"positive": {"text": 5}}, "positive.text", "is no text but int 5"),
        ({"positive": {"image": 5}}, "positive.image", "is no picture but int 5"),
        ({"negatives": {"text": "a"}}, "negatives", "is no list"),
        ({"negatives": [{"text": "a"}, {}]}, "negatives[1]", "has neither text nor picture"),
        ({"id": 1.5}, "id", "is no text but float 1.5"),
    ],
)
def test_a_broken_row_is_named_by_file_row_and_field(
    tmp_path: Path, change: dict[str, Any], field: str, said: str
) -> None:
    write_picture(tmp_path / "dogs" / "1.png", 0)
    with pytest.raises(MagicError) as caught:
        read(tmp_path, [ROW, {**ROW, **change}])
    assert caught.value.message.startswith(f"train.jsonl, row 2, field '{field}': ")
    assert said in caught.value.message
    assert caught.value.code is ErrorCode.TEXT_INVALID


def test_parquet_holds_pictures_as_bytes_structs_or_paths(tmp_path: Path) -> None:
    file = write_picture(tmp_path / "set" / "1.png", 1)
    data = picture(2)
    struct = [
        {"text": None, "image": {"bytes": data, "path": "2.png"}},
        {"text": "", "image": {"bytes": None, "path": "1.png"}},
    ]
    rows = [{"id": f"p{place}", "query": {"text": "q"}, "positive": target} for place, target in enumerate(struct)]
    write_parquet(tmp_path / "set" / "train-0.parquet", rows)
    pairs = open_pairs(source("pairs", "set", instructions="BLIP"), tmp_path)
    assert [(pairs[place].id, pairs[place].positive.image) for place in range(2)] == [("p0", data), ("p1", file)]
    plain = [{"query": {"text": "q"}, "positive": {"image": data}, "negatives": [{"text": "n", "image": None}]}]
    write_parquet(tmp_path / "plain" / "train.parquet", plain)
    pair = open_pairs(source("pairs", "plain", instructions="BLIP"), tmp_path)[0]
    assert (pair.id, pair.positive.image, pair.negatives[0].text) == ("train.parquet:1", data, "n")


def test_pictures_are_looked_for_from_the_folder_up_to_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    files = [write_picture(root / name, 0) for name in ("a/b/1.png", "a/images/2.png", "images/c/3.png", "a/4.png")]
    write_picture(tmp_path / "5.png", 0)
    pictures = Pictures(root / "a" / "b", root)
    row = Row({}, "f", 1)
    assert [pictures.of(row, "image", name) for name in ("1.png", "2.png", "c/3.png", "4.png")] == files
    with pytest.raises(MagicError, match=r"there is no picture str '5.png' in b or above") as caught:
        pictures.of(row, "image", "5.png")
    assert caught.value.code is ErrorCode.IMAGE_INVALID
    outside = Pictures(tmp_path / "other", root)
    assert outside.of(row, "image", "5.png") == tmp_path / "5.png"


@pytest.mark.parametrize(
    "name", ["../1.png", "a/../../1.png", "/etc/passwd", "C:\\1.png", "..\\1.png", "\\\\host\\1.png", "a\0.png"]
)
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    write_picture(tmp_path / "1.png", 0)
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    with pytest.raises(MagicError, match="is no path below the data set's folder") as caught:
        Pictures(root, root).of(Row({}, "f", 1), "image", name)
    assert caught.value.code is ErrorCode.IMAGE_INVALID


def test_names_that_no_file_can_have_are_missing_pictures(tmp_path: Path) -> None:
    for name in ("x" * 5000, "data:image/png;base64," + "QUJD" * 5000):
        with pytest.raises(MagicError, match="there is no picture str") as caught:
            Pictures(tmp_path, tmp_path).of(Row({}, "f", 1), "image", name)
        assert len(caught.value.message) < 300


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    outside = write_picture(tmp_path / "outside" / "1.png", 0)
    root = tmp_path / "root"
    inside = write_picture(root / "a" / "2.png", 0)
    (root / "link.png").symlink_to(outside)
    (root / "images").symlink_to(outside.parent)
    (root / "near.png").symlink_to(inside)
    pictures = Pictures(root, root)
    row = Row({}, "f", 1)
    for name in ("link.png", "images/1.png", "1.png"):
        with pytest.raises(MagicError, match="leads out of root by a symbolic link"):
            pictures.of(row, "image", name)
    assert pictures.of(row, "image", "near.png") == root / "near.png"


def test_unknown_formats_are_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        MagicError, match=r"no format 'csv' of pairs. Formats are pairs, mmeb-train, mmeb-eval, colpali"
    ):
        open_pairs(source("csv", "."), tmp_path)
    with pytest.raises(MagicError, match=r"no format 'pairs' of instruction samples. Formats are instructions"):
        open_conversations(source("pairs", "."), tmp_path)


def test_a_limit_keeps_the_rows_that_the_seed_chooses(tmp_path: Path) -> None:
    rows = [{"id": place, "query": {"text": "q"}, "positive": {"text": "t"}} for place in range(12)]
    write_jsonl(tmp_path / "train.jsonl", rows)

    def ids(seed: int, limit: int | None = 5) -> list[str]:
        pairs = open_pairs(source("pairs", ".", limit=limit, instructions="BLIP"), tmp_path, seed)
        return [pairs[place].id for place in range(len(pairs))]

    assert ids(3) == ids(3)
    assert len(ids(3)) == 5
    assert ids(3) == sorted(ids(3), key=int)
    assert len({tuple(ids(seed)) for seed in range(6)}) > 1
    assert ids(0, 99) == ids(0, None) == [str(place) for place in range(12)]


def test_a_fingerprint_changes_with_what_decides_on_samples(tmp_path: Path) -> None:
    rows = [{"query": {"text": f"q{place}"}, "positive": {"text": "t"}} for place in range(4)]
    for folder in ("a", "b"):
        write_jsonl(tmp_path / folder / "train.jsonl", rows)

    def name(folder: str = "a", seed: int = 0, **options: Any) -> str:
        return open_pairs(source("pairs", folder, **{"instructions": "BLIP", **options}), tmp_path, seed).fingerprint

    same = name()
    assert {same, name("b"), name(seed=5), name(weight=2.0, samples=9, judged=False, licence="MIT")} == {same}
    changed = [
        name(limit=2),
        name(limit=2, seed=1),
        name(instructions="VisDial"),
        name(max_tiles=4),
        name(name="other"),
    ]
    assert len({same, *changed}) == 1 + len(changed)
    write_jsonl(tmp_path / "a" / "train.jsonl", [*rows[:3], {**rows[3], "id": "x"}])
    assert name() != same


def test_places_outside_are_refused_and_sets_can_be_sent_to_workers(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"query": {"text": "q"}, "positive": {"text": "t"}}])
    pairs = open_pairs(source("pairs", ".", instructions="BLIP"), tmp_path)
    for place in (1, -1):
        with pytest.raises(IndexError):
            pairs[place]
    assert pickle.loads(pickle.dumps(pairs))[0] == pairs[0]
