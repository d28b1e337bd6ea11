"""Names in texts: folded, as whole words, longest first; what is left of the text without them."""

from __future__ import annotations

import unicodedata

import pytest

from magicmm.concepts import MAX_NAME, key_of, may_be_name, split_names, tidy_name, words_of
from magicmm.errors import ErrorCode, MagicError

NAMES = ("Momo", "our dog", "our dog Rex", "Zoë", "São João", "Straße")
KEYS = {key_of(name): name for name in NAMES}


def split(text: str) -> tuple[list[str], str | None]:
    found, rest = split_names(text, KEYS)
    return [KEYS[key] for key in found], rest


@pytest.mark.parametrize(
    ("text", "names", "rest"),
    [
        ("Momo", ["Momo"], None),
        ("momo!", ["Momo"], None),
        ("show me all photos of MOMO", ["Momo"], None),
        ("a photo of Momo in the park", ["Momo"], "in the park"),
        ("Momo and Zoë at the beach", ["Momo", "Zoë"], "at the beach"),
        ("our dog on the beach", ["our dog"], "on the beach"),
        ("a boat beside our dog", ["our dog"], "a boat beside"),
        ("a boat, our-dog, the sea", ["our dog"], "a boat, the sea"),
        ("our dog Rex in the snow", ["our dog Rex"], "in the snow"),
        ("our dog rexes", ["our dog"], "rexes"),
        ("momo's ball", ["Momo"], "ball"),
        ("Momo\u2019s ball", ["Momo"], "ball"),
        ("Momo, in a park", ["Momo"], "in a park"),
        ("Zoe at sao joao", ["Zoë", "São João"], None),
        ("zoe and momo and zoe swimming", ["Zoë", "Momo"], "swimming"),
        ("STRASSE", ["Straße"], None),
        ("momos", [], "momos"),
        ("a dog", [], "a dog"),
        ("our big dog", [], "our big dog"),
        ("Momo 2019", ["Momo"], "2019"),
        ("", [], ""),
    ],
)
def test_names_and_the_rest_of_a_text(text: str, names: list[str], rest: str | None) -> None:
    assert split(text) == (names, rest)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_normal_forms_make_no_difference(form: str) -> None:
    text = unicodedata.normalize(form, "ZOË im Schnee")  # type: ignore[arg-type]
    assert split(text) == (["Zoë"], "im Schnee")


def test_a_text_that_names_nothing_is_left_exactly_as_it_is() -> None:
    text = "  two   spaces\tand a tab, "
    assert split(text) == ([], text)
    assert split_names(text, ()) == ([], text)


def test_words_know_their_places() -> None:
    text = "Our dóg's ball_2"
    assert [text[word.start : word.stop] for word in words_of(text)] == ["Our", "dóg", "s", "ball_2"]
    assert [word.folded for word in words_of(text)] == ["our", "dog", "s", "ball_2"]


def test_a_long_text_takes_no_longer_than_its_length() -> None:
    text = "momo our dog " * 15_000
    assert split(text) == (["Momo", "our dog"], None)


@pytest.mark.parametrize("name", ["", " ", "!?", "the", "photos of", "a/b", "a\\b", "x\x07y", "n" * (MAX_NAME + 1)])
def test_names_that_no_search_could_mean_are_refused(name: str) -> None:
    with pytest.raises(MagicError) as caught:
        tidy_name(name)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert caught.value.remedy


def test_a_name_is_kept_tidy() -> None:
    assert tidy_name("  our \n dog ") == "our dog"
    assert tidy_name("Zoe\u0308") == "Zoë"
    assert tidy_name("n" * MAX_NAME) == "n" * MAX_NAME


def test_paths_and_uris_are_no_names() -> None:
    assert [may_be_name(text) for text in ("Momo", "./Momo", "file:///p/", "C:\\Momo")] == [True, False, False, False]
