"""Names and shapes of tensors: of our modules, of transformers' files, and of the authors' repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from magicmm_model.config import FAMILY, Head, LanguageConfig, ModelConfig, VisionConfig
from magicmm_model.config_json import Layout
from magicmm_model.model import MagicModel
from magicmm_model.naming import plain_spelling, stored_names, tensor_shapes

# Every size another, so that no two axes can be mixed up.
TINY = ModelConfig(
    VisionConfig(hidden_size=32, layers=2, heads=4, intermediate_size=72, image_size=112),
    LanguageConfig(hidden_size=48, layers=3, heads=6, kv_heads=2, intermediate_size=80, vocab_size=400),
)
CONFIGS = {"tiny": TINY, "without qkv bias": replace(TINY, vision=replace(TINY.vision, qkv_bias=False)), **FAMILY}


@pytest.mark.parametrize("head", list(Head))
@pytest.mark.parametrize("name", list(CONFIGS))
def test_shapes_are_those_of_the_modules_in_their_order(name: str, head: Head) -> None:
    config = CONFIGS[name].variant(head=head)
    with torch.device("meta"):
        model = MagicModel(config)
    assert list(tensor_shapes(config).items()) == [(key, tuple(value.shape)) for key, value in model.named_parameters()]
    assert not list(model.buffers())


def test_without_qkv_bias_there_is_one_tensor_less_a_layer() -> None:
    missing = tensor_shapes(TINY).keys() - tensor_shapes(CONFIGS["without qkv bias"]).keys()
    assert missing == {f"vision.layers.{place}.attn.qkv.bias" for place in range(2)}


def all_names(config: ModelConfig, layout: Layout) -> list[str]:
    return [stored for name in tensor_shapes(config) for stored in stored_names(name, layout)]


def test_hf_names_are_those_that_transformers_writes(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", "pt") as file:
        written = set(file.keys())
    names = all_names(TINY, Layout.HF)
    assert len(names) == len(set(names))
    assert set(names) == written
    assert {plain_spelling(name, Layout.HF) for name in written} == written


def test_names_of_the_model_in_memory_are_another_spelling_of_the_same(hf: Any) -> None:
    in_memory = set(hf.state_dict())
    assert {name.split(".")[0] for name in in_memory} == {"model", "lm_head"}
    assert sorted(plain_spelling(name, Layout.HF) for name in in_memory) == sorted(all_names(TINY, Layout.HF))


# InternVL's repository: modeling_intern_vit.py, modeling_internvl_chat.py, and Qwen2 within.
VISION_LAYER = (
    *("ls1", "ls2", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
    *("attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias"),
    *("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
)
LANGUAGE_LAYER = (
    *("input_layernorm.weight", "post_attention_layernorm.weight"),
    *("self_attn.q_proj.weight", "self_attn.q_proj.bias", "self_attn.k_proj.weight", "self_attn.k_proj.bias"),
    *("self_attn.v_proj.weight", "self_attn.v_proj.bias", "self_attn.o_proj.weight"),
    *("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"),
)
PUBLISHED = (
    "vision_model.embeddings.class_embedding",
    "vision_model.embeddings.patch_embedding.weight",
    "vision_model.embeddings.patch_embedding.bias",
    "vision_model.embeddings.position_embedding",
    *(f"vision_model.encoder.layers.{place}.{part}" for place in (0, 1) for part in VISION_LAYER),
    *(f"mlp1.{place}.{part}" for place in (0, 1, 3) for part in ("weight", "bias")),
    "language_model.model.embed_tokens.weight",
    *(f"language_model.model.layers.{place}.{part}" for place in (0, 1, 2) for part in LANGUAGE_LAYER),
    "language_model.model.norm.weight",
    "language_model.lm_head.weight",
)


def test_original_names_are_those_that_the_authors_publish() -> None:
    assert sorted(all_names(TINY, Layout.ORIGINAL)) == sorted(PUBLISHED)
    assert all(plain_spelling(name, Layout.ORIGINAL) == name for name in PUBLISHED)


@pytest.mark.parametrize(
    ("ours", "original", "hf_names"),
    [
        (
            "vision.layers.17.attn.qkv.weight",
            "vision_model.encoder.layers.17.attn.qkv.weight",
            [f"vision_tower.encoder.layer.17.attention.{part}_proj.weight" for part in "qkv"],
        ),
        (
            "vision.layers.1.ls2",
            "vision_model.encoder.layers.1.ls2",
            ["vision_tower.encoder.layer.1.lambda_2"],
        ),
        (
            "vision.layers.1.norm1.bias",
            "vision_model.encoder.layers.1.norm1.bias",
            ["vision_tower.encoder.layer.1.layernorm_before.bias"],
        ),
        ("connector.linear_2.bias", "mlp1.3.bias", ["multi_modal_projector.linear_2.bias"]),
        ("connector.linear_1.weight", "mlp1.1.weight", ["multi_modal_projector.linear_1.weight"]),
    ],
)
def test_the_renames_that_the_conversion_script_of_transformers_makes(
    ours: str, original: str, hf_names: list[str]
) -> None:
    assert stored_names(ours, Layout.ORIGINAL) == (original,)
    assert list(stored_names(ours, Layout.HF)) == hf_names


@pytest.mark.parametrize("layout", list(Layout))
def test_a_name_of_no_model_has_no_place(layout: Layout) -> None:
    with pytest.raises(KeyError):
        stored_names("audio.layers.0.weight", layout)
