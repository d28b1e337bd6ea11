"""What the small files of a checkpoint mean: pixels and words, against transformers' own processors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, processors
from transformers import CLIPConfig, CLIPImageProcessor, SiglipConfig

from magicmm import ErrorCode, MagicError
from tiny_dual_checkpoints import FAMILIES, LENGTH, SIDE, write_dual_checkpoint

pytest.importorskip("optimum.exporters.onnx", reason="needs magicmm[export]")

from magicmm_export.dual.folder import weight_files
from magicmm_export.dual.preprocess import ImageRecipe, read_image_recipe
from magicmm_export.dual.words import TextRecipe, read_text_recipe

CONFIGS: dict[str, Any] = {"clip": CLIPConfig, "siglip": SiglipConfig}
SQUARE = {"height": SIDE, "width": SIDE}
OLD_CLIP: dict[str, Any] = {  # as of the first CLIP checkpoints
    "crop_size": SIDE,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": SIDE,
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: write_dual_checkpoint(folder / name, name) for name in FAMILIES}


@pytest.fixture
def copy(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """CLIP's folder, which a test may change."""
    return Path(shutil.copytree(checkpoints["clip"], tmp_path / "copy"))


def image_recipe(folder: Path, family: str = "clip", **spec: Any) -> ImageRecipe:
    folder.mkdir(exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(spec))
    return read_image_recipe(folder, family, SIDE)


def text_recipe(folder: Path, family: str = "clip") -> TextRecipe:
    config = CONFIGS[family].from_pretrained(folder)
    return read_text_recipe(folder, family, config.text_config)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# -- pixels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"do_rescale": False}, {"do_normalize": False}, {"rescale_factor": 1 / 127.5}, {"image_std": 0.5}]
)
def test_pixels_are_scaled_as_transformers_does(changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = image_recipe(tmp_path, **OLD_CLIP | changes)
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    truth = CLIPImageProcessor(**OLD_CLIP | changes)(Image.fromarray(pixels), return_tensors="np")["pixel_values"]
    found = recipe.normalise(pixels[None])
    assert found.dtype == np.float32
    assert np.allclose(found, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "view"),
    [
        (OLD_CLIP, "crop"),
        (OLD_CLIP | {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}, "crop"),
        (OLD_CLIP | {"size": SQUARE, "crop_size": SQUARE}, "squash"),
        ({"image_processor_type": "SiglipImageProcessor", "size": SQUARE}, "squash"),
        ({"image_processor_type": "SiglipImageProcessorFast", "size": SQUARE}, "squash"),
    ],
)
def test_the_view_is_that_of_the_processor(spec: dict[str, Any], view: str, tmp_path: Path) -> None:
    recipe = image_recipe(tmp_path, **spec)
    assert (recipe.view, recipe.side, recipe.notes) == (view, SIDE, ())


def test_the_family_decides_where_the_file_does_not(tmp_path: Path) -> None:
    assert image_recipe(tmp_path, "siglip", size=SQUARE).mean.tolist() == [0.5] * 3
    assert image_recipe(tmp_path, "clip", size=SIDE, crop_size=SIDE).mean[0] == np.float32(0.48145466)


@pytest.mark.parametrize(
    ("changes", "note"), [({"resample": 2}, "filter 2, the SDK with bicubic"), ({"size": 36}, "crops 32 of 36 pixels")]
)
def test_what_the_sdk_does_otherwise_is_noted(changes: dict[str, Any], note: str, tmp_path: Path) -> None:
    recipe = image_recipe(tmp_path, **OLD_CLIP | changes)
    assert len(recipe.notes) == 1
    assert note in recipe.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor"}, "'ViTFeatureExtractor'"),
        ({"do_resize": False}, "switches resizing off"),
        ({"do_center_crop": False}, "keeps the shape"),
        ({"crop_size": 16}, r"\(16, 16\), the vision tower reads \(32, 32\)"),
        ({"size": {"height": 40, "width": 40}}, "squashes to"),
        ({"image_std": [1.0, 0.0, 1.0]}, "not positive"),
        ({"image_mean": [1.0, 2.0]}, "is broken"),
        ({"image_mean": "grey"}, "is broken"),
        ({"size": {"longest_edge": 32}}, "squashes to"),
        ({"size": "large"}, "is broken"),
    ],
)
def test_pixels_that_the_sdk_cannot_make_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(MagicError, match=message) as caught:
        image_recipe(tmp_path, **OLD_CLIP | changes)
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID


# -- words -----------------------------------------------------------------------------------------------------


def test_words_are_read_as_the_checkpoint_says(checkpoints: dict[str, Path], family: str) -> None:
    expected = {"clip": ((98,), (99,), 99), "siglip": ((), (1,), 1)}[family]
    recipe = text_recipe(checkpoints[family], family)
    assert (recipe.head, recipe.tail, recipe.pad_id) == expected
    assert (recipe.max_tokens, recipe.vocabulary) == (LENGTH, 100)


@pytest.mark.parametrize("token", ["dog", {"content": "dog", "lstrip": False}])
def test_the_pad_token_is_looked_up_by_name(token: object, copy: Path) -> None:
    change_json(copy / "tokenizer_config.json", pad_token=token)
    assert text_recipe(copy).pad_id == Tokenizer.from_file(str(copy / "tokenizer.json")).token_to_id("dog")


def test_without_a_pad_token_the_config_decides(copy: Path) -> None:
    (copy / "special_tokens_map.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    assert text_recipe(copy).pad_id == 99


def test_the_end_of_old_clip_configs_is_the_highest_id(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    change_json(copy / "config.json", **config)
    assert text_recipe(copy).tail == (99,)


@pytest.mark.parametrize(
    ("ends", "end_id"), [("$A", 99), ("<|startoftext|> $A", 99), ("$A <|startoftext|>", 2), ("$A <|endoftext|>", 98)]
)
def test_a_tokenizer_that_does_not_end_where_clip_reads_is_refused(ends: str, end_id: int, copy: Path) -> None:
    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    special = [("<|startoftext|>", 98), ("<|endoftext|>", 99)]
    tokenizer.post_processor = processors.TemplateProcessing(ends, special_tokens=special)
    tokenizer.save(str(copy / "tokenizer.json"))
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["eos_token_id"] = end_id
    change_json(copy / "config.json", **config)
    with pytest.raises(MagicError, match="takes its vector at the id") as caught:
        text_recipe(copy)
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID


def test_a_tokenizer_of_a_larger_model_is_refused(copy: Path) -> None:
    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    tokenizer.add_tokens([f"new{place}" for place in range(100)])
    tokenizer.save(str(copy / "tokenizer.json"))
    with pytest.raises(MagicError, match="the model's table ends at 99"):
        text_recipe(copy)


# -- weights ---------------------------------------------------------------------------------------------------


def write_index(folder: Path, *names: str) -> None:
    index = {"weight_map": {f"tensor{place}": name for place, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors", "other.safetensors"):
        (tmp_path / name).touch()
    write_index(tmp_path, "b.safetensors", "a.safetensors", "b.safetensors")
    assert [path.name for path in weight_files(tmp_path)] == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("names", [(), ("gone.safetensors",), ("../out.safetensors",), ("pytorch_model.bin",)])
def test_shards_that_are_not_there_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "out.safetensors").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "pytorch_model.bin").touch()
    write_index(folder, *names)
    with pytest.raises(MagicError) as caught:
        weight_files(folder)
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID
