"""Tiny InternVL3 checkpoints, written by transformers itself, so that what we read was never written by us.

All weights are random: norms, LayerScale and biases too, so that a forgotten one shows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

WORDS = (
    "Represent the given image. Find me an everyday image that matches the given query. Query: Text: Instruct: "
    "user assistant system a dog on the beach at sunset, a printed page of text; 书生·万象 多模态大语言模型\n\n"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
# The pattern by which Qwen2.5's tokenizer cuts text before its byte-level BPE.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_tokenizer(folder: Path, texts: Sequence[str] = (WORDS,), vocab_size: int = 320) -> Tokenizer:
    """Write a byte-level BPE tokenizer of Qwen's kind, with InternVL's special tokens after its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*texts] * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def tiny_config(**changes: Any) -> dict[str, Any]:
    """Return the hf config of a model with 2 + 3 layers; `changes` replaces values of `text_config`."""
    return {
        "image_token_id": -1,
        "vision_config": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "image_size": [448, 448],
            "patch_size": [14, 14],
            "attention_bias": True,
        },
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "intermediate_size": 80,
            "vocab_size": 400,
            "max_position_embeddings": 2048,
            "rope_theta": 1e6,
            "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
            "tie_word_embeddings": False,
            **changes,
        },
    }


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Fill every parameter with values that keep activations of order one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        gain = (parameter.ndim == 1 and name.endswith("weight")) or "lambda" in name
        width = parameter[0].numel() if parameter.ndim > 1 and ("embed" not in name or "patch" in name) else 1
        parameter.data = (1 + 0.3 * noise if gain else noise * (1.4 / width**0.5 if width > 1 else 0.3)).to(
            parameter.dtype
        )


def hf_model(folder: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Write a tokenizer and return transformers' model with random weights, ready for `save_pretrained(folder)`."""
    transformers: Any = import_module("transformers")  # it is slow to import, and half typed
    folder.mkdir(parents=True, exist_ok=True)
    context = write_tokenizer(folder).token_to_id("<IMG_CONTEXT>")
    config = transformers.InternVLConfig(**{**tiny_config(**changes), "image_token_id": context})
    model = transformers.InternVLForConditionalGeneration(config).eval()
    randomise(model)
    return model.to(dtype)


def write_checkpoint(folder: Path, dtype: torch.dtype = torch.float32, shard: str = "5GB", **changes: Any) -> Any:
    """Write a tiny hf checkpoint and return transformers' model of the same weights."""
    model = hf_model(folder, dtype, **changes)
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def edit_config(folder: Path, **changes: Any) -> None:
    """Change top-level keys of `config.json`; a dict changes keys of a section, None removes."""
    path = folder / "config.json"
    data = json.loads(path.read_text())
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(data.get(key), dict):
            data[key] |= value
        elif value is None:
            data.pop(key)
        else:
            data[key] = value
    path.write_text(json.dumps(data))


NOISE: dict[str, Any] = {
    "_attn_implementation_autoset": True,
    "bad_words_ids": None,
    "bos_token_id": 151643,
    "moe_config": None,
    "torch_dtype": "bfloat16",
    "use_bfloat16": True,
    "transformers_version": None,
}


def published_config() -> dict[str, Any]:
    """Return the config of the authors' InternVL3-2B, with keys that we have no use for."""
    return {
        "_commit_hash": None,
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": 448,
        "hidden_size": 1536,
        "llm_config": {
            **NOISE,
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "max_position_embeddings": 32768,
            "max_window_layers": 70,
            "model_type": "qwen2",
            "num_attention_heads": 12,
            "num_hidden_layers": 28,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "use_sliding_window": False,
            "vocab_size": 151674,
        },
        "max_dynamic_patch": 12,
        "model_type": "internvl_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "transformers_version": None,
        "use_thumbnail": True,
        "vision_config": {
            **NOISE,
            "architectures": ["InternVisionModel"],
            "auto_map": {"AutoModel": "modeling_intern_vit.InternVisionModel"},
            "drop_path_rate": 0.0,
            "hidden_act": "gelu",
            "hidden_size": 1024,
            "image_size": 448,
            "intermediate_size": 4096,
            "layer_norm_eps": 1e-06,
            "model_type": "intern_vit_6b",
            "norm_type": "layer_norm",
            "num_attention_heads": 16,
            "num_channels": 3,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "qk_normalization": False,
            "qkv_bias": True,
            "use_flash_attn": True,
        },
    }
