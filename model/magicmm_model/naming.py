"""Every tensor of a model: its name here, its shape, and its names in both published layouts (paper fact sheet 1.5)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from magicmm_model.config import Head
from magicmm_model.config_json import Layout

if TYPE_CHECKING:
    from magicmm_model.config import ModelConfig

Shape = tuple[int, ...]

# Module of this package -> the same in a layout. The first rule that matches the beginning of a name applies.
_RULES: dict[Layout, tuple[tuple[str, str], ...]] = {
    Layout.ORIGINAL: (
        (r"vision\.layers\.", "vision_model.encoder.layers."),
        (r"vision\.", "vision_model.embeddings."),
        (r"connector\.layer_norm\.", "mlp1.0."),
        (r"connector\.linear_1\.", "mlp1.1."),
        (r"connector\.linear_2\.", "mlp1.3."),
        (r"language\.lm_head\.", "language_model.lm_head."),
        (r"language\.", "language_model.model."),
    ),
    Layout.HF: (
        (r"vision\.layers\.(\d+)\.attn\.proj\.", r"vision_tower.encoder.layer.\1.attention.projection_layer."),
        (r"vision\.layers\.(\d+)\.norm1\.", r"vision_tower.encoder.layer.\1.layernorm_before."),
        (r"vision\.layers\.(\d+)\.norm2\.", r"vision_tower.encoder.layer.\1.layernorm_after."),
        (r"vision\.layers\.(\d+)\.ls", r"vision_tower.encoder.layer.\1.lambda_"),
        (r"vision\.layers\.", "vision_tower.encoder.layer."),
        (r"vision\.class_embedding", "vision_tower.embeddings.cls_token"),
        (r"vision\.position_embedding", "vision_tower.embeddings.position_embeddings"),
        (r"vision\.patch_embedding\.", "vision_tower.embeddings.patch_embeddings.projection."),
        (r"connector\.", "multi_modal_projector."),
        (r"language\.lm_head\.", "language_model.lm_head."),
        (r"language\.", "language_model.model."),
    ),
}
_QKV = re.compile(r"vision\.layers\.(\d+)\.attn\.qkv\.(weight|bias)")
# transformers writes hf checkpoints in either spelling, depending on its version.
_HF_SPELLINGS = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)


def tensor_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Return the shape of every parameter of `MagicModel(config)` by its name there, in the order of the modules."""
    return {**_vision_shapes(config), **_connector_shapes(config), **_language_shapes(config)}


def stored_names(name: str, layout: Layout) -> tuple[str, ...]:
    """Return the tensors of a layout that `name` is made of, to be joined along the first axis.

    Only the hf layout splits: query, key and value of the vision tower.
    """
    qkv = _QKV.fullmatch(name)
    if qkv and layout is Layout.HF:
        block = f"vision_tower.encoder.layer.{qkv[1]}.attention"
        return tuple(f"{block}.{part}_proj.{qkv[2]}" for part in "qkv")
    for pattern, replacement in _RULES[layout]:
        renamed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return (renamed,)
    raise KeyError(name)


def plain_spelling(stored: str, layout: Layout) -> str:
    """Return the one spelling of a stored name that `stored_names` uses."""
    if layout is Layout.HF:
        for prefix, plain in _HF_SPELLINGS:
            if stored.startswith(prefix):
                return plain + stored[len(prefix) :]
    return stored


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> dict[str, Shape]:
    weight: dict[str, Shape] = {f"{name}.weight": (outputs, inputs)}
    return {**weight, f"{name}.bias": (outputs,)} if bias else weight


def _norm(name: str, size: int) -> dict[str, Shape]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _vision_shapes(config: ModelConfig) -> dict[str, Shape]:
    vision = config.vision
    size, inner = vision.hidden_size, vision.intermediate_size
    shapes: dict[str, Shape] = {
        "vision.class_embedding": (1, 1, size),
        "vision.position_embedding": (1, vision.grid**2 + 1, size),
        "vision.patch_embedding.weight": (size, 3, vision.patch_size, vision.patch_size),
        "vision.patch_embedding.bias": (size,),
    }
    for place in range(vision.layers):
        block = f"vision.layers.{place}"
        shapes |= {f"{block}.ls1": (size,), f"{block}.ls2": (size,)}
        shapes |= _norm(f"{block}.norm1", size)
        shapes |= _linear(f"{block}.attn.qkv", size, 3 * size, vision.qkv_bias)
        shapes |= _linear(f"{block}.attn.proj", size, size)
        shapes |= _norm(f"{block}.norm2", size)
        shapes |= _linear(f"{block}.mlp.fc1", size, inner)
        shapes |= _linear(f"{block}.mlp.fc2", inner, size)
    return shapes


def _connector_shapes(config: ModelConfig) -> dict[str, Shape]:
    return {
        **_norm("connector.layer_norm", config.connector_size),
        **_linear("connector.linear_1", config.connector_size, config.dim),
        **_linear("connector.linear_2", config.dim, config.dim),
    }


def _language_shapes(config: ModelConfig) -> dict[str, Shape]:
    language = config.language
    size, inner, shared = language.hidden_size, language.intermediate_size, language.kv_heads * language.head_dim
    shapes: dict[str, Shape] = {"language.embed_tokens.weight": (language.vocab_size, size)}
    for place in range(language.layers):
        block = f"language.layers.{place}"
        shapes[f"{block}.input_layernorm.weight"] = (size,)
        shapes |= _linear(f"{block}.self_attn.q_proj", size, size)
        shapes |= _linear(f"{block}.self_attn.k_proj", size, shared)
        shapes |= _linear(f"{block}.self_attn.v_proj", size, shared)
        shapes |= _linear(f"{block}.self_attn.o_proj", size, size, bias=False)
        shapes[f"{block}.post_attention_layernorm.weight"] = (size,)
        shapes |= _linear(f"{block}.mlp.gate_proj", size, inner, bias=False)
        shapes |= _linear(f"{block}.mlp.up_proj", size, inner, bias=False)
        shapes |= _linear(f"{block}.mlp.down_proj", inner, size, bias=False)
    shapes["language.norm.weight"] = (size,)
    if config.head is Head.UNTIED:
        shapes["language.lm_head.weight"] = (language.vocab_size, size)
    return shapes
