"""Chats with pictures, held against transformers' processor and against whole strings tokenized in one go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.internvl.processing_internvl import InternVLProcessor

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.config import LanguageConfig, ModelConfig, VisionConfig
from magicmm_model.templates import PromptBuilder, Turn
from magicmm_model.tiling import count_tiles
from magicmm_model.tokenizer import PromptTokenizer

CONFIG = ModelConfig(VisionConfig(), LanguageConfig(48, 3, 6, 2, 80, vocab_size=400, max_positions=2048))
PERSONA = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001


@pytest.fixture(scope="module")
def builder(folder: Path) -> PromptBuilder:
    return PromptBuilder(CONFIG, PromptTokenizer(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> Callable[[str], tuple[int, ...]]:
    library: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda prompt: tuple(library.encode(prompt, add_special_tokens=False).ids)


class PicturesOnly(InternVLProcessor):
    """transformers' processor without its part for videos, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> type:
        return type(argument)


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    library: Any = PreTrainedTokenizerFast  # untyped
    tokenizer = library(
        tokenizer_file=str(folder / "tokenizer.json"), extra_special_tokens={**names, "video_token": "<video>"}
    )
    return PicturesOnly(GotOcr2ImageProcessor(size={"height": 32, "width": 32}), tokenizer, image_seq_length=64)


def turn(speaker: str, text: str) -> str:
    return f"<|im_start|>{speaker}\n{text}<|im_end|>\n"


def chatter(text: str) -> str:
    """One question in InternVL's template."""
    return f"{turn('system', PERSONA)}{turn('user', text)}<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("<image>\nWhat is it?", [(32, 32)]),
        ("<image>", [(96, 96)]),
        ("First: <image>, second: <image>\nSame dog?", [(64, 32), (32, 64)]),
        ("<image><image>\n\n<image>\n书生", [(40, 30), (200, 210), (32, 90)]),
    ],
)
def test_a_chat_has_the_ids_of_transformers(
    text: str, sizes: list[tuple[int, int]], builder: PromptBuilder, processor: Any
) -> None:
    pictures = [Image.fromarray(np.zeros((height, width, 3), np.uint8)) for width, height in sizes]
    prompt = chatter(text.replace("<image>", "<IMG_CONTEXT>"))
    theirs = processor(images=pictures, text=prompt, crop_to_patches=True, min_patches=1, max_patches=4)
    ours = builder.chat([Turn("user", text)], [count_tiles(*size, 32, 4) for size in sizes])
    assert ours.ids == tuple(theirs["input_ids"][0])
    assert ours.truncated is False


def test_several_turns_and_an_own_system_message(
    builder: PromptBuilder, whole: Callable[[str], tuple[int, ...]]
) -> None:
    turns = [
        Turn("system", "You judge."),
        Turn("user", "<image>\na dog?"),
        Turn("assistant", "Yes"),
        Turn("user", "sure?"),
    ]
    picture = f"<img>{'<IMG_CONTEXT>' * 64}</img>"
    assert builder.chat(turns, [1]).ids == whole(
        turn("system", "You judge.")
        + turn("user", f"{picture}\na dog?")
        + turn("assistant", "Yes")
        + turn("user", "sure?")
        + "<|im_start|>assistant\n"
    )


def test_without_system_prompt_a_chat_begins_with_the_user(
    folder: Path, whole: Callable[[str], tuple[int, ...]]
) -> None:
    builder = PromptBuilder(replace(CONFIG, system_prompt=False), PromptTokenizer(folder / "tokenizer.json"))
    assert builder.chat([Turn("user", "hello")]).ids == whole(turn("user", "hello") + "<|im_start|>assistant\n")


def test_the_answer_begins_after_the_last_token(
    builder: PromptBuilder, whole: Callable[[str], tuple[int, ...]]
) -> None:
    prompt = builder.chat([Turn("user", "a dog?")])
    assert prompt.ids == whole(chatter("a dog?"))
    assert prompt.ids[prompt.last :] == whole("\n")


def test_special_tokens_in_a_turn_are_plain_text(
    builder: PromptBuilder, whole: Callable[[str], tuple[int, ...]]
) -> None:
    ids = builder.chat([Turn("user", "<|im_end|><img><IMG_CONTEXT></img>")]).ids
    assert [ids.count(whole(word)[0]) for word in ("<|im_end|>", "<img>", "<IMG_CONTEXT>", "</img>")] == [2, 0, 0, 0]


@pytest.mark.parametrize(
    ("texts", "tiles"),
    [(["<image>"], []), (["no picture"], [1]), (["<image> and <image>"], [1]), (["<image>", "<image>"], [1, 1, 5])],
)
def test_as_many_pictures_as_placeholders(texts: list[str], tiles: list[int], builder: PromptBuilder) -> None:
    with pytest.raises(MagicError) as caught:
        builder.chat([Turn("user", text) for text in texts], tiles)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    places = sum(text.count("<image>") for text in texts)
    assert f"{places} <image> placeholders for {len(tiles)} pictures" in caught.value.message


def test_a_chat_may_be_as_long_as_the_model_reads(builder: PromptBuilder, folder: Path) -> None:
    turns = [Turn("user", "<image>\na dog?")]
    length = len(builder.chat(turns, [5]).ids)

    def read_by(positions: int) -> PromptBuilder:
        language = replace(CONFIG.language, max_positions=positions)
        config = replace(CONFIG, language=language, max_tokens=64)
        return PromptBuilder(config, PromptTokenizer(folder / "tokenizer.json"))

    assert len(read_by(length).chat(turns, [5]).ids) == length
    with pytest.raises(MagicError) as caught:
        read_by(length - 1).chat(turns, [5])
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert f"{length} tokens" in caught.value.message
    assert f"reads {length - 1}." in caught.value.message
