"""The judge's question, word for word; all that query and target say is in it, in the order of the parts."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_checkpoints
from magicmm import MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_model.templates import PromptBuilder
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_training.entries import Entry
from magicmm_training.judge.message import Message, MessageReader, Picture, said
from magicmm_training.judge.prompts import PROMPT_VERSION, QUESTIONS, judge_message, question
from training_pairs import candidate, picture, query

RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255))


def asked(group: str, name: str, text: str | None, image: bytes | None = None) -> Entry:
    return query(text, image, INSTRUCTIONS[TaskGroup(group)][name].query)


SNAPSHOTS = {
    "T->I": (
        judge_message(asked("T->I", "MSCOCO", "a red dog"), candidate(None, RED)),
        "Is the query text relevant to the target image?\nQuery: a red dog\nTarget: <image>\nAnswer yes or no.",
    ),
    "I->T": (
        judge_message(asked("I->T", "MSCOCO", None, RED), candidate("a red dog")),
        "Can the target text be a caption of the query image?\nQuery: <image>\nTarget: a red dog\nAnswer yes or no.",
    ),
    "class": (
        judge_message(asked("I->T", "ImageNet-1K", None, RED), candidate("tench")),
        "Does the query image show an object of the target class?\nQuery: <image>\nTarget: tench\nAnswer yes or no.",
    ),
    "IT->I": (
        judge_message(asked("IT->I", "CIRR", "in blue", RED), candidate(None, BLUE)),
        "Does the query image with the change in words lead to the target image?\n"
        "Query: <image> in blue\nTarget: <image>\nAnswer yes or no.",
    ),
    "IT->T": (
        judge_message(asked("IT->T", "OK-VQA", "what colour?", RED), candidate("red")),
        "Is the target the right answer to the question about the query image?\n"
        "Query: <image> what colour?\nTarget: red\nAnswer yes or no.",
    ),
    "T->IT": (
        judge_message(asked("T->IT", "WebQA", "what is red?"), candidate("a rose", RED)),
        "Are the target image and its text relevant to the query?\n"
        "Query: what is red?\nTarget: <image> a rose\nAnswer yes or no.",
    ),
    "own words": (
        judge_message(query("2 + 2", None, "Solve it."), candidate("4")),
        "Does the target fulfil this request: Solve it.\nQuery: 2 + 2\nTarget: 4\nAnswer yes or no.",
    ),
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_the_whole_question(name: str) -> None:
    message, text = SNAPSHOTS[name]
    assert message.text == text


def test_the_version_belongs_to_these_words() -> None:
    """Whoever changes words above changes this number, or cached answers to other words are used."""
    assert PROMPT_VERSION == 1


def test_every_instruction_of_the_paper_has_a_question() -> None:
    instructions = {row.query for rows in INSTRUCTIONS.values() for row in rows.values()}
    assert set(QUESTIONS) == instructions
    assert all(text.endswith("?") for text in QUESTIONS.values())


def test_questions_of_single_sets() -> None:
    assert question(asked("IT->I", "RefCOCO", "left cup", RED)).startswith("Does the target image show the part")
    assert question(asked("I->T", "SUN397", None, RED)) == "Does the query image show the target scene?"
    assert question(asked("T->I", "VisDial", "hi")) == "Is the query dialogue about the target image?"
    assert question(asked("T->I", "VisualNews", "hi")) == "Is the query text relevant to the target image?"


def test_pictures_keep_their_order_and_tiles() -> None:
    document = Entry("page 3", RED, "Find it.", query("q").side, max_tiles=4)
    message = judge_message(document, candidate(None, BLUE))
    assert message.pictures == (Picture(RED, 4), Picture(BLUE, 1))


def test_a_picture_is_never_made_of_words() -> None:
    message = Message(("see <image>, ", *said(candidate("an <image> tag", RED))))
    assert message.text == "see < image>, <image> an < image> tag"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[MessageReader, PromptTokenizer]:
    folder = tmp_path_factory.mktemp("reader") / "tiny"
    tiny_checkpoints.write_checkpoint(folder)
    tokenizer = PromptTokenizer(folder / "tokenizer.json")
    config = Checkpoint.open(folder).config
    return MessageReader(PromptBuilder(config, tokenizer), config.vision.image_size), tokenizer


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_all_words_reach_the_model(reader: tuple[MessageReader, PromptTokenizer], name: str) -> None:
    """UniME-V2's reranker lost all texts between data and prompt; here the ids are read back."""
    message, text = SNAPSHOTS[name]
    prompt, tiles = reader[0].read(message)
    special = reader[1].special
    seen = reader[1].decode(prompt.ids)
    assert text.replace("<image>", "") in seen
    assert prompt.ids.count(special.image_start) == len(message.pictures) == len(tiles)
    assert prompt.ids.count(special.context) == sum(map(len, tiles)) * 64
    for given, wanted in zip(tiles, message.pictures, strict=True):
        colour = (255, 0, 0) if wanted.image == RED else (0, 0, 255)
        assert tuple(given[0, 200, 200].tolist()) == colour


def test_a_picture_that_is_none_is_said(reader: tuple[MessageReader, PromptTokenizer]) -> None:
    with pytest.raises(MagicError):
        reader[0].read(Message((Picture(b"nothing", 1),)))


def test_a_missing_file_is_said(reader: tuple[MessageReader, PromptTokenizer], tmp_path: Path) -> None:
    with pytest.raises(MagicError, match=r"gone\.png"):
        reader[0].read(Message((Picture(tmp_path / "gone.png", 1),)))
