"""The multilingual text graph against transformers, and the bundle around it on the photos of the built-in one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from safetensors.numpy import load_file, save_file
from torch.nn import functional
from transformers import BertConfig, BertModel

from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm.verify import verify_bundle
from magicmm_export.nano import packages
from magicmm_export.nano.encoder import block_inputs
from magicmm_export.nano.multilingual.base import save_encoder, save_targets
from magicmm_export.nano.multilingual.bundle import (
    Taught,
    Texts,
    build_multilingual,
    load_taught,
    packed_rows,
    take_image,
)
from magicmm_export.nano.multilingual.e5_file import read_e5
from magicmm_export.nano.multilingual.graph import multilingual_graph
from magicmm_export.nano.multilingual.own_space import own_space, replace_bank
from magicmm_export.nano.multilingual.texts import Emoji
from magicmm_export.nano.reader import read_image, read_text
from magicmm_export.nano.run import TextEncoder, open_model
from magicmm_export.scenes import sample_scene
from nano_students import bank_graph, bank_of
from tiny_e5 import write_tiny_e5

TEXTS = ["a red photo", "ein rotes Foto", "赤写真", "a", "красное", "a red photo, ein rotes Foto, a red photo"]


@pytest.fixture
def taught_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a checkpoint as it would be taught, of a tiny encoder, whose file stands where the package's would."""
    write_tiny_e5(tmp_path / "e5.bin")
    monkeypatch.setattr(packages, "locate", lambda _: tmp_path / "e5.bin")
    folder = tmp_path / "taught"
    folder.mkdir()
    save_encoder(folder, read_e5(tmp_path / "e5.bin"))
    rng = np.random.default_rng(1)
    tensors = load_file(folder / "model.safetensors")
    tensors["head.weight"] = rng.normal(0, 0.05, (384, 384)).astype(np.float32)
    tensors["head.bias"] = rng.normal(0, 0.05, 384).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"held_out": {"de": [0.5, 0.75]}}))
    return folder


def test_the_graph_is_bert_with_a_map_behind_it(taught_folder: Path) -> None:
    taught = load_taught(taught_folder)
    words = packed_rows(taught)
    expected = _with_transformers(taught, TEXTS)
    reference = multilingual_graph(taught.tensors, words, taught.layers, None)
    watched = TextEncoder(open_model(reference, block_inputs(taught.layers)), taught.tokenizer)
    np.testing.assert_allclose(watched(TEXTS), expected, atol=2e-6)
    rounded = open_model(multilingual_graph(taught.tensors, words, taught.layers, watched.peaks))
    vectors = TextEncoder(rounded, taught.tokenizer)(TEXTS)
    assert (vectors * expected).sum(1).min() > 0.99


def test_rows_that_were_changed_are_refused(taught_folder: Path) -> None:
    tensors = load_file(taught_folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][7, 5] += 0.01
    save_file(tensors, taught_folder / "model.safetensors")
    with pytest.raises(MagicError) as raised:
        packed_rows(load_taught(taught_folder))
    assert raised.value.code is ErrorCode.CHECKPOINT_INVALID


def test_a_broken_checkpoint_says_how_to_write_it_again(tmp_path: Path) -> None:
    with pytest.raises(MagicError, match=r"magicmm_training.nano.languages"):
        load_taught(tmp_path / "nothing")


def test_the_bundle_verifies_and_reads_both_languages(taught_folder: Path, tmp_path: Path) -> None:
    source = Bundle.default()
    target = tmp_path / "words.magicmm"
    bundle = build_multilingual(load_taught(taught_folder), source, Texts(TEXTS[:3], TEXTS), target)
    assert verify_bundle(bundle, 1).passes
    assert bundle.manifest.id == "nano-multilingual"
    assert not target.with_name(target.name + ".new").exists()
    ours, theirs = Embedder.open(bundle, threads=1), Embedder.open(source, threads=1)
    scene = sample_scene()
    np.testing.assert_array_equal(ours.embed_image(scene), theirs.embed_image(scene))
    vectors = np.stack([ours.embed_text(text) for text in TEXTS])
    expected = _with_transformers(load_taught(taught_folder), TEXTS)
    assert (vectors * expected).sum(1).min() > 0.99
    with pytest.raises(MagicError) as raised:
        ours.embed_text("\u200b")
    assert raised.value.code is ErrorCode.TEXT_INVALID


def test_a_multilingual_bundle_is_not_lowered_again(taught_folder: Path, tmp_path: Path) -> None:
    bundle = build_multilingual(
        load_taught(taught_folder), Bundle.default(), Texts(TEXTS[:3], TEXTS), tmp_path / "words.magicmm"
    )
    with pytest.raises(MagicError, match="multilingual-e5"):
        read_text(bundle)


