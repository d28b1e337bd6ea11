"""MMEB as its files write it: markers, instructions, "" for absent, three ways of writing negatives, two spellings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magicmm import MagicError
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_training.data.mmeb_habits import TRAINED, UNSEEN, habit_of, target_words
from magicmm_training.data.registry import open_pairs
from magicmm_training.entries import Pair
from training_rows import source, write_parquet, write_picture

MARK = "<|image_1|>\n"
IMAGES = "images/{}/Train/{}.png"


def row(**values: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path"), "")
    return {**empty, **values}


def read(root: Path, subset: str, *rows: dict[str, Any], name: str = "original-00000", **options: Any) -> list[Pair]:
    write_parquet(root / "MMEB" / subset / f"{name}.parquet", list(rows))
    pairs = open_pairs(source("mmeb-train", f"MMEB/{subset}", **options), root)
    return [pairs[place] for place in range(len(pairs))]


def image(root: Path, subset: str, name: str) -> str:
    path = IMAGES.format(subset, name)
    write_picture(root / "MMEB" / path, hash(name) % 1000)
    return path


def test_there_are_20_and_16_subsets_all_in_the_papers_table() -> None:
    assert (len(TRAINED), len(UNSEEN)) == (20, 16)
    for habit in (*TRAINED.values(), *UNSEEN.values()):
        assert habit.name in INSTRUCTIONS[habit.group]
    assert habit_of(["ImageNet_1K"]) is habit_of(["ImageNet-1K"]) is TRAINED["ImageNet-1K"]
    assert habit_of(["nothing", "InfographicVQA"]) is TRAINED["InfographicsVQA"]
    assert habit_of(["nothing"]) is None


def test_classification_leaves_the_picture_alone(tmp_path: Path) -> None:
    path = image(tmp_path, "ImageNet_1K", "q")
    (pair,) = read(
        tmp_path,
        "ImageNet_1K",
        row(
            qry=f"{MARK}Represent the given image for classification\n",
            qry_image_path=path,
            pos_text="plane\n",
            neg_text="dog",
        ),
    )
    task = INSTRUCTIONS[TRAINED["ImageNet-1K"].group]["ImageNet-1K"]
    assert (pair.query.text, pair.query.image) == (None, tmp_path / "MMEB" / path)
    assert (pair.query.instruction, pair.positive.instruction) == (task.query, task.target)
    assert (pair.positive.text, pair.positive.image) == ("plane", None)
    assert [(one.text, one.image) for one in pair.negatives] == [("dog", None)]
    assert pair.id == "original-00000.parquet:1"


@pytest.mark.parametrize(
    ("subset", "query", "words"),
    [
        (
            "OK-VQA",
            f"{MARK}Represent the given image with the following question: What is it: a dog?\n",
            "What is it: a dog?",
        ),
        ("MSCOCO_t2i", "Find me an everyday image that matches the given caption: A dog runs.\n", "A dog runs."),
        ("VisualNews_t2i", "Retrieve an image of this news caption. Snow. More snow.\n", "Snow. More snow."),
        ("MSCOCO", f'{MARK}Select the portion of the image that isolates the object labeled as "hot dog"\n', "hot dog"),
        ("WebQA", f"{MARK}Find a Wikipedia image that answers this question: Who?\n", "Who?"),
        (
            "VisDial",
            "Represent the given dialogue about an image, which is used for image retrieval: Q:is it red\nA:yes\n\n",
            "Q:is it red\nA:yes",
        ),
    ],
)
def test_instructions_of_queries_are_replaced(tmp_path: Path, subset: str, query: str, words: str) -> None:
    habit = TRAINED[subset]
    path = image(tmp_path, subset, "p")
    asks = path if habit.group.value.startswith("I") else ""
    (pair,) = read(tmp_path, subset, row(qry=query, qry_image_path=asks, pos_image_path=path))
    assert pair.query.text == words
    assert pair.query.instruction == INSTRUCTIONS[habit.group][habit.name].query
    assert (pair.query.image is not None) == bool(asks)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{MARK}Represent the given image.\n", None),
        (f"{MARK}Represent the given image\n", None),
        (f"{MARK}Represent the given cropped image of the object", None),
        (f"{MARK}Represent the given Wikipedia image with related text information: A coin.\n", "A coin."),
        ("Represent the class label: dog", "dog"),
        ("Represent the given image of mine", "Represent the given image of mine"),
        ("representative", "representative"),
        ('"quoted" and "more"', '"quoted" and "more"'),
        (f"{MARK}\n", None),
        (None, None),
    ],
)
def test_instructions_of_targets_are_removed(text: str | None, words: str | None) -> None:
    assert target_words(text) == words


def test_negatives_are_one_text_a_list_or_a_list_as_text(tmp_path: Path) -> None:
    query = f"{MARK}Represent the given image with the following question: Which?"
    path = image(tmp_path, "ChartQA", "q")

    def negatives(**values: Any) -> list[str | None]:
        (pair,) = read(tmp_path, "ChartQA", row(qry=query, qry_image_path=path, pos_text="4", **values))
        return [one.text for one in pair.negatives]

    assert negatives(neg_text="5") == ["5"]
    assert negatives(neg_text="[2, 3]") == ["[2, 3]"]
    assert negatives(neg_text="") == negatives(neg_text="[]") == negatives(neg_text=None) == []
    assert negatives(neg_text=["5", "6"], neg_image_path=["", ""]) == ["5", "6"]
    assert negatives(neg_text=["5", "", "6"]) == ["5", "6"]
    assert negatives(neg_text=json.dumps(["it's", 'say "x"'])) == ["it's", 'say "x"']
    assert negatives(neg_text=str(["it's", 'say "x"']), neg_image_path="['', '']") == ["it's", 'say "x"']


def test_negative_pictures_keep_their_order(tmp_path: Path) -> None:
    paths = [image(tmp_path, "NIGHTS", name) for name in "qpab"]
    target = f"{MARK}Represent the given image.\n"
    (pair,) = read(
        tmp_path,
        "NIGHTS",
        row(
            qry=f"{MARK}Find a day-to-day image that looks similar to the provided image.\n",
            qry_image_path=paths[0],
            pos_text=target,
            pos_image_path=paths[1],
            neg_text=str([target, target]),
            neg_image_path=str(paths[2:]),
        ),
    )
    assert [one.image for one in (pair.query, pair.positive, *pair.negatives)] == [tmp_path / "MMEB" / p for p in paths]
    assert {one.text for one in (pair.query, pair.positive, *pair.negatives)} == {None}


def test_no_code_of_the_data_is_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = image(tmp_path, "ChartQA", "q")
    query = f"{MARK}Represent the given image with the following question: Which?"
    code = f"['a', open({str(trap)!r}, 'w')]"
    with pytest.raises(MagicError, match="field 'neg_text': begins like a list but cannot be read as one"):
        read(tmp_path, "ChartQA", row(qry=query, qry_image_path=path, pos_text="4", neg_text=code))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"qry": f"{MARK}What is it?"}, "qry", "does not begin with 'Represent the given image with the following"),
        ({"neg_text": ["a", "b"], "neg_image_path": ["x"]}, "neg_text", "has 2 entries, but neg_image_path has 1"),
        ({"neg_text": "['a', 5]"}, "neg_text[1]", "is no text but int 5"),
        ({"neg_text": '["a", "b'}, "neg_text", "begins like a list but cannot be read as one"),
        ({"pos_text": ""}, "pos_text", "has neither text nor picture"),
        ({"qry_image_path": "images/ChartQA/Train/none.png"}, "qry_image_path", "there is no picture"),
        ({"qry_image_path": "../../secret.png"}, "qry_image_path", "is no path below"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, change: dict[str, Any], field: str, said: str) -> None:
    path = image(tmp_path, "ChartQA", "q")
    query = f"{MARK}Represent the given image with the following question: Which?"
    with pytest.raises(MagicError) as caught:
        read(tmp_path, "ChartQA", {**row(qry=query, qry_image_path=path, pos_text="4"), **change})
    assert caught.value.message.startswith(f"original-00000.parquet, row 1, field '{field}': ")
    assert said in caught.value.message


def test_variants_are_splits(tmp_path: Path) -> None:
    query = "Find me an everyday image that matches the given caption: A dog."
    path = image(tmp_path, "MSCOCO_t2i", "p")
    plain = row(qry=query, pos_image_path=path)
    assert len(read(tmp_path, "MSCOCO_t2i", plain)) == 1
    diverse = row(qry="Show a picture of it: A dog.", pos_image_path=path)
    with pytest.raises(MagicError, match="does not begin with") as caught:
        read(tmp_path, "MSCOCO_t2i", diverse, name="diverse_instruction-00000", split="diverse_instruction")
    assert "split `original`" in caught.value.remedy
    assert len(read(tmp_path, "MSCOCO_t2i", plain, plain, name="train-00000-of-00001")) == 2


def test_other_data_sets_of_this_layout_bring_instructions_in_their_first_line(tmp_path: Path) -> None:
    path = image(tmp_path, "Retrieval", "p")
    rows = [
        row(qry=f"{MARK}Find a similar poster.\nwith a red title\n", qry_image_path=path, pos_text="a"),
        row(qry=f"{MARK}Name the animal.\n", qry_image_path=path, pos_text="a"),
    ]
    found = read(tmp_path, "Retrieval", *rows, name="train")
    assert [(pair.query.instruction, pair.query.text) for pair in found] == [
        ("Find a similar poster.", "with a red title"),
        ("Name the animal.", None),
    ]
    with pytest.raises(MagicError, match="has no line of its own for the instruction"):
        read(tmp_path, "Retrieval", row(qry="a dog", pos_image_path=path), name="train")
    (pair,) = read(
        tmp_path, "Retrieval", row(qry="a dog", pos_image_path=path), name="train", group="T->I", instructions="BLIP"
    )
    assert (pair.query.instruction, pair.query.text) == (INSTRUCTIONS[TaskGroup.TEXT_TO_IMAGE]["BLIP"].query, "a dog")


def test_evaluation_sets_have_their_positive_first(tmp_path: Path) -> None:
    for name in ("q.png", "a.png"):
        write_picture(tmp_path / "eval" / "images" / "CIRR" / name, 0)
    change = f"{MARK}Given an image, find a similar everyday image with the described changes: Add a hat.\n"
    target = f"{MARK}Represent the given image.\n"
    rows = [
        {
            "qry_text": change,
            "qry_img_path": "CIRR/q.png",
            "tgt_text": [target, target],
            "tgt_img_path": ["CIRR/a.png", "CIRR/q.png"],
        }
    ]
    write_parquet(tmp_path / "eval" / "CIRR" / "test-0.parquet", rows)
    pair = open_pairs(source("mmeb-eval", "eval/CIRR", split="test"), tmp_path)[0]
    folder = tmp_path / "eval" / "images" / "CIRR"
    assert (pair.query.text, pair.query.image, pair.positive.image) == (
        "Add a hat.",
        folder / "q.png",
        folder / "a.png",
    )
    assert [one.image for one in pair.negatives] == [folder / "q.png"]
    apart = [{**rows[0], "qry_inst": f"{MARK}Find it:", "qry_text": "Add a hat.", "tgt_inst": "Show it."}]
    write_parquet(tmp_path / "eval" / "CIRR" / "apart.parquet", apart)
    pair = open_pairs(source("mmeb-eval", "eval/CIRR", split="apart"), tmp_path)[0]
    task = INSTRUCTIONS[TaskGroup.COMPOSED_TO_IMAGE]["CIRR"]
    assert (pair.query.text, pair.query.instruction) == ("Add a hat.", task.query)
    write_parquet(tmp_path / "eval" / "CIRR" / "short.parquet", [{**rows[0], "tgt_text": [target]}])
    with pytest.raises(MagicError, match="has 1 entries, but tgt_img_path has 2"):
        open_pairs(source("mmeb-eval", "eval/CIRR", split="short"), tmp_path)[0]
