"""The decoder, held against transformers' Qwen2 on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding, apply_rotary_pos_emb

import tiny_checkpoints
from magicmm_model.config import Head
from magicmm_model.language import LanguageModel, RmsNorm, rotary_angles, rotate
from magicmm_model.loading import load_model

EMBEDS = torch.randn(3, 40, 48, generator=torch.Generator().manual_seed(5))
Agree = Callable[[Tensor, Tensor], None]


@pytest.fixture(scope="module")
def language(folder: Path) -> LanguageModel:
    return load_model(folder, head=True).language


@pytest.fixture(scope="module")
def qwen(hf: Any) -> Any:
    return hf.model.language_model


def test_every_layer_equals_transformers(
    language: LanguageModel,
    qwen: Any,
    agree: Agree,
    record: Callable[[Iterable[nn.Module], Callable[[], object]], list[Tensor]],
) -> None:
    ours = record([*language.layers, language.norm], lambda: language(EMBEDS))
    theirs = record([*qwen.layers, qwen.norm], lambda: qwen(inputs_embeds=EMBEDS))
    assert len(ours) == len(theirs) == 1 + 3 + 1  # what goes in, each layer, the norm
    for mine, his in zip(ours, theirs, strict=True):
        agree(mine, his)


def test_token_rows_equal_transformers(language: LanguageModel, qwen: Any, agree: Agree) -> None:
    ids = torch.arange(400).reshape(4, 100)
    agree(language(language.embed_tokens(ids))[0], qwen(input_ids=ids).last_hidden_state)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_prefix_run_first_changes_nothing(language: LanguageModel, qwen: Any, batch: int, agree: Agree) -> None:
    whole = qwen(inputs_embeds=EMBEDS[:batch]).last_hidden_state
    start, past = language(EMBEDS[:batch, :25])
    middle, past = language(EMBEDS[:batch, 25:26], past)
    end, _ = language(EMBEDS[:batch, 26:], past)
    agree(torch.cat([start, middle, end], dim=1), whole)


@pytest.mark.parametrize("batch", [1, 3])
def test_kept_keys_and_values_equal_transformers(language: LanguageModel, qwen: Any, batch: int, agree: Agree) -> None:
    cache = DynamicCache(config=qwen.config)
    qwen(inputs_embeds=EMBEDS[:batch], past_key_values=cache, use_cache=True)
    _, past = language(EMBEDS[:batch, :25])
    _, kept = language(EMBEDS[:batch, 25:], past)
    assert [key.shape for key, _ in past] == [(batch, 2, 25, 8)] * 3
    for (key, value), theirs in zip(kept, cache.layers, strict=True):
        assert key.shape == value.shape == (batch, 2, 40, 8)
        agree(key, theirs.keys)
        agree(value, theirs.values)


def test_masked_tokens_between_are_as_if_they_were_not_there(language: LanguageModel, qwen: Any, agree: Agree) -> None:
    real = torch.tensor([*range(12), *range(20, 40)])  # 12 ... 19 are padding
    positions = torch.arange(40)[None]
    positions[:, 20:] -= 8
    seen = torch.zeros(40, dtype=torch.bool)
    seen[real] = True
    mask = torch.ones(40, 40, dtype=torch.bool).tril() & seen
    ours, _ = language(EMBEDS, positions=positions, mask=mask[None, None])
    agree(ours[:, real], qwen(inputs_embeds=EMBEDS[:, real]).last_hidden_state)


def test_positions_count_by_their_distance_as_in_transformers(language: LanguageModel, qwen: Any, agree: Agree) -> None:
    positions = torch.arange(0, 400, 10)[None] + torch.tensor([[0], [7], [1500]])
    theirs = qwen(inputs_embeds=EMBEDS, position_ids=positions).last_hidden_state
    agree(language(EMBEDS, positions=positions)[0], theirs)
    assert (theirs - qwen(inputs_embeds=EMBEDS).last_hidden_state).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_equals_transformers(qwen: Any, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(6)
    query, key = torch.randn(2, 2, 4, 64, 8, generator=generator).to(dtype)
    positions = torch.randint(0, 2048, (2, 64), generator=generator)
    cos, sin = rotary_angles(positions, 8, 1e6, dtype)
    their_cos, their_sin = Qwen2RotaryEmbedding(qwen.config)(query, positions)
    assert cos.shape == sin.shape == (2, 1, 64, 8)
    assert torch.equal(cos[:, 0], their_cos)
    assert torch.equal(sin[:, 0], their_sin)
    for ours, theirs in zip((query, key), apply_rotary_pos_emb(query, key, their_cos, their_sin), strict=True):
        assert torch.equal(rotate(ours, cos, sin), theirs)


def test_dynamic_scaling_does_nothing_up_to_the_longest_sequence(tmp_path: Path, agree: Agree) -> None:
    scaled = tiny_checkpoints.write_checkpoint(tmp_path / "scaled", max_position_embeddings=32).model.language_model
    plain = tiny_checkpoints.hf_model(tmp_path / "plain", max_position_embeddings=32, rope_scaling=None)
    plain = plain.model.language_model
    assert (scaled.rotary_emb.rope_type, plain.rotary_emb.rope_type) == ("dynamic", "default")
    tiny_checkpoints.edit_config(tmp_path / "scaled", magicmm={"max_tokens": 32})
    ours = load_model(tmp_path / "scaled").language
    assert ours.config.max_positions == 32
    for theirs in (scaled, plain):
        agree(ours(EMBEDS[:, :32])[0], theirs(inputs_embeds=EMBEDS[:, :32]).last_hidden_state)
    beyond = [theirs(inputs_embeds=EMBEDS[:, :33]).last_hidden_state for theirs in (scaled, plain)]
    assert (beyond[0] - beyond[1]).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_equals_transformers_bit_for_bit(dtype: torch.dtype, scale: float) -> None:
    ours, theirs = RmsNorm(48, 1e-6).to(dtype), Qwen2RMSNorm(48, 1e-6).to(dtype)
    gain = torch.randn(48, generator=torch.Generator().manual_seed(7)).to(dtype)
    ours.weight.data = theirs.weight.data = gain
    tokens = (EMBEDS * scale).to(dtype)
    assert ours(tokens).dtype == dtype
    assert torch.equal(ours(tokens), theirs(tokens))


@pytest.mark.parametrize(("tied", "head"), [(True, Head.TIED), (False, Head.UNTIED)])
def test_logits_equal_transformers(tmp_path: Path, tied: bool, head: Head, agree: Agree) -> None:
    theirs = tiny_checkpoints.write_checkpoint(tmp_path / "model", tie_word_embeddings=tied)
    assert (theirs.lm_head.weight is theirs.model.language_model.embed_tokens.weight) == tied
    ours = load_model(tmp_path / "model", head=True)
    assert ours.config.head is head
    ids = torch.arange(300).reshape(3, 100)
    agree(ours.logits(ours.language(ours.language.embed_tokens(ids))[0]), theirs(input_ids=ids).logits)
