"""The token table and the prefixes, byte by byte and against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from graph_runs import distance, random_smoothing, rotation_of
from magicmm import Bundle
from magicmm.encoders import VisionLanguageEncoder
from magicmm_export.onnx import tables
from magicmm_export.onnx.tables import write_prefixes, write_tokens
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.model import MagicModel
from magicmm_model.templates import ROLES, PromptBuilder
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.streaming import StreamedModel
from magicmm_quant.weights import RewrittenWeights

HEADS = {"query": (1, 5, 9, 300), "photo": (7, 2), "composed": (1, 5, 9, 300)}


@pytest.mark.parametrize("rows", [7, 64, 400])
def test_the_token_table_is_laid_out_as_the_format_says(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(tables, "_ROWS", 150)
    steps: list[int] = []
    weights = RewrittenWeights(tiny, tiny.config, rotation_of(tiny.config))
    write_tokens(tmp_path / "tokens.bin", weights, rows, steps.append)
    data, dim = (tmp_path / "tokens.bin").read_bytes(), tiny.config.dim
    start = -(-rows * dim // 64) * 64
    assert len(data) == start + 4 * rows
    assert not any(data[rows * dim : start])
    codes = np.frombuffer(data, np.int8, rows * dim).reshape(rows, dim)
    scales = np.frombuffer(data, "<f4", rows, start)
    rotation = rotation_of(tiny.config)
    assert rotation is not None
    exact = rotation.apply(tiny.read("language.embed_tokens.weight").float().numpy()[:rows])
    assert np.allclose(scales, np.abs(exact).max(1) / 127, rtol=1e-5)
    assert (np.abs(codes * scales[:, None] - exact) <= 0.501 * scales[:, None]).all()
    assert (np.abs(codes).max(1) == 127).all()
    assert sum(steps) == rows and max(steps) <= 150


def test_the_sdk_reads_the_rows_that_numpy_reads(tiny: Checkpoint, int8_bundle: Path) -> None:
    encoder = VisionLanguageEncoder(Bundle.load(int8_bundle), 1, "onnx")
    rows, dim = tiny.config.language.vocab_size, tiny.config.dim
    data = (int8_bundle / "tokens.bin").read_bytes()
    codes = np.frombuffer(data, np.int8, rows * dim).reshape(rows, dim).astype(np.float32)
    scales = np.frombuffer(data, "<f4", rows, len(data) - 4 * rows)
    ids = [0, 5, rows - 1, 5]
    assert np.array_equal(encoder._rows(ids), codes[ids] * scales[ids, None])


def test_a_row_of_zeros_stays_one(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RewrittenWeights, "tokens", lambda *_: np.zeros((2, tiny.config.dim), np.float32))
    write_tokens(tmp_path / "tokens.bin", RewrittenWeights(tiny, tiny.config, None), 2)
    data = (tmp_path / "tokens.bin").read_bytes()
    assert not any(data[:-8])
    assert (np.frombuffer(data[-8:], "<f4") > 0).all()


@pytest.mark.parametrize(("rotate", "smooth"), [(False, False), (True, False), (True, True)])
def test_prefixes_are_the_keys_and_values_of_the_torch_model(
    tiny: Checkpoint, reference: MagicModel, tmp_path: Path, rotate: bool, smooth: bool
) -> None:
    config = tiny.config
    smoothing = random_smoothing(config) if smooth else {}
    weights = RewrittenWeights(tiny, config, rotation_of(config, rotate), smoothing)
    names = write_prefixes(tmp_path, StreamedModel(tiny, config, weights=weights), HEADS)
    assert names["query"] == names["composed"] != names["photo"]
    assert sorted(path.name for path in (tmp_path / "prefix").iterdir()) == ["0.safetensors", "1.safetensors"]
    for role, head in HEADS.items():
        found = load_file(tmp_path / names[role])
        with torch.inference_mode():
            _, kept = reference.language(reference.language.embed_tokens(torch.tensor([head])))
        kinds = ("key", "value")
        assert found.keys() == {f"past_{kind}_{layer}" for kind in kinds for layer in range(len(kept))}
        for layer, (key, value) in enumerate(kept):
            stored = found[f"past_value_{layer}"]
            if smooth:  # values carry what the columns of `o` were multiplied by
                heads = smoothing[f"language.layers.{layer}.o"].reshape(config.language.kv_heads, -1)
                assert distance(stored, value.numpy()) > 0.1
                stored = stored * heads[:, None, : config.language.head_dim]
            assert distance(found[f"past_key_{layer}"], key.numpy()) < 1e-4
            assert distance(stored, value.numpy()) < 1e-4


def test_a_bundle_names_a_prefix_for_every_role(
    tiny: Checkpoint, tokenizer: PromptTokenizer, int8_bundle: Path
) -> None:
    roles = Bundle.load(int8_bundle).manifest.roles
    assert roles.keys() == ROLES.keys()
    heads = {name: PromptBuilder(tiny.config, tokenizer).role_tokens(role).head for name, role in ROLES.items()}
    for name, role in roles.items():
        assert role.prefix is not None
        assert load_file(int8_bundle / role.prefix)["past_key_0"].shape[2] == len(heads[name])
        assert [roles[other].prefix == role.prefix for other in heads] == [
            heads[other] == heads[name] for other in heads
        ]
    language = (tiny.config.language.kv_heads, tiny.config.language.head_dim)
    stored = load_file(int8_bundle / str(roles["query"].prefix))
    assert {array.shape[1::2] for array in stored.values()} == {language}
