"""Both architectures: what is loaded when, what the graphs are given, and that company changes no vector."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from magicmm import Bundle, ErrorCode, MagicError
from magicmm.encoders import DualEncoder, VisionLanguageEncoder, make_encoder
from magicmm.image import render_tiles, render_views
from tiny_bundles import (
    DIM,
    SIDE,
    composed_graph,
    image_graph,
    language_graph,
    seeing_graph,
    sha256,
    sharing_bundle,
    text_graph,
    vision_graph,
    word_vectors,
)

PHOTO = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
Edit = Callable[[dict[str, Any]], None]


def changed(path: Path, to: Path, edit: Edit | None = None, files: dict[str, bytes] | None = None) -> Bundle:
    """Copy a bundle with another manifest and other files, and load it."""
    copy = Path(shutil.copytree(path, to))
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    for name, data in (files or {}).items():
        (copy / name).write_bytes(data)
        manifest["files"][name] = {"bytes": len(data), "sha256": sha256(data)}
    if edit is not None:
        edit(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Bundle.load(copy)


def dual(path: Path) -> DualEncoder:
    found = make_encoder(Bundle.load(path), 1, "onnx")
    assert isinstance(found, DualEncoder)
    return found


def vlm(path: Path | Bundle) -> VisionLanguageEncoder:
    found = make_encoder(path if isinstance(path, Bundle) else Bundle.load(path), 1, "onnx")
    assert isinstance(found, VisionLanguageEncoder)
    return found


def code_of(action: Callable[[], object]) -> ErrorCode:
    with pytest.raises(MagicError) as caught:
        action()
    return caught.value.code


# -- loading -------------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_before_it_is_needed(bundle_path: Path) -> None:
    encoder: Any = make_encoder(Bundle.load(bundle_path), 1, "onnx")
    encoder.prepare(PHOTO, encoder.manifest.roles["photo"])
    encoder.token_ids("red", encoder.manifest.roles["query"])
    assert encoder.loaded() == []


def test_a_text_never_loads_the_image_graph(dual_path: Path, vlm_path: Path) -> None:
    for encoder, loaded in ((dual(dual_path), ["text"]), (vlm(vlm_path), ["language"])):
        encoder.encode_text("red dog", encoder.manifest.roles["query"], False)
        assert encoder.loaded() == loaded


def test_a_photo_never_loads_the_text_graph_of_a_dual_encoder(dual_path: Path) -> None:
    encoder = dual(dual_path)
    role = encoder.manifest.roles["photo"]
    encoder.encode_images([encoder.prepare(PHOTO, role)], role)
    assert encoder.loaded() == ["image"]


def test_released_graphs_load_again_and_say_the_same(bundle_path: Path) -> None:
    encoder: Any = make_encoder(Bundle.load(bundle_path), 1, "onnx")
    role = encoder.manifest.roles["query"]
    before = encoder.encode_text("red", role, False)
    encoder.release()
    assert encoder.loaded() == []
    assert np.array_equal(encoder.encode_text("red", role, False), before)


# -- dual encoders -------------------------------------------------------------------------------------------------


def test_a_text_is_the_mean_of_its_words_in_the_tiny_graph(dual_path: Path) -> None:
    encoder = dual(dual_path)
    role = encoder.manifest.roles["query"]
    assert encoder.token_ids("Red dog", role) == [2, 4, 13, 3]
    expected = word_vectors()[[2, 4, 13, 3]].sum(axis=0)
    expected /= np.linalg.norm(expected)
    assert np.allclose(encoder.encode_text("Red dog", role, False)[0], expected, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_photo_and_text_are_a_weighted_sum(dual_path: Path, tmp_path: Path, weight: float) -> None:
    bundle = changed(dual_path, tmp_path / "copy", lambda manifest: manifest.update(composed={"text_weight": weight}))
    encoder = make_encoder(bundle, 1, "onnx")
    roles = bundle.manifest.roles
    pixels = encoder.prepare(PHOTO, roles["photo"])
    both = encoder.encode_composed("red", pixels, roles["photo"], False)
    text = encoder.encode_text("red", roles["query"], False)
    image = encoder.encode_images([pixels], roles["photo"])
    expected = weight * text + image
    assert np.allclose(both, expected / np.linalg.norm(expected), atol=1e-6)


def test_a_composed_graph_reads_photo_and_text_in_one_pass(composing_path: Path) -> None:
    encoder = dual(composing_path)
    role = encoder.manifest.roles["composed"]
    pixels = encoder.prepare(PHOTO, role)
    colours = pixels.astype(np.float64).mean(axis=(1, 2)) / 127.5 - 1
    words = [2, 15, 10, 6, 3]  # image_before, image_after, "a", "blue", tail; the head comes first
    expected = word_vectors()[[14, *words]].sum(axis=0)
    expected[:3] += 2 * colours.sum(axis=0)
    expected[3] += 2 * 2 * 0.2  # a constant of each visual token
    found = encoder.encode_composed("blue", pixels, role, False)[0]
    np.testing.assert_allclose(found, unit(expected), atol=1e-5)
    assert encoder.loaded() == ["composed", "image"]


@pytest.mark.parametrize("weight", [-0.5, 2.0])
def test_words_may_be_added_to_what_a_composed_graph_says(composing_path: Path, tmp_path: Path, weight: float) -> None:
    bundle = changed(
        composing_path, tmp_path / "copy", lambda manifest: manifest.update(composed={"text_weight": weight})
    )
    encoder, one_pass = make_encoder(bundle, 1, "onnx"), dual(composing_path)
    roles = bundle.manifest.roles
    pixels = encoder.prepare(PHOTO, roles["composed"])
    seen = one_pass.encode_composed("blue", pixels, roles["composed"], False)[0]
    expected = weight * one_pass.encode_text("blue", roles["query"], False)[0] + seen
    found = encoder.encode_composed("blue", pixels, roles["composed"], False)[0]
    np.testing.assert_allclose(found, unit(expected), atol=1e-5)


def test_graphs_may_read_the_weights_of_another(composing_path: Path, tmp_path: Path) -> None:
    one, other = dual(composing_path), dual(sharing_bundle(tmp_path / "sharing.magicmm"))
    role = one.manifest.roles["composed"]
    pixels = one.prepare(PHOTO, role)
    expected = one.encode_composed("blue", pixels, role, False)
    assert np.array_equal(other.encode_composed("blue", pixels, role, False), expected)


def test_a_photo_of_a_bundle_that_composes_is_the_vector_alone(composing_path: Path, dual_path: Path) -> None:
    one, other = dual(composing_path), dual(dual_path)
    role = one.manifest.roles["photo"]
    pixels = [one.prepare(PHOTO, role), one.prepare(PHOTO[::-1], role)]
    assert np.array_equal(one.encode_images(pixels, role), other.encode_images(pixels, role))
    assert one.loaded() == ["image"]


def test_visual_tokens_do_not_count_in_a_composed_graph(composing_path: Path) -> None:
    encoder = dual(composing_path)
    role = encoder.manifest.roles["composed"]
    pixels = encoder.prepare(PHOTO, role)
    longest = " ".join(["red"] * (32 - 4 - 1))  # 4 constant ids and the "a" of the text line
    expected = encoder.encode_composed(longest, pixels, role, False)
    assert code_of(lambda: encoder.encode_composed(longest + " red", pixels, role, False)) is ErrorCode.TEXT_INVALID
    assert np.array_equal(encoder.encode_composed(longest + " red", pixels, role, True), expected)


def test_views_of_a_dual_encoder(dual_path: Path) -> None:
    encoder = dual(dual_path)
    pixels = encoder.prepare(PHOTO, encoder.manifest.roles["photo"])
    assert np.array_equal(pixels, render_views(PHOTO, encoder.manifest.image))
    assert pixels.shape == (2, SIDE, SIDE, 3)


# -- vision-language -----------------------------------------------------------------------------------------------


def table_rows(bundle: Bundle, ids: list[int]) -> np.ndarray:
    """Read rows of tokens.bin as docs/FORMAT.md says, without the SDK."""
    data = bundle.file("tokens.bin").read_bytes()
    rows, dim = len(word_vectors()), DIM
    scales_at = -(-rows * dim // 64) * 64
    assert len(data) == scales_at + 4 * rows
    codes = np.frombuffer(data, np.int8, rows * dim).reshape(rows, dim)
    scales = np.frombuffer(data, "<f4", rows, scales_at)
    return codes[ids].astype(np.float32) * scales[ids, None]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_the_prefix_stands_for_the_head_of_the_prompt(vlm_path: Path, tmp_path: Path) -> None:
    with_prefix = vlm(vlm_path)

    def move_prefix(manifest: dict[str, Any]) -> None:
        """Leave the file to another role: it still shows the graph's shapes."""
        roles = manifest["roles"]
        roles["other"] = dict(roles["query"])
        roles["query"]["prefix"] = None

    full = vlm(changed(vlm_path, tmp_path / "full", move_prefix))
    for text in ("red", "a photo of a green dog"):
        one = with_prefix.encode_text(text, with_prefix.manifest.roles["query"], False)
        other = full.encode_text(text, full.manifest.roles["query"], False)
        # The tiny graph divides by the live length: the direction, not the length, must agree.
        assert float(unit(one[0]) @ unit(other[0])) > 0.99999


