"""`Embedder`: unit vectors from anything, the same whatever the company, or a clear error; never NaN."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from magicmm import Bundle, Embedder, ErrorCode, MagicError, PhotoSkipped, SkipReason, reading
from test_encoders import changed
from tiny_bundles import COLOURS, DIM, image_graph

PHOTOS = [np.random.default_rng(n).integers(0, 256, (20 + n, 45 - n, 3), dtype=np.uint8) for n in range(7)]


@pytest.fixture(scope="module")
def embedder(bundle_path: Path) -> Embedder:
    return Embedder.open(bundle_path, threads=1)


def error_of(action: Callable[[], object]) -> MagicError:
    with pytest.raises(MagicError) as caught:
        action()
    assert caught.value.remedy
    return caught.value


def reason_of(action: Callable[[], object]) -> SkipReason:
    with pytest.raises(PhotoSkipped) as caught:
        action()
    return caught.value.reason


def test_vectors_are_unit_float32(embedder: Embedder) -> None:
    for vector in (
        embedder.embed_text("a red dog"),
        embedder.embed_image(PHOTOS[0]),
        embedder.embed_query("red", PHOTOS[0]),
    ):
        assert vector.shape == (embedder.dim,) == (DIM,)
        assert vector.dtype == np.float32
        assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1, abs=1e-6)


def test_a_photo_in_a_batch_equals_the_photo_alone(embedder: Embedder) -> None:
    together = embedder.embed_images(PHOTOS)
    assert together.shape == (7, DIM)
    # The runtime's kernels may round the last bit of a batch another way where a graph runs on all of it.
    most = 0.0 if embedder.bundle.manifest.architecture == "dual_encoder" else 1e-6
    for row, photo in enumerate(PHOTOS):
        assert np.abs(embedder.embed_image(photo) - together[row]).max() <= most
    assert np.abs(embedder.embed_images(PHOTOS[::-1])[::-1] - together).max() <= most


def test_no_photos_give_no_rows(embedder: Embedder) -> None:
    assert embedder.embed_images([]).shape == (0, DIM)


def test_every_form_of_a_photo_gives_the_same_vector(
    embedder: Embedder, encoded: Callable[..., bytes], tmp_path: Path
) -> None:
    data = encoded(PHOTOS[0])
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    expected = embedder.embed_image(PHOTOS[0])
    forms: list[object] = [path, str(path), data, bytearray(data), memoryview(data), Image.fromarray(PHOTOS[0])]
    for form in forms:
        assert np.array_equal(embedder.embed_image(form), expected)


def test_prepared_pixels_give_the_same_vector(embedder: Embedder) -> None:
    pixels = [embedder.prepare(photo) for photo in PHOTOS]
    assert np.array_equal(embedder.embed_pixels(pixels), embedder.embed_images(PHOTOS))


def test_a_colour_is_closest_to_its_word(embedder: Embedder) -> None:
    photos = embedder.embed_images([np.full((20, 30, 3), colour, np.uint8) for colour in COLOURS.values()])
    for row, name in enumerate(COLOURS):
        assert int(np.argmax(photos @ embedder.embed_text(name))) == row


def test_a_query_is_text_photo_or_both(embedder: Embedder) -> None:
    text, image = embedder.embed_text("red"), embedder.embed_image(PHOTOS[0])
    both = embedder.embed_query("red", PHOTOS[0])
    assert np.array_equal(embedder.embed_query("red"), text)
    assert np.array_equal(embedder.embed_query(image=PHOTOS[0]), image)
    assert text @ image < both @ text < 0.9999
    assert text @ image < both @ image < 0.9999


def test_a_query_of_nothing(embedder: Embedder) -> None:
    assert error_of(lambda: embedder.embed_query()).code is ErrorCode.ARGUMENT_INVALID


@pytest.mark.parametrize("text", ["", "  ", None, 5, "a\ud800", "red " * 40])
def test_texts_that_cannot_be_embedded(embedder: Embedder, text: Any) -> None:
    assert error_of(lambda: embedder.embed_text(text)).code is ErrorCode.TEXT_INVALID


def test_a_long_text_is_cut_when_asked(embedder: Embedder) -> None:
    long = "red " * 20 + "blue " * 40
    assert np.isfinite(embedder.embed_text(long, truncate=True)).all()
    assert np.isfinite(embedder.embed_query(long, PHOTOS[0], truncate=True)).all()


def test_roles_are_those_of_the_bundle(embedder: Embedder) -> None:
    for action in (
        lambda: embedder.embed_text("red", role="nobody"),
        lambda: embedder.embed_image(PHOTOS[0], role="nobody"),
        lambda: embedder.prepare(PHOTOS[0], "nobody"),
        lambda: embedder.token_ids("red", "nobody"),
    ):
        error = error_of(action)
        assert error.code is ErrorCode.ARGUMENT_INVALID
        assert "photo, query" in error.remedy.replace("composed, document, ", "")


@pytest.mark.parametrize("threads", [-1, -100])
def test_negative_threads(dual_path: Path, threads: int) -> None:
    assert error_of(lambda: Embedder.open(dual_path, threads)).code is ErrorCode.ARGUMENT_INVALID


@pytest.mark.parametrize("threads", [0, 1, 2, 3])
def test_threads_change_no_vector(bundle_path: Path, embedder: Embedder, threads: int) -> None:
    other = Embedder.open(bundle_path, threads)
    assert np.array_equal(other.embed_images(PHOTOS), embedder.embed_images(PHOTOS))
    assert np.array_equal(other.embed_text("a red dog"), embedder.embed_text("a red dog"))


def test_a_runtime_that_is_not_there(dual_path: Path) -> None:
    other = Embedder.open(dual_path, runtime="tensorrt")
    assert error_of(lambda: other.embed_text("red")).code is ErrorCode.RUNTIME_FAILED


def test_opening_a_path_or_a_bundle_is_the_same(dual_path: Path) -> None:
    bundle = Bundle.load(dual_path)
    assert Embedder.open(bundle).fingerprint == Embedder.open(str(dual_path)).fingerprint == bundle.fingerprint


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_vector_without_direction_never_leaves(dual_path: Path, tmp_path: Path, value: float) -> None:
    """The graph's constants turn every photo into NaN, infinity or zero."""
    import onnx

    graph = onnx.load_from_string(image_graph(2))
    for tensor in graph.graph.initializer:
        if tensor.name in ("lift", "bias"):
            filled = np.full(tuple(tensor.dims), value, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(filled, tensor.name))
    broken = Embedder.open(changed(dual_path, tmp_path / "nan", files={"image.onnx": graph.SerializeToString()}))
    assert error_of(lambda: broken.embed_image(PHOTOS[0])).code is ErrorCode.RUNTIME_FAILED
    assert error_of(lambda: broken.embed_query("red", PHOTOS[0])).code is ErrorCode.RUNTIME_FAILED
    assert error_of(lambda: broken.embed_images(PHOTOS)).code is ErrorCode.RUNTIME_FAILED
    assert np.isfinite(broken.embed_text("red")).all()


