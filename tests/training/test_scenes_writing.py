"""The written data set: the same each time, split without overlap, and readable by our readers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.instructions import TaskGroup
from magicmm_training.data.registry import open_conversations, open_pairs
from magicmm_training.recipe import Source
from magicmm_training.scenes import Sizes, Truth, write_scenes
from magicmm_training.scenes.cases import make_case
from magicmm_training.scenes.drawing import CELL, SIDE, draw
from magicmm_training.scenes.samples import looking_samples, matching_samples
from magicmm_training.scenes.splits import make_splits, shown_scenes
from magicmm_training.scenes.world import COLOURS, SHAPES, Scene, Thing, random_scene

SIZES = Sizes(captions=60, changes=30, samples=60, test=20)
GROUPS = {"t2i": ("T->I", "MSCOCO"), "i2t": ("I->T", "MSCOCO"), "it2i": ("IT->I", "CIRR")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(out, SIZES, seed=3)
    return out


def source(name: str) -> Source:
    task = name.split("-")[1]
    group, row = GROUPS[task]
    return Source(name=name, format="pairs", path=f"scenes/{name}.jsonl", group=group, instructions=row)


def test_a_second_run_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "again", SIZES, seed=3)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert names == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_another_seed_makes_other_scenes(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "other", SIZES, seed=4)
    name = "test-t2i.jsonl"
    assert (folder / name).read_text() != (tmp_path / "other" / name).read_text()


def test_an_existing_folder_is_left_alone(folder: Path) -> None:
    with pytest.raises(MagicError) as failure:
        write_scenes(folder, SIZES)
    assert failure.value.code is ErrorCode.ARGUMENT_INVALID
    assert not list(folder.parent.glob("*.partial-*"))


@pytest.mark.parametrize("sizes", [{"captions": 0}, {"test": 1_000_000}])
def test_sizes_that_cannot_be_made_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(MagicError) as failure:
        Sizes(**sizes)
    assert failure.value.code is ErrorCode.ARGUMENT_INVALID


def test_wrong_targets_do_not_fit_and_right_ones_do() -> None:
    random, unchanged = Random("cases"), 0
    for _ in range(60):
        case = make_case(TaskGroup.COMPOSED_TO_IMAGE, random_scene(random), random, 1, lambda scene: True)
        if case is not None:
            assert case.wrong[0].scene != case.right.scene
            unchanged += case.wrong[0].scene == case.query.scene
    # Were the picture before the change always the wrong one, a judge could be right without reading the words.
    assert 10 < unchanged < 50


def test_training_and_test_share_no_scene_and_training_holds_no_unseen_combination() -> None:
    train, test = make_splits(Sizes(captions=400, changes=200, test=60), seed=1)
    assert not shown_scenes(train) & shown_scenes(test)
    assert not any(scene.is_held_out for scene in shown_scenes(train))
    assert sum(pair.scene.is_held_out for pair in test.captions) == 30
    assert sum(edit.after.is_held_out for edit in test.changes) == 30


def test_instruction_pictures_show_no_test_scene(folder: Path) -> None:
    truth = Truth.open(folder)
    hidden = shown_scenes(truth.split("test"))

    def allowed(scene: Scene) -> bool:
        return not scene.is_held_out and scene not in hidden

    samples = looking_samples(100, Random("x"), allowed) + matching_samples(100, Random("x"), allowed)
    scenes = [scene for sample in samples for scene in sample.scenes]
    assert len(scenes) > 200
    assert not hidden & set(scenes) and not any(scene.is_held_out for scene in scenes)


@pytest.mark.parametrize("name", [f"{split}-{task}" for split in ("train", "test") for task in GROUPS])
def test_pairs_are_read_with_the_papers_instructions(folder: Path, name: str) -> None:
    pairs = open_pairs(source(name), folder.parent)
    task = name.split("-")[1]
    wanted = SIZES.test if name.startswith("test") else SIZES.changes if task == "it2i" else SIZES.captions
    assert len(pairs) == wanted
    pair = pairs[wanted - 1]
    assert (pair.query.text is None) == (task == "i2t") and (pair.query.image is None) == (task == "t2i")
    assert (pair.positive.image is None) == (task == "i2t")
    for entry in (pair.query, pair.positive):
        if entry.image is not None:
            assert isinstance(entry.image, Path)
            with Image.open(entry.image) as picture:
                assert picture.size == (SIDE, SIDE)


def test_conversations_are_read_and_cover_all_kinds(folder: Path) -> None:
    kinds: dict[str, Counter[str]] = {}
    for name in ("look", "match"):
        source = Source(name=name, format="instructions", path=f"scenes/train-{name}.jsonl")
        chats = open_conversations(source, folder.parent)
        kinds[name] = Counter()
        for place in range(len(chats)):
            chat = chats[place]
            assert [turn.speaker for turn in chat.turns] == ["user", "assistant"] * (len(chat.turns) // 2)
            assert sum(turn.text.count("<image>") for turn in chat.turns) == len(chat.images)
            kinds[name][chat.turns[1].text if chat.turns[1].text in ("yes", "no") else "other"] += 1
    assert sum(kinds["look"].values()) + sum(kinds["match"].values()) == SIZES.samples
    assert kinds["look"]["other"] > 12
    assert min(kinds["match"]["yes"], kinds["match"]["no"]) > 8, kinds


def test_a_query_of_the_test_has_one_right_answer(folder: Path) -> None:
    truth = Truth.open(folder)
    for task in GROUPS:
        assert np.array_equal(truth.matrix(f"test-{task}"), np.eye(SIZES.test, dtype=bool)), task


def test_truth_knows_that_several_training_pictures_fit_a_caption(folder: Path) -> None:
    truth = Truth.open(folder)
    words, pictures = truth.matrix("train-t2i"), truth.matrix("train-i2t")
    assert np.array_equal(words, pictures.T)
    assert (words.sum(1) > 1).mean() > 0.3, "false negatives are what the judge is for"
    rows = [json.loads(line) for line in (folder / "train-t2i.jsonl").read_text().splitlines()]
    assert [row["query"]["text"] for row in rows] == [pair.words for pair in truth.split("train").captions]


def test_truth_refuses_scenes_of_another_making(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MagicError) as failure:
        Truth.open(tmp_path)
    assert failure.value.code is ErrorCode.SOURCE_UNAVAILABLE
    facts = json.loads((folder / "scenes.json").read_text())
    facts["last_words"][0] = "something else"
    (tmp_path / "scenes.json").write_text(json.dumps(facts))
    with pytest.raises(MagicError) as failure:
        Truth.open(tmp_path)
    assert failure.value.code is ErrorCode.ARGUMENT_INVALID


def test_shapes_look_different() -> None:
    cells = {shape: np.asarray(draw(Scene((Thing(0, 0, shape, "red"),)), "look"))[:CELL, :CELL] for shape in SHAPES}
    covered = {shape: (np.abs(cell.astype(int) - (214, 40, 40)).sum(2) < 60).mean() for shape, cell in cells.items()}
    assert covered["square"] > 1.2 * max(covered["ring"], covered["cross"]), covered
    middle = {shape: cell[CELL // 2, CELL // 2].astype(int) for shape, cell in cells.items()}
    assert np.abs(middle["cross"] - middle["square"]).sum() < 60 < np.abs(middle["ring"] - middle["square"]).sum()


@pytest.mark.parametrize("colour", COLOURS)
def test_things_are_drawn_in_their_cell_in_their_colour(colour: str) -> None:
    scene = Scene((Thing(0, 1, "square", colour),))
    pixels = np.asarray(draw(scene, "look")).astype(int)
    assert pixels.shape == (SIDE, SIDE, 3)
    middle = pixels[CELL // 2, CELL + CELL // 2]
    strongest = {"red": {0}, "green": {1}, "blue": {2}, "yellow": {0, 1}, "purple": {0, 2}}[colour]
    assert int(middle.argmax()) in strongest
    same = np.abs(pixels - middle).sum(2) == 0
    assert same.sum() > 100, "a square covers many pixels"
    rows, columns = np.nonzero(same)
    assert rows.max() < CELL and columns.min() >= CELL
    assert not np.array_equal(pixels, np.asarray(draw(scene, "another look")))
