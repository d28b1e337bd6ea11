"""The reranker's questions, word for word, and as the ids that the model reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tiny_checkpoints
from magicmm import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_training.entries import Entry
from magicmm_training.reranker.prompts import NO, YES, index_answer, listwise_message, pointwise_message
from magicmm_training.reranker.reading import RankReader
from training_pairs import candidate, picture, query

RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255))
ASKED = query("in blue", RED, "Find it.")
LIST = [candidate("a red dog"), candidate(None, BLUE), candidate("a page", RED)]


def test_the_pointwise_question() -> None:
    assert pointwise_message(ASKED, LIST[2]).text == (
        "Does the target fulfil this request: Find it.\n"
        "Query: <image> in blue\nTarget: <image> a page\nAnswer yes or no."
    )
    assert (YES, NO) == ("yes", "no")


def test_the_listwise_question() -> None:
    assert listwise_message(ASKED, LIST).text == (
        "Which candidate fits the query best?\nQuery: <image> in blue\n"
        "(1) a red dog\n(2) <image>\n(3) <image> a page\nAnswer its number."
    )


def test_the_number_of_an_answer_is_one_that_is_shown() -> None:
    """UniME-V2 draws answers from 1 to 5 while six candidates are shown."""
    for count in range(1, 7):
        shown = re.findall(r"^\((\d+)\)", listwise_message(ASKED, [LIST[0]] * count).text, re.MULTILINE)
        assert shown == [index_answer(place) for place in range(count)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, PromptTokenizer]:
    folder: Path = tmp_path_factory.mktemp("reader") / "tiny"
    tiny_checkpoints.write_checkpoint(folder)
    return Checkpoint.open(folder), PromptTokenizer(folder / "tokenizer.json")


def reader(parts: tuple[Checkpoint, PromptTokenizer], most: int) -> RankReader:
    return RankReader(parts[0].config, parts[1], most)


def test_all_words_and_pictures_reach_the_model(parts: tuple[Checkpoint, PromptTokenizer]) -> None:
    reads, (_, tokenizer) = reader(parts, 2048), parts
    asked, listed = reads.show(ASKED), [reads.show(entry) for entry in LIST]
    for question, message in (
        (reads.pointwise(asked, listed[2]), pointwise_message(ASKED, LIST[2])),
        (reads.listwise(asked, listed), listwise_message(ASKED, LIST)),
    ):
        assert question.text == message.text
        assert message.text.replace("<image>", "") in tokenizer.decode(question.ids)
        assert question.ids.count(tokenizer.special.image_start) == len(message.pictures) == len(question.tiles)
        colours = [tuple(tiles[0, 9, 9].tolist()) for tiles in question.tiles]
        assert colours == [(255, 0, 0) if shown.image == RED else (0, 0, 255) for shown in message.pictures]


LONG = [query("which one"), *(candidate(f"{word} beach, " * 60) for word in ("red", "blue"))]


@pytest.mark.parametrize("most", [280, 333, 500, 5000])
def test_long_texts_are_cut_to_the_room_there_is(parts: tuple[Checkpoint, PromptTokenizer], most: int) -> None:
    reads, tokenizer = reader(parts, most), parts[1]
    shown = [reads.show(entry) for entry in LONG]
    for question in (reads.pointwise(shown[0], shown[1], 3), reads.listwise(shown[0], shown[1:], 3)):
        assert len(question.ids) + 3 <= most
        assert "which one" in question.text
        assert tokenizer.decode(question.ids).count("red beach") > 1
    whole = listwise_message(LONG[0], LONG[1:]).text
    assert (reads.listwise(shown[0], shown[1:]).text == whole) == (most == 5000)


def test_a_text_is_not_cut_more_than_it_must(parts: tuple[Checkpoint, PromptTokenizer]) -> None:
    reads = reader(parts, 400)
    question = reads.pointwise(reads.show(LONG[0]), reads.show(LONG[1]))
    assert 400 - 16 <= len(question.ids) <= 399


def test_what_cannot_fit_is_said(parts: tuple[Checkpoint, PromptTokenizer]) -> None:
    for most, entries in ((150, LONG[:2]), (120, [ASKED, candidate(None, BLUE)])):
        reads = reader(parts, most)
        with pytest.raises(MagicError, match=f"does not fit into {most} tokens") as caught:
            reads.pointwise(reads.show(entries[0]), reads.show(entries[1]))
        assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_words_that_look_like_a_picture_stay_words(parts: tuple[Checkpoint, PromptTokenizer]) -> None:
    reads = reader(parts, 500)
    tag = Entry("an <image> tag", None, "Find it.", ASKED.side)
    assert reads.pointwise(reads.show(tag), reads.show(LIST[0])).tiles == ()
