"""The format "instructions": three ways of writing a conversation, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magicmm import ErrorCode, MagicError
from magicmm_model.templates import Turn
from magicmm_training.data.registry import open_conversations
from magicmm_training.entries import Conversation
from training_rows import picture, source, write_jsonl, write_parquet, write_picture

HUMAN = {"from": "human", "value": "<image>\nWhat is it?"}
GPT = {"from": "gpt", "value": "A dog."}
TURNS = (Turn("user", "<image>\nWhat is it?"), Turn("assistant", "A dog."))


def read(folder: Path, row: Any) -> Conversation:
    write_jsonl(folder / "train.jsonl", [row])
    samples = open_conversations(source("instructions", "train.jsonl"), folder)
    assert len(samples) == 1
    return samples[0]


def test_llava_rows(tmp_path: Path) -> None:
    file = write_picture(tmp_path / "coco" / "1.png", 0)
    sample = read(tmp_path, {"id": "x", "image": "coco/1.png", "conversations": [HUMAN, GPT]})
    assert sample == Conversation("x", "set", TURNS, (file,))
    two = {"images": ["coco/1.png", "coco/1.png"], "conversations": [{**HUMAN, "value": "<image><image> Same?"}, GPT]}
    assert read(tmp_path, two).images == (file, file)
    text = {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"}, GPT]}
    assert [turn.speaker for turn in read(tmp_path, text).turns] == ["system", "user", "assistant"]


def test_openai_rows(tmp_path: Path) -> None:
    file = write_picture(tmp_path / "1.png", 0)
    answer = {"role": "assistant", "content": "A dog."}
    plain = {"messages": [{"role": "user", "content": "<image>\nWhat is it?"}, answer], "images": ["1.png"]}
    assert read(tmp_path, plain) == Conversation("train.jsonl:1", "set", TURNS, (file,))
    for part in ({"type": "image", "image": "1.png"}, {"type": "image_url", "image_url": {"url": "1.png"}}):
        inside = [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}, answer]
        assert read(tmp_path, {"messages": inside}) == Conversation("train.jsonl:1", "set", TURNS, (file,))
    marked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}, answer]
    assert read(tmp_path, {"messages": marked, "images": ["1.png"]}).turns == TURNS


def test_json_lists_and_parquet(tmp_path: Path) -> None:
    file = write_picture(tmp_path / "1.png", 0)
    row = {"id": 3, "image": "1.png", "conversations": [HUMAN, GPT]}
    (tmp_path / "llava.json").write_text(json.dumps([row, row]))
    assert open_conversations(source("instructions", "llava.json"), tmp_path)[1] == Conversation(
        "3", "set", TURNS, (file,)
    )
    write_parquet(
        tmp_path / "p" / "train.parquet",
        [
            {
                "images": [{"bytes": picture(1), "path": None}],
                "messages": [
                    {"role": "user", "content": "<image>\nWhat is it?"},
                    {"role": "assistant", "content": "A dog."},
                ],
            }
        ],
    )
    sample = open_conversations(source("instructions", "p"), tmp_path)[0]
    assert (sample.turns, sample.images) == (TURNS, (picture(1),))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conversations": None}, "field 'messages': is missing"),
        ({"conversations": "hi"}, "is no list but str"),
        ({"conversations": ["hi"]}, "field 'conversations[0]': is no message but str"),
        ({"conversations": []}, "it goes nobody"),
        ({"conversations": [HUMAN]}, "it goes user"),
        ({"conversations": [GPT, HUMAN]}, "it goes assistant user"),
        ({"conversations": [HUMAN, GPT, GPT]}, "it goes user assistant assistant"),
        ({"conversations": [HUMAN, {**GPT, "from": "cat"}]}, "is said by str 'cat'; speakers are system, human"),
        ({"conversations": [HUMAN, {**GPT, "value": " "}]}, "has an empty answer"),
        ({"conversations": [HUMAN, {**GPT, "value": 5}]}, "field 'conversations[1]': is no text but int 5"),
        ({"conversations": [{**HUMAN, "value": "What?"}, GPT]}, "has 0 places of pictures (<image>), but there are 1"),
        ({"image": None}, "has 1 places of pictures (<image>), but there are 0"),
        ({"images": ["1.png"]}, "stands beside 'image'"),
        (
            {"conversations": [{**HUMAN, "value": [{"type": "video"}]}, GPT]},
            "holds a part that is neither text nor image",
        ),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_picture(tmp_path / "1.png", 0)
    with pytest.raises(MagicError) as caught:
        read(tmp_path, {"image": "1.png", "conversations": [HUMAN, GPT], **change})
    assert said in caught.value.message
    assert caught.value.message.startswith("train.jsonl, row 1")
    assert caught.value.code is ErrorCode.TEXT_INVALID


@pytest.mark.parametrize(
    ("image", "said"), [("2.png", "no picture str '2.png'"), ("../2.png", "no path"), ([""], "names no")]
)
def test_pictures_are_confined_and_must_be_there(tmp_path: Path, image: Any, said: str) -> None:
    with pytest.raises(MagicError, match=said) as caught:
        read(tmp_path, {"image": image, "conversations": [HUMAN, GPT]})
    assert caught.value.code is ErrorCode.IMAGE_INVALID


def test_an_address_in_the_net_is_never_followed(tmp_path: Path) -> None:
    content = [{"type": "image_url", "image_url": {"url": "https://example.org/1.png"}}]
    with pytest.raises(MagicError, match=r"there is no picture str 'https://example.org/1.png'"):
        read(tmp_path, {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A."}]})


def test_the_fingerprint_names_rows_and_limit(tmp_path: Path) -> None:
    rows = [{"conversations": [{"from": "human", "value": f"{place}"}, GPT]} for place in range(6)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    whole = open_conversations(source("instructions", "."), tmp_path)
    part = open_conversations(source("instructions", ".", limit=3), tmp_path, seed=1)
    assert (len(whole), len(part)) == (6, 3)
    assert whole.fingerprint != part.fingerprint
    assert part[0] == open_conversations(source("instructions", ".", limit=3), tmp_path, seed=1)[0]