def test_release_and_use_again(bundle_path: Path) -> None:
    other = Embedder.open(bundle_path, threads=1)
    before = other.embed_query("red", PHOTOS[0])
    other.release()
    other.release()
    assert np.array_equal(other.embed_query("red", PHOTOS[0]), before)


def test_many_threads_share_one_embedder(bundle_path: Path) -> None:
    other = Embedder.open(bundle_path, threads=1)
    expected = [other.embed_image(photo) for photo in PHOTOS]
    other.release()
    found: list[bool] = []

    def work(number: int) -> None:
        for photo, vector in list(zip(PHOTOS, expected, strict=True))[number % 7 :]:
            found.append(np.array_equal(other.embed_image(photo), vector))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 7 + 6 + 5 + 4 + 3 + 2 + 1 + 7
    assert all(found)


def test_photos_are_decoded_at_twice_what_the_model_sees(embedder: Embedder) -> None:
    assert embedder.decode_side() == 32


# -- files ---------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_read(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    expected = {
        "none.jpg": SkipReason.VANISHED,
        "link.jpg": SkipReason.BROKEN_LINK,
        "": SkipReason.READ_FAILED,
        "empty.jpg": SkipReason.EMPTY_FILE,
        "text.jpg": SkipReason.NOT_AN_IMAGE,
        "a\0b.jpg": SkipReason.READ_FAILED,
    }
    for name, reason in expected.items():
        assert reason_of(lambda name=name: embedder.embed_image(tmp_path / name)) is reason, name


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied"), SkipReason.PERMISSION_DENIED),
        (OSError(5, "Input/output error"), SkipReason.READ_FAILED),
    ],
)
def test_a_file_that_the_system_will_not_read(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: OSError, reason: SkipReason
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    (tmp_path / "a.jpg").write_bytes(b"data")
    monkeypatch.setattr(Path, "open", refuse)
    assert reason_of(lambda: embedder.embed_image(tmp_path / "a.jpg")) is reason


def test_a_file_larger_than_any_photo(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch, encoded: Callable[..., bytes], tmp_path: Path
) -> None:
    data = encoded(PHOTOS[0])
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr(reading, "MAX_PHOTO_BYTES", len(data))
    assert embedder.embed_image(tmp_path / "a.png").shape == (DIM,)
    monkeypatch.setattr(reading, "MAX_PHOTO_BYTES", len(data) - 1)
    assert reason_of(lambda: embedder.embed_image(tmp_path / "a.png")) is SkipReason.FILE_TOO_LARGE


def test_a_format_under_the_name_of_another_is_read_by_its_content(
    embedder: Embedder, encoded: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(encoded(PHOTOS[0], "PNG"))
    assert np.array_equal(embedder.embed_image(tmp_path / "photo.jpg"), embedder.embed_image(PHOTOS[0]))


def test_one_bad_photo_names_its_reason_and_spoils_no_later_call(embedder: Embedder) -> None:
    assert reason_of(lambda: embedder.embed_images([PHOTOS[0], b"", PHOTOS[1]])) is SkipReason.EMPTY_FILE
    assert embedder.embed_images(PHOTOS[:2]).shape == (2, DIM)


def test_many_photos_run_in_chunks_and_come_out_in_order(dual_path: Path) -> None:
    embedder = Embedder.open(dual_path, threads=1)
    photos = [np.full((6, 5, 3), value, np.uint8) for value in range(0, 250, 6)]
    together = embedder.embed_images(photos)
    assert np.array_equal(together, np.stack([embedder.embed_image(photo) for photo in photos]))
    assert embedder.embed_images([]).shape == (0, embedder.dim)