def test_a_text_reads_its_rows_of_the_table(vlm_path: Path) -> None:
    encoder = vlm(vlm_path)
    role = encoder.manifest.roles["query"]
    ids = encoder.token_ids("red dog", role)
    assert ids == [2, 14, 15, 4, 13, 3]
    expected = unit(table_rows(Bundle.load(vlm_path), ids).sum(axis=0))
    assert np.allclose(encoder.encode_text("red dog", role, False)[0], expected, atol=1e-5)


def test_photo_and_text_stand_side_by_side_in_the_sequence(vlm_path: Path) -> None:
    encoder = vlm(vlm_path)
    bundle, role = Bundle.load(vlm_path), encoder.manifest.roles["composed"]
    pixels = encoder.prepare(PHOTO, role)
    visual = encoder._visual(pixels)
    assert visual.shape == (4, DIM)
    sequence = encoder._sequence(role, visual, [14, 15, 6])
    expected = [table_rows(bundle, [2, 10]), visual, table_rows(bundle, [11, 14, 15, 6, 3])]
    assert np.array_equal(sequence, np.concatenate(expected))
    total = unit(sequence.sum(axis=0))
    assert np.allclose(encoder.encode_composed("blue", pixels, role, False)[0], total, atol=1e-5)


def test_a_document_is_cut_into_tiles(vlm_path: Path) -> None:
    encoder = vlm(vlm_path)
    document = encoder.manifest.roles["document"]
    sheet = np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    tiles = encoder.prepare(sheet, document)
    assert np.array_equal(tiles, render_tiles(sheet, SIDE, 4))
    assert len(tiles) == 5
    assert encoder.prepare(sheet, encoder.manifest.roles["photo"]).shape == (1, SIDE, SIDE, 3)


