"""The built-in model in torch against onnxruntime: its int8 graphs, and the same weights as float32 graphs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from graph_runs import cosine
from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm_export.decomposition import Norms
from magicmm_export.nano.encoder_modules import ComposedTower, TextTower
from magicmm_export.nano.image import image_graph
from magicmm_export.nano.layers import float_layers
from magicmm_export.nano.lowered import text_buckets
from magicmm_export.nano.modules import ImageTower
from magicmm_export.nano.reader import read_image, read_text
from magicmm_export.nano.run import open_model
from magicmm_export.nano.stored import StoredImage, StoredStudent, StoredText
from magicmm_export.nano.student import composed_graph
from magicmm_export.scenes import sample_scene
from nano_students import CONFIG, bank_of, float_text_graph, network_of, random_student, student_of

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "page.png", "horse.png")
TEXTS = ("a dog", "two people walking along the beach at sunset", "Café in Zürich, naïve façade", "photo " * 60)


@pytest.fixture(scope="module")
def bundle(student: Bundle) -> Bundle:
    return student


@pytest.fixture(scope="module")
def embedder(bundle: Bundle) -> Embedder:
    return Embedder.open(bundle, 1)


@pytest.fixture(scope="module")
def image(bundle: Bundle) -> StoredImage:
    return read_image(bundle)


@pytest.fixture(scope="module")
def text(bundle: Bundle) -> StoredText:
    return read_text(bundle)


@pytest.fixture(scope="module")
def pixels(embedder: Embedder) -> list[NDArray[np.uint8]]:
    """The scene of the golden cases and six photos of scikit-image, uint8 [2, 256, 256, 3] each."""
    spec = find_spec("skimage")
    assert spec is not None and spec.origin is not None, "the dev extra brings scikit-image"
    folder = Path(spec.origin).parent / "data"
    return [embedder.prepare(one) for one in (sample_scene(), *(folder / name for name in PHOTOS))]


@pytest.fixture(scope="module")
def trained(image: StoredImage) -> StoredStudent:
    assert image.student is not None
    return image.student


def image_tower(image: StoredImage, text: StoredText, norms: Norms = Norms.NATIVE) -> ImageTower:
    layers = float_layers(norms)
    return ImageTower(image, TextTower(text, layers), layers).eval()


@torch.inference_mode()
def photo_vectors(tower: ImageTower, pixels: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return torch.cat([tower.vector(torch.from_numpy(views.copy())) for views in pixels]).numpy()


@torch.inference_mode()
def composed_vector(
    encoder: ComposedTower, visual: NDArray[np.float32], ids: list[int], length: int, fill: int = 0
) -> NDArray[np.float32]:
    given, mask = filled(ids, length, fill)
    vector: Tensor = encoder.eval().bucket(length)(torch.from_numpy(visual), given, mask)
    return vector.numpy()


@torch.inference_mode()
def text_vector(tower: TextTower, ids: list[int], length: int, fill: int = 0) -> NDArray[np.float32]:
    given, mask = filled(ids, length, fill)
    vector: Tensor = tower.eval().bucket(length)(given, mask)
    return vector.numpy()


def filled(ids: list[int], length: int, fill: int) -> tuple[Tensor, Tensor]:
    given, mask = torch.full((1, length), fill), torch.zeros(1, length, dtype=torch.int64)
    given[0, : len(ids)], mask[0, : len(ids)] = torch.tensor(ids), 1
    return given, mask


@pytest.mark.parametrize("norms", list(Norms))
@torch.inference_mode()
def test_photos_are_those_of_the_same_weights_in_float32_graphs(
    image: StoredImage, text: StoredText, trained: StoredStudent, pixels: list[NDArray[np.uint8]], norms: Norms
) -> None:
    own = student_of(text, trained)
    session = open_model(image_graph(network_of(image), bank_of(image), None, own))
    composing = open_model(composed_graph(own))
    tower = image_tower(image, text, norms)
    encoder = ComposedTower(TextTower(text, float_layers(norms)), trained)
    for views, ids in zip(pixels[:3], ([101, 102, 102], [101, 102, *range(2000, 2009), 102], [101, 102]), strict=True):
        wanted, seen = session.run(["vector", "visual"], {"pixels": views})
        vector, visual = (one.numpy() for one in tower(torch.from_numpy(views.copy())))
        assert cosine(vector, wanted) > 0.999999
        np.testing.assert_allclose(visual, seen, atol=2e-5)
        row = np.array([ids])
        (both,) = composing.run(["vector"], {"visual": seen, "ids": row, "mask": np.ones_like(row)})
        assert cosine(composed_vector(encoder, visual, ids, 16, 7), both) > 0.999999


@pytest.mark.parametrize("norms", list(Norms))
def test_the_bank_alone_says_what_its_graph_says(
    image: StoredImage, text: StoredText, pixels: list[NDArray[np.uint8]], norms: Norms
) -> None:
    for power, kept in ((0.5, 10), (0.7, 50)):
        alone = replace(image, bank=replace(image.bank, power=power, kept=kept), student=None)
        session = open_model(image_graph(network_of(alone), bank_of(alone), None))
        (wanted,) = session.run(["vector"], {"pixels": pixels[0]})
        tower = image_tower(alone, text, norms)
        assert cosine(photo_vectors(tower, pixels[:1]), wanted) > 0.999999
        assert isinstance(tower(torch.from_numpy(pixels[0].copy())), Tensor), "it gives no visual tokens"


def test_the_reader_finds_what_the_builder_was_given(image: StoredImage, text: StoredText) -> None:
    given, trained = random_student(text), image.student
    assert trained is not None
    assert (image.bank.kept, image.bank.power) == (CONFIG.bank_kept, pytest.approx(CONFIG.bank_power))
    assert (trained.words.kept, trained.words.share) == (CONFIG.kept, pytest.approx(CONFIG.local_share))
    weights = trained.encoder_weight, trained.colours.weight, trained.both_weight
    assert weights == pytest.approx((CONFIG.encoder_weight, CONFIG.colour_weight, CONFIG.both_weight))
    assert (trained.views, trained.handed) == (3, 52)
    found = student_of(text, trained)
    np.testing.assert_allclose(found.colours, given.colours, atol=np.abs(given.colours).max() / 250)
    np.testing.assert_allclose(found.table, given.table, atol=np.abs(given.table).max() / 250)
    assert found.adapters.keys() == given.adapters.keys()
    for name, matrix in given.adapters.items():
        np.testing.assert_allclose(found.adapters[name], matrix, atol=np.abs(matrix).max() / 250, err_msg=name)


@pytest.mark.parametrize("norms", list(Norms))
def test_texts_are_those_of_the_same_weights_in_a_float32_graph(
    text: StoredText, embedder: Embedder, tmp_path: Path, norms: Norms
) -> None:
    session = open_model(float_text_graph(text, tmp_path))
    tower = TextTower(text, float_layers(norms))
    for words in TEXTS:
        ids = embedder.token_ids(words)
        row = np.array([ids])
        (wanted,) = session.run(["vector"], {"ids": row, "mask": np.ones_like(row)})
        assert cosine(text_vector(tower, ids, 64), wanted) > 0.999999


def test_photos_are_close_to_the_int8_graph(
    image: StoredImage, text: StoredText, embedder: Embedder, pixels: list[NDArray[np.uint8]]
) -> None:
    """Rounded activations are all that is between them; the builder allows a mean of 0.99 for it (decision 0003)."""
    found = photo_vectors(image_tower(image, text), pixels)
    cosines = np.einsum("nd,nd->n", found, embedder.embed_pixels(pixels))
    assert cosines.mean() > 0.99 and cosines.min() > 0.98


def test_texts_are_close_to_the_int8_graph(text: StoredText, embedder: Embedder) -> None:
    tower = TextTower(text, float_layers(Norms.NATIVE))
    for words in TEXTS:
        assert cosine(text_vector(tower, embedder.token_ids(words), 64), embedder.embed_text(words)[None]) > 0.999


def test_neither_the_bucket_nor_what_fills_it_changes_a_text(text: StoredText, embedder: Embedder) -> None:
    tower = TextTower(text, float_layers(Norms.NATIVE))
    ids = embedder.token_ids(TEXTS[1])
    alone = text_vector(tower, ids, len(ids))
    for length, fill in ((16, 0), (64, 7), (256, 30000)):
        assert np.abs(text_vector(tower, ids, length, fill) - alone).max() < 1e-6


def test_neither_the_bucket_nor_what_fills_it_changes_a_photo_with_text(
    text: StoredText, trained: StoredStudent
) -> None:
    encoder = ComposedTower(TextTower(text, float_layers(Norms.NATIVE)), trained)
    visual = np.random.default_rng(3).standard_normal((1, 52, 384), np.float32) / np.float32(20)
    ids = [101, 102, 2012, 2305, 102]
    alone = composed_vector(encoder, visual, ids, len(ids))
    for length, fill in ((16, 0), (256, 30000)):
        assert np.abs(composed_vector(encoder, visual, ids, length, fill) - alone).max() < 1e-6


def test_photos_mirror_nothing_but_the_crop(
    image: StoredImage, text: StoredText, pixels: list[NDArray[np.uint8]]
) -> None:
    tower = image_tower(image, text)
    views = pixels[1]
    turned = np.stack([views[0, :, ::-1], views[1]])
    both, squashed = photo_vectors(tower, [views, turned]), views.copy()
    squashed[1] = views[1, :, ::-1]
    # Not to the last digit: of a mirrored crop, every fourth column is another one, whose colours are looked at.
    assert cosine(both[:1], both[1:]) > 0.9999, "the crop comes both ways"
    assert cosine(photo_vectors(tower, [squashed]), both[:1]) < 0.99999


@pytest.mark.parametrize("length", [0, 513])
def test_a_bucket_without_positions_is_refused(text: StoredText, length: int) -> None:
    with pytest.raises(MagicError, match=f"bucket of {length} tokens") as caught:
        TextTower(text, float_layers(Norms.NATIVE)).bucket(length)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_a_composed_bucket_leaves_room_for_visual_tokens(text: StoredText, trained: StoredStudent) -> None:
    encoder = ComposedTower(TextTower(text, float_layers(Norms.NATIVE)), trained)
    encoder.bucket(512 - 17)
    with pytest.raises(MagicError, match="bucket of 496 tokens does not fit the model's 1 to 495"):
        encoder.bucket(496)


def test_buckets_end_with_the_longest_text(bundle: Bundle) -> None:
    assert text_buckets(bundle.manifest, None) == (16, 64, 256)
    assert text_buckets(bundle.manifest, (64, 8, 64)) == (8, 64)
    for wrong in ((), (2,), (16, 257)):
        with pytest.raises(MagicError, match="do not fit the model's 3 to 256"):
            text_buckets(bundle.manifest, wrong)


def test_other_bundles_are_refused(vlm_path: Path, dual_path: Path) -> None:
    for path, why in ((vlm_path, "its architecture is vision_language"), (dual_path, "its image graph is called")):
        with pytest.raises(MagicError, match=why) as caught:
            read_image(Bundle.load(path))
        assert caught.value.code is ErrorCode.ARGUMENT_INVALID and "magicmm_export.nano" in caught.value.remedy


def test_a_float32_bundle_of_the_builder_is_refused(bundle: Bundle, image: StoredImage, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / "nano.magicmm")
    model = image_graph(network_of(image), bank_of(image), None)
    del model.graph.initializer[:]
    (copy / "image.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(MagicError, match="it holds no constant bank") as caught:
        read_image(Bundle(copy, bundle.manifest))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_a_broken_graph_is_a_broken_bundle(bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / "nano.magicmm")
    (copy / "text.onnx.data").unlink()
    with pytest.raises(MagicError, match=r"text\.onnx") as caught:
        read_text(Bundle(copy, bundle.manifest))
    assert caught.value.code is ErrorCode.BUNDLE_INVALID
