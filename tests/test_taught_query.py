"""A query that names taught concepts is the sum that docs/FORMAT.md gives; searches with it stay exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gallery_fixtures import answers, brute_force, counting, make_photo, make_photos, synced, uris
from magicmm.errors import ErrorCode, MagicError
from magicmm.filters import Filter
from magicmm.gallery import Gallery
from magicmm.quantise import quantise
from magicmm.sources import folder_uri, path_uri


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    for number, colour in enumerate(("red", "green", "blue", "red", "green", "blue")):
        make_photo(tmp_path / "photos" / f"{colour}-{number}.png", number, colour)
    make_photos(tmp_path / "photos" / "noise", 5, first=100)
    with Gallery.open(tmp_path / "index.db", counting(), [tmp_path / "photos"]) as gallery:
        synced(gallery)
        yield gallery


def photo(gallery: Gallery, name: str) -> Path:
    return gallery.index_path.parent / "photos" / f"{name}.png"


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


def mean(gallery: Gallery, *names: str) -> Any:
    """The unit mean of photos as the index stores them."""
    vectors = gallery.embedder.embed_images([photo(gallery, name) for name in names])
    codes, scales = quantise(vectors)
    return unit((codes.astype(np.float64) * scales[:, None]).sum(axis=0))


def assert_is_search_by(gallery: Gallery, text: str, vector: Any, **options: Any) -> None:
    found = gallery.search(text, k=100, **options)
    assert answers(found) == brute_force(gallery.index_path, vector.astype(np.float32), 100)


def test_a_name_alone_is_the_mean_of_its_photos(gallery: Gallery) -> None:
    before = gallery.search("Momo", k=100)
    gallery.teach("Momo", [photo(gallery, "blue-2"), photo(gallery, "blue-5")])
    found = gallery.search("momo", k=2)
    assert set(uris(found)) == {path_uri(photo(gallery, "blue-2")), path_uri(photo(gallery, "blue-5"))}
    assert found.taught == ("Momo",)
    assert_is_search_by(gallery, "all photos of Momo", mean(gallery, "blue-2", "blue-5"))
    assert before.taught == ()
    assert gallery.search("Momo", k=100, taught=False) == before


def test_other_words_count_as_much_as_the_name(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "blue-2")])
    words = gallery.embedder.embed_text("red dog")
    assert_is_search_by(gallery, "Momo, red dog", unit(mean(gallery, "blue-2") + words))


def test_a_noun_counts_less_the_more_photos_there_are(gallery: Gallery) -> None:
    noun = gallery.embedder.embed_text("a dog")
    gallery.teach("Momo", [photo(gallery, "blue-2")], noun="a dog")
    assert_is_search_by(gallery, "Momo", unit(mean(gallery, "blue-2") + 0.6 * noun))
    gallery.teach("Momo", [photo(gallery, "blue-5")])
    assert_is_search_by(gallery, "Momo", unit(mean(gallery, "blue-2", "blue-5") + 0.3 * noun))


def test_two_names_are_looked_for_together(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "blue-2")])
    gallery.teach("Lulu", [photo(gallery, "red-0"), photo(gallery, "red-3")])
    both = unit(mean(gallery, "blue-2") + mean(gallery, "red-0", "red-3"))
    assert_is_search_by(gallery, "Lulu and Momo", both)
    assert gallery.search("Lulu and Momo").taught == ("Lulu", "Momo")
    assert_is_search_by(gallery, "Lulu and Momo: green", unit(both + gallery.embedder.embed_text("green")))


def test_a_photo_beside_a_name_is_joined_with_it(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "blue-2")])
    image = photo(gallery, "red-0")
    shown = gallery.embedder.embed_image(image)
    assert_is_search_by(gallery, "Momo", unit(mean(gallery, "blue-2") + shown), image=image)
    both = gallery.embedder.embed_query("green", image)
    assert_is_search_by(gallery, "Momo green", unit(mean(gallery, "blue-2") + both), image=image)
    assert gallery.search(image=image).taught == ()


def test_filters_and_min_score_hold_as_ever(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "blue-2")])
    noise = folder_uri(gallery.index_path.parent / "photos" / "noise")
    found = gallery.search("Momo", k=100, where=Filter(under=(noise,)))
    assert (len(found), found.searched, found.taught) == (5, 5, ("Momo",))
    sure = gallery.search("Momo", k=100, min_score=0.99)
    assert uris(sure)[0] == path_uri(photo(gallery, "blue-2"))
    assert 0 < len(sure) < 11
    assert all(0.99 <= match.score <= 1.0001 for match in sure.matches)


def test_a_text_that_names_nothing_gives_the_very_same_answer(gallery: Gallery) -> None:
    before = gallery.search("a red dog", k=100)
    gallery.teach("Momo", [photo(gallery, "blue-2")])
    assert gallery.search("a red dog", k=100) == before


def test_errors_of_the_other_words_are_those_of_any_text(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "blue-2")])
    with pytest.raises(MagicError) as caught:
        gallery.search("Momo " + "dog " * 10_000)
    assert caught.value.code is ErrorCode.TEXT_INVALID
    assert gallery.search("Momo " + "dog " * 10_000, truncate=True).taught == ("Momo",)


def test_photos_that_cancel_each_other_out_are_said_to(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "blue-2")])
    words = -mean(gallery, "blue-2").astype(np.float32)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(MagicError) as caught:
        patch.setattr(type(gallery.embedder), "embed_query", lambda *_: words)
        gallery.search("Momo red")
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
