"""MMEB in both public layouts: the list of sets, the words of its rows, and its scores."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_model.templates import Side
from magicmm_training.evaluation.benchmarks.mmeb import open_mmeb
from magicmm_training.evaluation.benchmarks.mmeb_sets import SETS, means_of
from magicmm_training.evaluation.evaluate import evaluate
from magicmm_training.evaluation.task import MISSING
from magicmm_training.recipe import Benchmark
from toy_embedders import Constant, Guess, Oracle, thing_image


def mmeb(**options: Any) -> Benchmark:
    return Benchmark(name="mmeb", format="mmeb", path="mmeb", options=options)


def v1_row(query: str, image: str, texts: list[str], images: list[str] | None = None) -> dict[str, Any]:
    return {
        "qry_text": query,
        "qry_img_path": image,
        "tgt_text": texts,
        "tgt_img_path": images if images is not None else [""] * len(texts),
    }


def write_set(root: Path, name: str, rows: list[dict[str, Any]], parquet: bool = True) -> None:
    folder = root / "mmeb" / name
    folder.mkdir(parents=True, exist_ok=True)
    if parquet:
        pq.write_table(pa.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")
    else:
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_image(root: Path, name: str, number: int) -> str:
    path = root / "mmeb" / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(thing_image(number))
    return name


def write_classification(root: Path, count: int, names: tuple[str, ...] = ("ImageNet-1K",), labels: int = 10) -> None:
    for name in names:
        rows = []
        for query in range(count):
            image = write_image(root, f"{name}/{query}.png", query % labels)
            things = [query % labels, *(label for label in range(labels) if label != query % labels)]
            text = "<|image_1|>\nRepresent the given image for classification\n"
            rows.append(v1_row(text, image, [f"thing {label}" for label in things]))
        write_set(root, name, rows)


def test_the_sets_are_those_of_the_paper() -> None:
    assert len(SETS) == len({each.name for each in SETS}) == 36
    assert Counter(each.category for each in SETS) == {"classification": 10, "VQA": 10, "retrieval": 12, "grounding": 4}
    assert Counter(each.trained for each in SETS) == {True: 20, False: 16}
    assert means_of(SETS[0]) == {"classification": 10, "IND": 20, "all": 36}
    assert means_of(SETS[-1]) == {"grounding": 4, "OOD": 16, "all": 36}
    assert all(each.habit.name in INSTRUCTIONS[each.habit.group] for each in SETS)


def test_means_over_all_sets_are_plain_means() -> None:
    # The paper's own row (2B, without reranker): the category means recombine to its overall mean.
    by_category = {"classification": 60.9, "VQA": 63.3, "retrieval": 72.2, "grounding": 84.6}
    sizes = Counter(each.category for each in SETS)
    assert sum(by_category[name] * count for name, count in sizes.items()) / 36 == pytest.approx(68.0, abs=0.1)
    assert pytest.approx(68.0, abs=0.1) == (20 * 74.7 + 16 * 59.5) / 36


def test_v1_texts_lose_marker_and_instruction(tmp_path: Path) -> None:
    image = write_image(tmp_path, "a.png", 1)
    rows = {
        "OK-VQA": (
            "<|image_1|>\nRepresent the given image with the following question: What is it?\n",
            ["a dog", "a cat"],
            ["", ""],
        ),
        "MSCOCO": (
            '<|image_1|>\nSelect the portion of the image that isolates the object labeled as "hot dog"\n',
            ["<|image_1|>\nRepresent the given cropped image of the object"] * 2,
            ["a.png", "b.png"],
        ),
        "WebQA": (
            "<|image_1|>\nFind a Wikipedia image that answers this question: Who?",
            ["<|image_1|>\nRepresent the given Wikipedia image with related text information: He."] * 2,
            ["a.png", "b.png"],
        ),
    }
    write_image(tmp_path, "b.png", 2)
    for name, (query, texts, images) in rows.items():
        write_set(tmp_path, name, [v1_row(query, "" if name == "WebQA" else image, texts, images)])
    found = {task.name: task.open() for task in open_mmeb(mmeb(partial=True), tmp_path)}
    assert list(found) == ["OK-VQA", "WebQA", "MSCOCO"]
    asks = {name: content.queries[0] for name, content in found.items()}
    assert (asks["OK-VQA"].text, asks["MSCOCO"].text, asks["WebQA"].text) == ("What is it?", "hot dog", "Who?")
    assert (asks["OK-VQA"].image is None, asks["WebQA"].image is None) == (False, True)
    targets = {name: content.candidates for name, content in found.items()}
    assert [entry.text for entry in targets["OK-VQA"]] == ["a dog", "a cat"]
    assert [entry.text for entry in targets["MSCOCO"]] == [None, None]
    assert [entry.text for entry in targets["WebQA"]] == ["He.", "He."]
    for name, group in (
        ("OK-VQA", TaskGroup.COMPOSED_TO_TEXT),
        ("MSCOCO", TaskGroup.COMPOSED_TO_IMAGE),
        ("WebQA", TaskGroup.TEXT_TO_COMPOSED),
    ):
        assert asks[name].instruction == INSTRUCTIONS[group][name].query
        assert {entry.instruction for entry in targets[name]} == {INSTRUCTIONS[group][name].target}
        assert (asks[name].side, targets[name][0].side) == (Side.QUERY, Side.CANDIDATE)


def test_the_layout_with_instructions_apart_gives_the_same_entries(tmp_path: Path) -> None:
    image = write_image(tmp_path, "a.png", 1)
    v1 = v1_row("<|image_1|>\nRepresent the given image with the following question: Why?\n", image, ["a", "b"])
    v2 = v1_row("<|image_1|>\nWhy?", image, ["a", "b"]) | {
        "qry_inst": "<|image_1|>\nRepresent the given image with the following question:",
        "tgt_inst": "",
    }
    write_set(tmp_path, "GQA", [v1])
    write_set(tmp_path, "VizWiz", [v2], parquet=False)
    first, second = (task.open() for task in open_mmeb(mmeb(partial=True), tmp_path))
    assert first.queries == second.queries
    assert first.candidates == second.candidates


def test_documents_are_cut_into_tiles(tmp_path: Path) -> None:
    image = write_image(tmp_path, "a.png", 1)
    question = "<|image_1|>\nRepresent the given image with the following question: What?\n"
    write_set(tmp_path, "DocVQA", [v1_row(question, image, ["a", "b"])])
    write_set(tmp_path, "GQA", [v1_row(question, image, ["a", "b"])])
    tiles = [task.open().queries[0].max_tiles for task in open_mmeb(mmeb(partial=True), tmp_path)]
    assert tiles == [4, 1]


def test_crops_of_one_path_stay_apart_and_equal_candidates_become_one(tmp_path: Path) -> None:
    image = write_image(tmp_path, "a.png", 1)
    lead = "<|image_1|>\nSelect the portion of the image that follows the language expressions: "
    row = v1_row(lead + "left", image, [lead + "left", lead + "right", lead + "right"], [image] * 3)
    write_set(tmp_path, "RefCOCO-Matching", [row])
    content = open_mmeb(mmeb(partial=True), tmp_path)[0].open()
    assert [entry.text for entry in content.candidates] == ["left", "right"]
    assert content.facts["repeated_candidates"] == 1


def test_an_unknown_beginning_is_counted_and_kept(tmp_path: Path) -> None:
    write_set(tmp_path, "MSCOCO_t2i", [v1_row("Show me a dog", "", ["", ""], ["a.png", "b.png"])])
    content = open_mmeb(mmeb(partial=True), tmp_path)[0].open()
    assert content.queries[0].text == "Show me a dog"
    assert content.facts["queries_without_known_instruction"] == 1
    assert [entry.image for entry in content.candidates] == [MISSING, MISSING]


def test_control_models(tmp_path: Path) -> None:
    write_classification(tmp_path, 60, ("ImageNet-1K", "ImageNet-A"))
    results = {model.name: evaluate(model, [mmeb(partial=True)], tmp_path) for model in (Oracle(), Guess(), Constant())}
    assert [task.values["precision@1"].score for task in results["oracle"].tasks] == [1, 1]
    # The right one is first in every file: a scorer of ties must not profit.
    for task in results["constant"].tasks:
        assert task.values["precision@1"].score == pytest.approx(0.1)
        assert task.values["precision@1"].pessimistic == 0
        assert task.tied == 60
        assert any("collapse" in warning for warning in task.warnings)
    for task in results["guess"].tasks:
        assert task.values["precision@1"].score == pytest.approx(0.1, abs=0.1)
        assert task.warnings == ()
    assert {mean.name: (mean.tasks, mean.of, mean.partial) for mean in results["oracle"].means} == {
        "classification": (2, 10, True),
        "IND": (1, 20, True),
        "OOD": (1, 16, True),
        "all": (2, 36, True),
    }


def test_a_set_with_another_number_of_queries_is_refused(tmp_path: Path) -> None:
    write_classification(tmp_path, 12)
    with pytest.raises(MagicError, match=r"ImageNet-1K has 12 queries, the published files have 1,000"):
        evaluate(Oracle(), [mmeb(sets="ImageNet-1K")], tmp_path)


def test_a_missing_set_is_an_error_unless_partial(tmp_path: Path) -> None:
    write_classification(tmp_path, 12)
    with pytest.raises(MagicError, match="N24News") as caught:
        open_mmeb(mmeb(), tmp_path)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
    assert [task.name for task in open_mmeb(mmeb(partial=True), tmp_path)] == ["ImageNet-1K"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": "ImageNet"}, "no set ImageNet"),
        ({"set": "GQA"}, "has the option set"),
        ({"partial": "yes"}, "has the option partial"),
    ],
)
def test_unknown_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MagicError, match=message):
        open_mmeb(mmeb(**options), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"tgt_text": ["a"]},
        {"tgt_text": [], "tgt_img_path": []},
        {"tgt_text": ["", ""]},
        {"tgt_text": None},
        {"qry_text": "<|image_1|>\n", "qry_img_path": ""},
    ],
)
def test_broken_rows_are_named(tmp_path: Path, change: dict[str, Any]) -> None:
    good = v1_row("<|image_1|>\nRepresent the given image with the following question: Why?\n", "", ["a", "b"])
    write_set(tmp_path, "GQA", [good, good | change], parquet=False)
    with pytest.raises(MagicError, match=r"test\.jsonl, row 2") as caught:
        open_mmeb(mmeb(partial=True), tmp_path)[0].open()
    assert caught.value.code is ErrorCode.TEXT_INVALID
