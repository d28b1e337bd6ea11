"""The built-in model in torch against onnxruntime: its int8 graphs, and the same weights as float32 graphs."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from graph_runs import cosine
from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm_export.decomposition import Norms
from magicmm_export.nano.efficientnet import Conv, Network
from magicmm_export.nano.image import image_graph
from magicmm_export.nano.layers import float_layers
from magicmm_export.nano.lowered import text_buckets
from magicmm_export.nano.minilm import text_graph
from magicmm_export.nano.modules import ImageTower, TextTower
from magicmm_export.nano.reader import read_image, read_text
from magicmm_export.nano.run import open_model
from magicmm_export.nano.stored import StoredImage, StoredLinear, StoredNorm, StoredText
from magicmm_export.scenes import sample_scene

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "page.png", "horse.png")
TEXTS = ("a dog", "two people walking along the beach at sunset", "Café in Zürich, naïve façade", "photo " * 60)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.default()


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


@torch.inference_mode()
def photo_vectors(tower: ImageTower, pixels: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return torch.cat([tower.eval()(torch.from_numpy(views.copy())) for views in pixels]).numpy()


@torch.inference_mode()
def text_vector(tower: TextTower, ids: list[int], length: int, fill: int = 0) -> NDArray[np.float32]:
    given, mask = torch.full((1, length), fill), torch.zeros(1, length, dtype=torch.int64)
    given[0, : len(ids)], mask[0, : len(ids)] = torch.tensor(ids), 1
    vector: Tensor = tower.eval().bucket(length)(given, mask)
    return vector.numpy()


def float_image_graph(stored: StoredImage) -> onnx.ModelProto:
    """Write what int8 has left of the weights with the builder's own float32 nodes."""
    convs = tuple(
        Conv(
            one.name,
            one.weight,
            one.bias,
            one.stride,
            (one.padding,) * 4,
            relu6=one.clips,
            residual=one.other,
        )
        for one in stored.convs
    )
    network = Network(convs, stored.classifier.weight, stored.classifier.bias)
    return image_graph(network, stored.bank.rows, None)


def float_text_graph(stored: StoredText, folder: Path) -> onnx.ModelProto:
    """The same for the text graph, whose builder reads a checkpoint."""
    tensors = {
        "embeddings.word_embeddings.weight": stored.words.rows,
        "embeddings.position_embeddings.weight": stored.positions,
        "embeddings.token_type_embeddings.weight": np.zeros((2, 384), np.float32),
    }

    def add_norm(name: str, norm: StoredNorm) -> None:
        tensors.update({f"{name}.weight": norm.gain, f"{name}.bias": norm.shift})

    def add_linear(name: str, linear: StoredLinear, parts: tuple[str, ...] = ("",)) -> None:
        weight = linear.weight if linear.balance is None else linear.weight * linear.balance
        pairs = zip(np.split(weight, len(parts)), np.split(linear.bias, len(parts)), strict=True)
        for part, (own, bias) in zip(parts, pairs, strict=True):
            tensors.update({f"{name}{part}.weight": np.ascontiguousarray(own), f"{name}{part}.bias": bias.copy()})

    add_norm("embeddings.LayerNorm", stored.norm)
    for place, layer in enumerate(stored.layers):
        name = f"encoder.layer.{place}"
        add_linear(f"{name}.attention.self", layer.attention, (".query", ".key", ".value"))
        add_linear(f"{name}.attention.output.dense", layer.mixed)
        add_norm(f"{name}.attention.output.LayerNorm", layer.attention_norm)
        add_linear(f"{name}.intermediate.dense", layer.inner)
        add_linear(f"{name}.output.dense", layer.outer)
        add_norm(f"{name}.output.LayerNorm", layer.norm)
    save_file(tensors, folder / "weights.safetensors")
    return text_graph(folder / "weights.safetensors", None)


@pytest.mark.parametrize("norms", list(Norms))
def test_photos_are_those_of_the_same_weights_in_a_float32_graph(
    image: StoredImage, pixels: list[NDArray[np.uint8]], norms: Norms
) -> None:
    session = open_model(float_image_graph(image))
    wanted = np.concatenate([session.run(["vector"], {"pixels": views})[0] for views in pixels[:3]])
    assert cosine(photo_vectors(ImageTower(image, float_layers(norms)), pixels[:3]), wanted) > 0.999999


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
    image: StoredImage, embedder: Embedder, pixels: list[NDArray[np.uint8]]
) -> None:
    """Rounded activations are all that is between them; the builder allows a mean of 0.99 for it (decision 0003)."""
    found = photo_vectors(ImageTower(image, float_layers(Norms.NATIVE)), pixels)
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


def test_photos_mirror_nothing_but_the_crop(image: StoredImage, pixels: list[NDArray[np.uint8]]) -> None:
    tower = ImageTower(image, float_layers(Norms.NATIVE))
    views = pixels[1]
    turned = np.stack([views[0, :, ::-1], views[1]])
    both, squashed = photo_vectors(tower, [views, turned]), views.copy()
    squashed[1] = views[1, :, ::-1]
    assert np.abs(both[0] - both[1]).max() < 1e-5, "the crop comes both ways"
    assert cosine(photo_vectors(tower, [squashed]), both[:1]) < 0.99999


@pytest.mark.parametrize("length", [0, 513])
def test_a_bucket_without_positions_is_refused(text: StoredText, length: int) -> None:
    with pytest.raises(MagicError, match=f"bucket of {length} tokens") as caught:
        TextTower(text, float_layers(Norms.NATIVE)).bucket(length)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


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
    model = float_image_graph(image)
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
