"""The random base checkpoint: read by our loader and by transformers, the same each time, with usable scales."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.embedder import TorchEmbedder
from magicmm_model.templates import ROLES
from magicmm_training.scenes import Sizes, write_base, write_scenes
from magicmm_training.scenes.drawing import draw
from magicmm_training.scenes.world import Scene, Thing
from one_thread import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base")
    write_scenes(out / "scenes", Sizes(captions=200, changes=100, samples=100, test=10))
    write_base(out / "base", out / "scenes", width=32, layers=2, vision_width=32)
    return out


def test_it_loads_with_its_head_and_a_cell_is_one_visual_token(folder: Path) -> None:
    embedder = TorchEmbedder.open(folder / "base", head=True)
    assert embedder.model.config.tile_tokens == 4
    assert embedder.dim == 32
    picture = draw(Scene((Thing(0, 0, "ring", "red"),)), "one")
    photo, query = embedder.embed_image(picture), embedder.embed_text("a red ring")
    assert torch.isfinite(photo.vector).all() and photo.vector.norm().item() == pytest.approx(1, abs=1e-5)
    assert not torch.allclose(photo.vector, query.vector, atol=0.1)


def test_words_of_the_scenes_are_whole_tokens(folder: Path) -> None:
    tokenizer = TorchEmbedder.open(folder / "base").tokenizer
    words = "a red ring above a blue square"
    assert len(tokenizer.encode(f" {words}")) == len(words.split())
    assert [len(tokenizer.encode(word)) for word in ("yes", "no")] == [1, 1]


def test_prompts_stay_short(folder: Path) -> None:
    prompts = TorchEmbedder.open(folder / "base").prompts
    assert len(prompts.build(ROLES["photo"], None, 1).ids) < 30
    assert len(prompts.build(ROLES["query"], "a red ring", 0).ids) < 40


def test_transformers_reads_the_same_weights(folder: Path) -> None:
    transformers: Any = import_module("transformers")
    ours = TorchEmbedder.open(folder / "base", head=True).model
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(folder / "base").eval()
    ids = torch.tensor([[5, 40, 300, 7]])
    with torch.no_grad():
        hidden, _ = ours.language(ours.language.embed_tokens(ids))
        logits = theirs(input_ids=ids).logits
    assert torch.allclose(ours.logits(hidden), logits, atol=1e-4)
    assert logits.std() > 0.05, "a head that says nothing would not train"


def test_the_seed_decides_the_weights(folder: Path, tmp_path: Path) -> None:
    write_base(tmp_path / "same", folder / "scenes", width=32, layers=2, vision_width=32)
    write_base(tmp_path / "other", folder / "scenes", width=32, layers=2, vision_width=32, seed=1)
    read = {
        name: (path / "model.safetensors").read_bytes()
        for name, path in (("first", folder / "base"), ("same", tmp_path / "same"), ("other", tmp_path / "other"))
    }
    assert read["first"] == read["same"] != read["other"]


def test_a_folder_without_scenes_is_named(tmp_path: Path) -> None:
    with pytest.raises(MagicError) as failure:
        write_base(tmp_path / "base", tmp_path)
    assert failure.value.code is ErrorCode.SOURCE_UNAVAILABLE
    assert not (tmp_path / "base").exists()
