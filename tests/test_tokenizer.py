"""Text to ids: what is refused, what is cut, and what a user's text cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from magicmm.errors import ErrorCode, MagicError
from magicmm.tokenizer import MAX_CHARACTERS, Tokenizer, check_text, fit_tokens
from tiny_bundles import tokenizer_json
from tools.text_cases import BLANK, NANO


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(tokenizer_json(), encoding="utf-8")
    return Tokenizer(path)


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return Tokenizer(NANO)


def code_of(text: object) -> ErrorCode:
    with pytest.raises(MagicError) as caught:
        check_text(text)
    assert caught.value.remedy
    return caught.value.code


@pytest.mark.parametrize(
    "text", [None, 7, b"bytes", ["a"], *(text for name, text in BLANK.items() if "token" not in name)]
)
def test_no_text_and_blank_text_are_refused(text: object) -> None:
    assert code_of(text) is ErrorCode.TEXT_INVALID


def test_lone_surrogates_are_refused() -> None:
    assert code_of("a\ud800b") is ErrorCode.TEXT_INVALID
    assert code_of("\udcff") is ErrorCode.TEXT_INVALID


def test_a_whole_book_is_refused_by_its_number_of_characters() -> None:
    assert check_text("\U0001f600" * MAX_CHARACTERS)
    assert code_of("x" * (MAX_CHARACTERS + 1)) is ErrorCode.TEXT_INVALID


def test_text_comes_back_as_it_is() -> None:
    assert check_text("  A cat\n") == "  A cat\n"


def test_words_become_their_ids_without_special_tokens_around(tiny: Tokenizer) -> None:
    assert tiny.encode("A RED dog") == [10, 4, 13]


def test_composed_and_decomposed_accents_are_the_same(nano: Tokenizer) -> None:
    assert nano.encode("caf\u00e9") == nano.encode("cafe\u0301") == nano.encode("cafe")


@pytest.mark.parametrize("text", ["[CLS]", "[SEP]", "[PAD]", "a[SEP]b", "[UNK] [MASK]"])
def test_special_tokens_in_a_text_are_plain_words(text: str, nano: Tokenizer) -> None:
    assert not {0, 101, 102, 103} & set(nano.encode(text))
    assert len(nano.encode(text)) >= 3


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path, nano: Tokenizer) -> None:
    import json

    content = json.loads(NANO.read_text(encoding="utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 128},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    text = "one two three four five six seven"
    assert Tokenizer(path).encode(text) == nano.encode(text)
    assert len(nano.encode(text)) == 7


@pytest.mark.parametrize("content", [b"", b"{}", b"not JSON", b"\xff\xfe", b'{"model": 7}'])
def test_a_file_that_is_no_tokenizer_names_itself(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(MagicError, match=r"broken\.json") as caught:
        Tokenizer(path)
    assert caught.value.code is ErrorCode.BUNDLE_INVALID


def test_a_missing_file_is_an_invalid_bundle(tmp_path: Path) -> None:
    with pytest.raises(MagicError) as caught:
        Tokenizer(tmp_path / "none.json")
    assert caught.value.code is ErrorCode.BUNDLE_INVALID


def test_fitting_ids() -> None:
    assert fit_tokens([1, 2, 3], 3, False) == [1, 2, 3]
    assert fit_tokens([1, 2, 3, 4], 3, True) == [1, 2, 3]
    with pytest.raises(MagicError, match="4 tokens") as caught:
        fit_tokens([1, 2, 3, 4], 3, False)
    assert caught.value.code is ErrorCode.TEXT_INVALID


def test_a_text_that_leaves_no_token_is_refused(nano: Tokenizer) -> None:
    assert nano.encode("\u200b\u00ad") == []
    with pytest.raises(MagicError) as caught:
        fit_tokens([], 5, True)
    assert caught.value.code is ErrorCode.TEXT_INVALID


@pytest.mark.parametrize("most", [0, -1, -30])
@pytest.mark.parametrize("truncate", [True, False])
def test_a_role_without_room_is_the_bundles_fault(most: int, truncate: bool) -> None:
    with pytest.raises(MagicError) as caught:
        fit_tokens([1, 2], most, truncate)
    assert caught.value.code is ErrorCode.BUNDLE_INVALID
