"""Loading: types, heads, variants, and that transformers loads what we save."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import InternVLForConditionalGeneration

from magicmm import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import Head
from magicmm_model.config_json import Layout
from magicmm_model.loading import load_model
from magicmm_model.model import MagicModel
from magicmm_model.saving import save_model
from tiny_checkpoints import edit_config, write_checkpoint

IDS = torch.arange(20)[None] * 7 % 300


def hidden(model: MagicModel) -> torch.Tensor:
    states: torch.Tensor = model.language(model.language.embed_tokens(IDS))[0]
    return states


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A checkpoint without an output matrix of its own, and transformers' model."""
    folder = tmp_path_factory.mktemp("tied")
    return folder, write_checkpoint(folder, tie_word_embeddings=True)


@pytest.mark.parametrize("head", [True, False])
def test_a_model_is_ready_for_inference(head: bool, folder: Path) -> None:
    model = load_model(folder, head=head)
    assert not model.training
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
    assert hidden(model).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_converted_as_torch_converts_them(dtype: torch.dtype, folder: Path, hf: Any) -> None:
    model = load_model(folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert torch.equal(model.language.norm.weight, hf.state_dict()["model.language_model.norm.weight"].to(dtype))


def test_without_a_type_weights_stay_as_stored(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, torch.bfloat16)
    assert {parameter.dtype for parameter in load_model(tmp_path).parameters()} == {torch.bfloat16}


def test_a_checkpoint_of_mixed_types_is_loaded_in_the_widest(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, torch.bfloat16)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["language_model.model.norm.weight"] = tensors["language_model.model.norm.weight"].float()
    save_file(tensors, path)
    model = load_model(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert hidden(model).isfinite().all()


def test_a_head_of_its_own_gives_the_logits_of_transformers(folder: Path, hf: Any) -> None:
    model = load_model(folder, head=True)
    assert model.config.head is Head.UNTIED
    with torch.no_grad():
        assert (model.logits(hidden(model)) - hf(IDS).logits).abs().max() < 1e-4
    assert "language.lm_head.weight" not in dict(load_model(folder).named_parameters())


def test_a_tied_head_gives_the_logits_of_transformers(tied: tuple[Path, Any]) -> None:
    folder, theirs = tied
    model = load_model(folder, head=True)
    assert model.config.head is Head.TIED
    with torch.no_grad():
        assert (model.logits(hidden(model)) - theirs(IDS).logits).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_an_embedder_has_no_logits(kind: str, tied: tuple[Path, Any], folder: Path) -> None:
    model = load_model(tied[0] if kind == "tied" else folder)
    assert model.config.head is Head.NONE
    with pytest.raises(MagicError) as caught:
        model.logits(torch.zeros(1, model.config.dim))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_a_head_that_is_not_stored_cannot_be_loaded(folder: Path, tmp_path: Path) -> None:
    save_model(load_model(folder), tmp_path / "embedder", Layout.HF)
    with pytest.raises(MagicError) as caught:
        load_model(tmp_path / "embedder", head=True)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert str(tmp_path / "embedder") in caught.value.message


@pytest.mark.parametrize(("stored", "asked", "used"), [(None, None, 2), (1, None, 1), (1, 2, 2), (2, 1, 1)])
def test_compression_is_asked_for_or_stored_or_two(
    stored: int | None, asked: int | None, used: int, folder: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    if stored:
        edit_config(own, magicmm={"compression": stored})
    model = load_model(own, compression=asked)
    assert model.config.compression == used
    pixels = torch.zeros(1, 448, 448, 3, dtype=torch.uint8)
    assert model.visual_tokens(pixels).shape == (1, {1: 256, 2: 64}[used], 48)


def test_smaller_tiles_get_positions_between_the_stored_ones(folder: Path, hf: Any) -> None:
    model = load_model(folder, compression=1, image_size=224)
    stored = hf.state_dict()["model.vision_tower.embeddings.position_embeddings"]
    planes = stored[:, 1:].reshape(1, 32, 32, 32).permute(0, 3, 1, 2)
    wanted = functional.interpolate(planes, size=(16, 16), mode="bicubic", align_corners=False)
    table = model.vision.position_embedding
    assert torch.equal(table[:, :1], stored[:, :1])
    assert torch.allclose(table[:, 1:], wanted.permute(0, 2, 3, 1).reshape(1, 256, 32), atol=1e-6)
    assert model.visual_tokens(torch.zeros(2, 224, 224, 3, dtype=torch.uint8)).shape == (2, 64, 48)


@pytest.mark.parametrize(
    "options", [{"image_size": 450}, {"image_size": -448}, {"image_size": 0}, {"compression": 3}, {"compression": 0}]
)
def test_a_variant_that_does_not_fit_is_refused(options: dict[str, Any], folder: Path) -> None:
    with pytest.raises(MagicError) as caught:
        load_model(folder, **options)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


@pytest.mark.parametrize("head", [True, False])
def test_progress_counts_the_tensors_that_are_loaded(head: bool, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = load_model(Checkpoint.open(folder), head=head, progress=lambda done, total: seen.append((done, total)))
    total = len(list(model.parameters()))
    assert seen == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_transformers_loads_what_we_save(
    kind: str, tied: tuple[Path, Any], folder: Path, hf: Any, tmp_path: Path
) -> None:
    source, theirs = tied if kind == "tied" else (folder, hf)
    save_model(load_model(source, head=True), tmp_path / "ours", Layout.HF, companions=source)
    loaded, info = InternVLForConditionalGeneration.from_pretrained(
        tmp_path / "ours", output_loading_info=True, dtype=torch.float32
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert loaded.config.image_token_id == theirs.config.image_token_id
    context = theirs.config.image_token_id
    ids = torch.tensor([[5, *[context] * 256, 6, 7]])
    pixels = torch.randn(1, 3, 448, 448, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours, expected = (model.eval()(input_ids=ids, pixel_values=pixels).logits for model in (loaded, theirs))
    assert torch.equal(ours, expected)