def test_documents_of_different_lengths_go_together(vlm_path: Path) -> None:
    encoder = vlm(vlm_path)
    role = encoder.manifest.roles["document"]
    random = np.random.default_rng(5)
    sheets = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((10, 10), (200, 200), (30, 90), (9, 9))]
    tiles = [encoder.prepare(sheet, role) for sheet in sheets]
    assert sorted({len(stack) for stack in tiles}) == [1, 4, 5]
    together = encoder.encode_images(tiles, role)
    for row, stack in enumerate(tiles):
        assert np.allclose(encoder.encode_images([stack], role)[0], together[row], rtol=0, atol=1e-6)


def test_a_role_without_a_prefix_gives_the_graph_an_empty_one(vlm_path: Path) -> None:
    encoder = vlm(vlm_path)
    empty = encoder._prefix(encoder.manifest.roles["photo"])
    assert {name: values.shape for name, values in empty.items()} == {"prefix_k": (1, 1, 0, DIM)}


# -- broken bundles ------------------------------------------------------------------------------------------------


def test_image_graphs_of_another_shape(dual_path: Path, vlm_path: Path, tmp_path: Path) -> None:
    wrong = [
        changed(dual_path, tmp_path / "dim", files={"image.onnx": image_graph(2, DIM + 1)}),
        changed(dual_path, tmp_path / "views", files={"image.onnx": image_graph(1)}),
        changed(vlm_path, tmp_path / "vision", files={"vision.onnx": vision_graph(DIM + 1)}),
        changed(vlm_path, tmp_path / "flat", files={"vision.onnx": image_graph(1)}),
    ]
    for bundle in wrong:
        encoder = make_encoder(bundle, 1, "onnx")
        role = bundle.manifest.roles["photo"]
        pixels = encoder.prepare(PHOTO, role)
        assert code_of(lambda e=encoder, p=pixels, r=role: e.encode_images([p], r)) is ErrorCode.RUNTIME_FAILED


def test_graphs_that_do_not_compose(composing_path: Path, tmp_path: Path) -> None:
    wrong = [
        changed(composing_path, tmp_path / "blind", files={"image.onnx": image_graph(2)}),
        changed(composing_path, tmp_path / "dim", files={"image.onnx": seeing_graph(DIM + 1)}),
        changed(composing_path, tmp_path / "composed", files={"composed.onnx": composed_graph(DIM + 1)}),
        changed(composing_path, tmp_path / "text", files={"composed.onnx": text_graph()}),
    ]
    for bundle in wrong:
        encoder, role = make_encoder(bundle, 1, "onnx"), bundle.manifest.roles["composed"]
        pixels = encoder.prepare(PHOTO, role)
        action = lambda e=encoder, p=pixels, r=role: e.encode_composed("red", p, r, False)  # noqa: E731
        assert code_of(action) is ErrorCode.RUNTIME_FAILED


