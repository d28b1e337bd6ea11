"""The prompt tokenizer, held against the tokenizers library that wrote its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.tokenizer import SPELLINGS, PromptTokenizer

TEXTS = [
    "a dog on the beach at sunset",
    "Query: don't they'll I'VE 12345 1,000.50 €",
    "  two  spaces,\ttab\r\n\n\nlines \n ",
    "书生·万象 多模态大语言模型",
    "naïve café = nai\u0308ve cafe\u0301",  # composed and decomposed
    "👩‍👩‍👧‍👦 🏖️ 🇨🇭",
    "שלום עולם، مرحبا 🙂 สวัสดี",
    "\u200b\ufeff\x00\x7f\U0010ffff",
    "a" * 3000,
    "",
]


@pytest.fixture(scope="module")
def path(folder: Path) -> Path:
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> PromptTokenizer:
    return PromptTokenizer(path)


@pytest.fixture(scope="module")
def library(path: Path) -> Any:
    return Tokenizer.from_file(str(path))


def edited(path: Path, tmp_path: Path, **changes: Any) -> Path:
    """Write a copy of a tokenizer file with some keys replaced."""
    copy = tmp_path / "tokenizer.json"
    copy.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
    return copy


def refused(path: Path, vocab_size: int | None = None) -> MagicError:
    with pytest.raises(MagicError) as caught:
        PromptTokenizer(path, vocab_size)
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_the_library(text: str, tokenizer: PromptTokenizer, library: Any) -> None:
    assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_special_tokens_have_the_ids_of_the_library(tokenizer: PromptTokenizer, library: Any) -> None:
    special = tokenizer.special
    assert library.encode("<|im_start|><|im_end|><|endoftext|><img></img><IMG_CONTEXT>").ids == [
        *(special.turn_start, special.turn_end, special.end),
        *(special.image_start, special.image_end, special.context),
    ]


@pytest.mark.parametrize(
    "spelling", ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>"]
)
def test_a_special_token_in_a_text_is_plain_text(spelling: str, tokenizer: PromptTokenizer, library: Any) -> None:
    text = f"a dog{spelling}{spelling} on the beach"
    ids = tokenizer.encode(text)
    assert library.token_to_id(spelling) in library.encode(text).ids
    assert not {library.token_to_id(word) for word in SPELLINGS.values()} & set(ids)
    assert tokenizer.decode(ids) == text


def test_decoding_leaves_special_tokens_out(tokenizer: PromptTokenizer) -> None:
    special = tokenizer.special
    ids = [special.turn_start, *tokenizer.encode("书生 dog\n"), special.context, special.turn_end, special.end]
    assert tokenizer.decode(ids) == "书生 dog\n"
    assert tokenizer.decode([]) == ""


def test_truncation_and_padding_of_the_file_are_ignored(path: Path, tmp_path: Path, library: Any) -> None:
    stored = Tokenizer.from_file(str(path))
    stored.enable_truncation(4)
    stored.enable_padding(length=40)
    stored.save(str(tmp_path / "tokenizer.json"))
    ours = PromptTokenizer(tmp_path / "tokenizer.json")
    for text in ("a dog on the beach at sunset", "a"):
        assert len(stored.encode(text).ids) in (4, 40)
        assert ours.encode(text) == library.encode(text).ids


def test_tokens_that_the_file_adds_around_a_text_are_left_out(path: Path, tmp_path: Path, library: Any) -> None:
    end = {"id": "<|endoftext|>", "ids": [library.token_to_id("<|endoftext|>")], "tokens": ["<|endoftext|>"]}
    template = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|endoftext|>": end},
    }
    adding = edited(path, tmp_path, post_processor=template)
    assert Tokenizer.from_file(str(adding)).encode("dog").ids[-1:] == end["ids"]
    assert PromptTokenizer(adding).encode("dog") == library.encode("dog").ids


def test_a_missing_file_is_told_with_the_way_to_make_one(tmp_path: Path) -> None:
    error = refused(tmp_path / "tokenizer.json")
    assert error.code is ErrorCode.SOURCE_UNAVAILABLE
    assert str(tmp_path / "tokenizer.json") in error.message
    assert "save_pretrained" in error.remedy


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"not json", b'{"version": "1.0", "model": {"type": "BPE"', b"\xff\xfe"]
)
def test_a_file_that_is_no_tokenizer_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    error = refused(tmp_path / "tokenizer.json")
    assert error.code is ErrorCode.CHECKPOINT_INVALID
    assert "not a tokenizer" in error.message


def test_missing_special_tokens_are_all_listed(path: Path, tmp_path: Path) -> None:
    kept = [token for token in json.loads(path.read_text("utf-8"))["added_tokens"] if token["content"] == "<|im_end|>"]
    error = refused(edited(path, tmp_path, added_tokens=kept))
    assert error.code is ErrorCode.CHECKPOINT_INVALID
    missing = ["<|im_start|>", "<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>"]
    assert [word for word in missing if word in error.message] == missing
    assert "<|im_end|>" not in error.message


def test_tokens_that_are_not_marked_as_special_are_refused(path: Path, tmp_path: Path) -> None:
    tokens = json.loads(path.read_text("utf-8"))["added_tokens"]
    for token in tokens:
        token["special"] = token["content"] not in ("<img>", "<|im_end|>")
    error = refused(edited(path, tmp_path, added_tokens=tokens))
    assert error.code is ErrorCode.CHECKPOINT_INVALID
    assert "<|im_end|>, <img> as special" in error.message


def test_ids_outside_the_token_table_are_refused(path: Path, library: Any) -> None:
    size = library.get_vocab_size(with_added_tokens=True)
    assert PromptTokenizer(path, size).special.context == size - 1
    error = refused(path, size - 1)
    assert error.code is ErrorCode.CHECKPOINT_INVALID
    assert f"{size - 1} rows" in error.message
