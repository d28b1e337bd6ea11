"""The built-in model as users get it: small, verified, and able to find the sample photos of scikit-image."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from magicmm import Bundle, Embedder, Gallery

SENTENCES = {
    "a cat": "chelsea.png",
    "a cup of coffee": "coffee.png",
    "a motorbike in a workshop": "motorcycle_left.png",
    "a rocket launch": "rocket.jpg",
    "a horse": "horse.png",
    "a printed page of text": "page.png",
}


@pytest.fixture(scope="module")
def nano() -> Embedder:
    return Embedder.open(threads=1)


@pytest.fixture(scope="module")
def samples() -> Path:
    spec = find_spec("skimage")
    assert spec is not None and spec.origin is not None, "the dev extra brings scikit-image"
    return Path(spec.origin).parent / "data"


def test_it_fits_in_a_wheel_and_verifies_here() -> None:
    bundle = Bundle.default()
    assert bundle.total_bytes <= 32_000_000
    report = bundle.verify(threads=1)
    assert report.passes
    assert {check.name for check in report.checks} >= {"sentence", "landscape", "portrait", "composed"}


def test_sentences_find_their_photos(nano: Embedder, samples: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in {
        *SENTENCES.values(),
        "astronaut.png",
        "brick.png",
        "coins.png",
        "grass.png",
        "moon.png",
        "hubble_deep_field.jpg",
    }:
        (photos / name).write_bytes((samples / name).read_bytes())
    gallery = Gallery.open(tmp_path / "index.db", nano, [photos])
    assert [event for event in gallery.sync() if event.skips] == []
    for sentence, name in SENTENCES.items():
        best = gallery.search(sentence, k=1).matches[0]
        assert best.uri.endswith(name), sentence


def test_a_photo_has_the_same_vector_alone_and_in_any_batch(nano: Embedder, samples: Path) -> None:
    paths = [samples / name for name in SENTENCES.values()]
    together = nano.embed_images(paths)
    for path, row in zip(paths, together, strict=True):
        assert np.array_equal(nano.embed_image(path), row)


def test_a_photo_turned_by_its_exif_has_the_vector_of_the_upright_one(nano: Embedder, samples: Path) -> None:
    upright = Image.open(samples / "chelsea.png").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held at a right angle
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    assert np.array_equal(nano.embed_image(file.getvalue()), nano.embed_image(upright))


def test_words_beside_a_photo_move_the_query_towards_them(nano: Embedder, samples: Path) -> None:
    cat, coffee = nano.embed_image(samples / "chelsea.png"), nano.embed_image(samples / "coffee.png")
    both = nano.embed_query("a cup of coffee", samples / "chelsea.png")
    assert both @ coffee > cat @ coffee + 0.1
    assert both @ cat > nano.embed_text("a cup of coffee") @ cat + 0.1


def test_case_and_white_space_do_not_matter(nano: Embedder) -> None:
    assert np.array_equal(nano.embed_text("A  Dog "), nano.embed_text("a dog"))
