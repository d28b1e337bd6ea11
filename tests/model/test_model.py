"""The whole model, held against transformers' InternVL on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from magicmm import ErrorCode, MagicError
from magicmm_model.embedder import TorchEmbedder, pad_prompts
from magicmm_model.loading import load_model
from magicmm_model.templates import ROLES, Prompt

Agree = Callable[[Tensor, Tensor], None]
Prepare = Callable[[Tensor], Tensor]
CASES = [("photo", None, 1), ("query", "a dog on the beach", 0), ("composed", "the same at sunset, 书生", 1)]


@pytest.fixture(scope="module", params=[1, 2])
def compression(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def embedder(folder: Path, compression: int) -> TorchEmbedder:
    return TorchEmbedder.open(folder, compression=compression)


def build(embedder: TorchEmbedder, role: str, text: str | None, tiles: int) -> Prompt:
    return embedder.prompts.build(ROLES[role], text, tiles)


def vectors(embedder: TorchEmbedder, prompts: Sequence[Prompt], pixels: Tensor | None, fill: int = 0) -> Tensor:
    """Run a batch of prompts; padding is filled with a token of choice."""
    model = embedder.model
    ids, last = pad_prompts(prompts, fill)
    visual = None if pixels is None else model.visual_tokens(pixels)
    return model.vectors(model.embed_sequence(ids, visual, embedder.tokenizer.special.context), last)


def compressed_by_transformers(hf: Any, values: Tensor) -> Tensor:
    """Return the compressed visual tokens (paper section 3.2), of parts of transformers and torch only."""
    grid = hf.model.vision_tower(pixel_values=values).last_hidden_state[:, 1:].unflatten(1, (32, 32))
    planes = grid.permute(0, 3, 1, 2)
    small = functional.interpolate(planes, scale_factor=0.5, mode="bilinear", align_corners=False)
    cells = hf.model.pixel_shuffle(small.permute(0, 2, 3, 1).contiguous(), scale_factor=0.5)
    return hf.model.multi_modal_projector(cells.flatten(1, 2))


@pytest.mark.parametrize("side", [448, 224])
def test_vanilla_visual_tokens_equal_transformers(
    folder: Path, hf: Any, pixels: Tensor, side: int, hf_pixels: Prepare, agree: Agree
) -> None:
    tiles = pixels[:, :side, :side]
    ours = load_model(folder, compression=1, image_size=side).visual_tokens(tiles)
    agree(ours, hf.get_image_features(hf_pixels(tiles)))


def test_compressed_visual_tokens_equal_transformers_parts(
    folder: Path, hf: Any, pixels: Tensor, hf_pixels: Prepare, agree: Agree
) -> None:
    agree(load_model(folder, compression=2).visual_tokens(pixels), compressed_by_transformers(hf, hf_pixels(pixels)))


@pytest.mark.parametrize(("side", "compression", "tokens"), [(448, 1, 256), (448, 2, 64), (224, 1, 64)])
def test_tokens_of_a_tile(folder: Path, pixels: Tensor, side: int, compression: int, tokens: int) -> None:
    model = load_model(folder, compression=compression, image_size=side)
    assert model.config.tile_tokens == tokens
    assert model.visual_tokens(pixels[:2, :side, :side]).shape == (2, tokens, 48)


@pytest.mark.parametrize(("role", "text", "tiles"), CASES, ids=["photo", "text", "photo + text"])
def test_vectors_equal_transformers(
    embedder: TorchEmbedder,
    hf: Any,
    pixels: Tensor,
    role: str,
    text: str | None,
    tiles: int,
    hf_pixels: Prepare,
    agree: Agree,
) -> None:
    prompt = build(embedder, role, text, tiles)
    ids, values = torch.tensor([prompt.ids]), hf_pixels(pixels[:1])
    if embedder.model.config.compression == 1 or not tiles:
        theirs = hf.model(input_ids=ids, pixel_values=values if tiles else None).last_hidden_state
    else:
        rows = hf.get_input_embeddings()(ids)
        rows[ids == hf.config.image_token_id] = compressed_by_transformers(hf, values)[0]
        theirs = hf.model.language_model(inputs_embeds=rows).last_hidden_state
    ours = vectors(embedder, [prompt], pixels[:1] if tiles else None)
    agree(ours, functional.normalize(theirs[:, -1], dim=-1))


def test_a_batch_gives_each_the_vector_that_it_gets_alone(embedder: TorchEmbedder, pixels: Tensor) -> None:
    prompts = [build(embedder, *case) for case in (*CASES, ("similar", None, 1))]
    tiles = [pixels[:1], None, pixels[1:2], pixels[2:]]
    alone = torch.cat([vectors(embedder, [prompt], tile) for prompt, tile in zip(prompts, tiles, strict=True)])
    together = vectors(embedder, prompts, pixels)
    order = [2, 1, 3, 0]
    mixed = vectors(embedder, [prompts[place] for place in order], pixels[[1, 2, 0]])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed, alone[order], atol=1e-6, rtol=0)
    similarity = alone @ alone.T - torch.eye(4)
    assert similarity.max() < 0.999  # mixing them up would show


def test_padding_on_the_right_changes_nothing(embedder: TorchEmbedder) -> None:
    short, long = (build(embedder, "query", text, 0) for text in ("a dog", "a dog on the beach at sunset"))
    alone = vectors(embedder, [short], None)
    for fill in (embedder.tokenizer.special.end, embedder.tokenizer.special.turn_start, 7):
        torch.testing.assert_close(vectors(embedder, [short, long], None, fill)[:1], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vectors_are_float32_of_unit_length(folder: Path, pixels: Tensor, dtype: torch.dtype) -> None:
    embedder = TorchEmbedder.open(folder, dtype=dtype)
    result = vectors(embedder, [build(embedder, *case) for case in CASES], pixels[:2])
    assert result.dtype == torch.float32
    assert result.shape == (3, 48)
    torch.testing.assert_close(result.norm(dim=-1), torch.ones(3), atol=1e-6, rtol=0)


def test_visual_tokens_take_the_places_of_the_placeholders_in_order(embedder: TorchEmbedder) -> None:
    ids = torch.tensor([[9, 5, 5, 1], [5, 2, 3, 5]])
    visual = torch.randn(2, 2, 48)
    rows = embedder.model.embed_sequence(ids, visual, 5)
    table = embedder.model.language.embed_tokens.weight
    expected = [table[9], visual[0, 0], visual[0, 1], table[1], visual[1, 0], table[2], table[3], visual[1, 1]]
    assert torch.equal(rows, torch.stack(expected).reshape(2, 4, 48))
    assert torch.equal(embedder.model.embed_sequence(ids, None, 6), table[ids])


@pytest.mark.parametrize(("shape", "given"), [((1, 4, 48), 4), ((2, 1, 48), 2), (None, 0)])
def test_placeholders_without_visual_tokens_are_refused(
    embedder: TorchEmbedder, shape: tuple[int, ...] | None, given: int
) -> None:
    visual = None if shape is None else torch.zeros(shape)
    with pytest.raises(MagicError, match=rf"\b3 image placeholders.* {given} visual tokens") as caught:
        embedder.model.embed_sequence(torch.tensor([[5, 1, 5], [5, 2, 3]]), visual, 5)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_visual_tokens_without_placeholders_are_refused(embedder: TorchEmbedder) -> None:
    with pytest.raises(MagicError, match="hold 0 image placeholders, the pictures give 2 visual tokens") as caught:
        embedder.model.embed_sequence(torch.tensor([[1, 2, 3]]), torch.zeros(1, 2, 48), 5)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_a_shared_prefix_run_once_gives_the_vectors_of_the_whole_prompts(embedder: TorchEmbedder) -> None:
    model, special = embedder.model, embedder.tokenizer.special
    prompts = [build(embedder, "query", text, 0) for text in ("a dog", "a printed page", "the beach at sunset, 书")]
    ids, last = pad_prompts(prompts, special.end)
    prefix = 40
    assert (ids[:, :prefix] == ids[:1, :prefix]).all()
    _, past = model.language(model.language.embed_tokens(ids[:1, :prefix]))
    ours = model.vectors(model.language.embed_tokens(ids[:, prefix:]), last - prefix, past)
    torch.testing.assert_close(ours, vectors(embedder, prompts, None), atol=1e-6, rtol=0)


def test_a_model_loaded_without_head_has_no_logits(embedder: TorchEmbedder) -> None:
    with pytest.raises(MagicError, match="no head") as caught:
        embedder.model.logits(torch.zeros(1, 48))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