def test_text_graphs_of_another_shape(dual_path: Path, vlm_path: Path, tmp_path: Path) -> None:
    wrong = [
        changed(dual_path, tmp_path / "text", files={"text.onnx": text_graph(DIM + 1)}),
        changed(vlm_path, tmp_path / "language", files={"language.onnx": language_graph(DIM + 1)}),
    ]
    for bundle in wrong:
        encoder = make_encoder(bundle, 1, "onnx")
        role = bundle.manifest.roles["query"]
        assert code_of(lambda e=encoder, r=role: e.encode_text("red", r, False)) is ErrorCode.RUNTIME_FAILED


def test_an_id_beyond_the_token_table(vlm_path: Path, tmp_path: Path) -> None:
    bundle = changed(vlm_path, tmp_path / "id", lambda manifest: manifest["roles"]["query"].update(tail=[17]))
    encoder = vlm(bundle)
    with pytest.raises(MagicError, match="Token id 17 lies outside the table of 17 rows") as caught:
        encoder.encode_text("red", bundle.manifest.roles["query"], False)
    assert caught.value.code is ErrorCode.BUNDLE_INVALID


def test_a_prefix_file_that_is_none(vlm_path: Path, tmp_path: Path) -> None:
    name = "prefix/query.safetensors"
    bundle = changed(vlm_path, tmp_path / "noise", files={name: b"\xff" * 40})
    action = lambda: vlm(bundle).encode_text("red", bundle.manifest.roles["query"], False)  # noqa: E731
    assert code_of(action) is ErrorCode.BUNDLE_INVALID


def test_a_prefix_whose_names_the_graph_does_not_know(vlm_path: Path, tmp_path: Path) -> None:
    name = "prefix/query.safetensors"
    save_file({"unknown": np.zeros((1, 1, 1, DIM), np.float32)}, tmp_path / "other")
    bundle = changed(vlm_path, tmp_path / "names", files={name: (tmp_path / "other").read_bytes()})
    action = lambda: vlm(bundle).encode_text("red", bundle.manifest.roles["query"], False)  # noqa: E731
    assert code_of(action) is ErrorCode.RUNTIME_FAILED


# -- length of texts -----------------------------------------------------------------------------------------------


def test_the_ids_of_the_role_count_towards_the_longest_text(dual_path: Path) -> None:
    encoder = dual(dual_path)
    role = encoder.manifest.roles["query"]
    longest = " ".join(["red"] * 30)
    assert len(encoder.token_ids(longest, role)) == 32
    assert code_of(lambda: encoder.encode_text(longest + " red", role, False)) is ErrorCode.TEXT_INVALID
    cut = encoder.encode_text(longest + " red dog", role, True)
    assert np.array_equal(cut, encoder.encode_text(longest, role, False))


def test_the_visual_tokens_count_too(vlm_path: Path) -> None:
    encoder = vlm(vlm_path)
    role = encoder.manifest.roles["composed"]
    pixels = encoder.prepare(PHOTO, role)
    longest = " ".join(["red"] * (32 - 4 - 4 - 2))  # 4 visual tokens, 4 constant ids, "query" and ":"
    assert encoder.encode_composed(longest, pixels, role, False).shape == (1, DIM)
    too_long = longest + " red"
    assert code_of(lambda: encoder.encode_composed(too_long, pixels, role, False)) is ErrorCode.TEXT_INVALID


def test_a_role_longer_than_the_longest_sequence(dual_path: Path, tmp_path: Path) -> None:
    bundle = changed(dual_path, tmp_path / "long", lambda m: m["roles"]["query"].update(head=[2] * 40))
    for truncate in (False, True):
        encoder = make_encoder(bundle, 1, "onnx")
        action = lambda e=encoder, t=truncate: e.encode_text("red", bundle.manifest.roles["query"], t)  # noqa: E731
        assert code_of(action) is ErrorCode.BUNDLE_INVALID


def test_a_text_cannot_end_its_own_prompt(bundle_path: Path) -> None:
    encoder: Any = make_encoder(Bundle.load(bundle_path), 1, "onnx")
    ids = encoder.token_ids("red [SEP] {text} [PAD]", encoder.manifest.roles["query"])
    assert ids.count(3) == 1
    assert ids[-1] == 3
    assert 0 not in ids