def test_weights_that_the_image_graph_shares_with_the_text_graph_are_taken_along(tmp_path: Path) -> None:
    """An image graph may read a file that the new text graph would overwrite."""
    source = Bundle.default()
    copies = take_image(source, tmp_path)
    assert sorted(path.name for path in copies) == ["image.onnx", "image.onnx.data", "image.onnx.text.onnx.data"]
    (tmp_path / "text.onnx.data").write_bytes(b"other")
    pixels = Embedder.open(source, threads=1).prepare(sample_scene())
    (moved,), (before,) = (
        InferenceSession(folder / "image.onnx", providers=["CPUExecutionProvider"]).run(["vector"], {"pixels": pixels})
        for folder in (tmp_path, source.path)
    )
    np.testing.assert_array_equal(moved, before)


def test_names_find_their_own_place_in_the_bank(taught_folder: Path) -> None:
    names = ["a red photo", "ein rotes Foto", "赤写真"]
    encoder, bank = own_space(names)
    words = packed_rows(encoder)
    found = TextEncoder(open_model(multilingual_graph(encoder.tensors, words, 1, None)), encoder.tokenizer)(names)
    np.testing.assert_allclose(found, bank, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1, atol=1e-5)


def test_photos_follow_the_bank(tmp_path: Path) -> None:
    """A turned bank turns every photo."""
    bank, before, after = bank_of(read_image(Bundle.default())), tmp_path / "before.onnx", tmp_path / "after.onnx"
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((384, 384)))[0].astype(np.float32)
    for path in (before, after):
        path.write_bytes(bank_graph(Bundle.default()).SerializeToString())
    replace_bank(after, bank.vectors @ turn)
    pixels = Embedder.open(Bundle.default(), threads=1).prepare(sample_scene())
    (plain,), (turned,) = (
        InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"pixels": pixels})
        for path in (before, after)
    )
    assert float(turned[0] @ (plain[0] @ turn)) > 0.999


def test_a_graph_without_such_a_bank_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.onnx"
    path.write_bytes(bank_graph(Bundle.default()).SerializeToString())
    with pytest.raises(MagicError) as raised:
        replace_bank(path, np.ones((7, 384), np.float32))
    assert raised.value.code is ErrorCode.ARGUMENT_INVALID
    take_image(Bundle.default(), tmp_path)  # more than a bank speaks in it
    with pytest.raises(MagicError) as raised:
        replace_bank(path, np.ones((1000, 384), np.float32))
    assert raised.value.code is ErrorCode.ARGUMENT_INVALID


def test_targets_stand_beside_their_texts(tmp_path: Path) -> None:
    def encode(texts: list[str]) -> np.ndarray:
        return np.array([[len(text), text.count("e")] for text in texts], np.float32)

    names = dict.fromkeys(("de", "ja"), "den")
    emoji = [Emoji(f"{number:X}", {"en": "e" * number, **names}) for number in range(30)]
    save_targets(tmp_path, ["three", "ten"], emoji, encode)
    facts, vectors = json.loads((tmp_path / "texts.json").read_text()), load_file(tmp_path / "targets.safetensors")
    assert vectors["english"].tolist() == [[5, 2], [3, 1]]
    assert vectors["emoji"][:, 1].tolist() == list(range(30))
    (first, second, pattern), sums = facts["pairs"][3], vectors["pairs"]
    assert (pattern, sums[3].tolist()) == (1, [first + second + 5, first + second])
    assert facts["patterns"]["de"] == ["{}, {}", "{} und {}"]


def _with_transformers(taught: Taught, texts: Sequence[str]) -> np.ndarray:
    bert = BertModel(
        BertConfig(
            vocab_size=len(taught.rows),
            hidden_size=384,
            num_hidden_layers=taught.layers,
            num_attention_heads=12,
            intermediate_size=64,
            max_position_embeddings=160,
            type_vocab_size=1,
            layer_norm_eps=1e-12,
        ),
        add_pooling_layer=False,
    ).eval()
    state = {name: torch.from_numpy(value) for name, value in taught.tensors.items()}
    head = state.pop("head.weight"), state.pop("head.bias")
    bert.load_state_dict(state | {"embeddings.word_embeddings.weight": torch.from_numpy(taught.rows)})
    rows = []
    with torch.inference_mode():
        for text in texts:
            hidden = bert(torch.tensor([taught.tokenizer.encode(text).ids])).last_hidden_state.mean(1)
            rows.append(functional.normalize(functional.linear(functional.normalize(hidden), *head))[0].numpy())
    return np.stack(rows)


def _without_hashes(folder: Path, manifest: dict[str, object]) -> None:
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": "0" * 64}
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
