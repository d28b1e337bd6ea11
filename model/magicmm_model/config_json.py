"""`config.json` of both layouts: `OpenGVLab/InternVL3-2B-hf` and the original `OpenGVLab/InternVL3-2B`.

What this package adds stands under one key of its own, `magicmm`; other readers ignore it.
"""

from __future__ import annotations

import json
from enum import Enum
from reprlib import repr as short
from typing import TYPE_CHECKING, Any, TypeVar

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.config import UNSHUFFLE, Head, LanguageConfig, ModelConfig, VisionConfig

if TYPE_CHECKING:
    from pathlib import Path

IMAGE_TOKEN_ID = 151667
"""`<IMG_CONTEXT>` in the published vocabularies; written into hf configs when the tokenizer does not say otherwise."""
SUPPORTED = "InternVL3 with InternViT-300M and Qwen2.5 (the 1B, 2B and 8B of the family), in either layout"

MAX_NUMBER = 1 << 31
"""No size of the family comes near; without a limit, a broken file could ask for more than any memory holds."""
MAX_LAYERS = 1000

Number = TypeVar("Number", int, float)


class Layout(str, Enum):
    """The two ways in which InternVL3 checkpoints are published."""

    HF = "hf"
    """Tensor names of transformers' InternVL classes."""
    ORIGINAL = "original"
    """Tensor names of the authors' repository; its Python files are never read."""


_LAYOUTS = {"internvl": Layout.HF, "internvl_chat": Layout.ORIGINAL}


class _Section:
    """One JSON object; whatever is wrong with its keys is collected, so that one error can name it all."""

    def __init__(self, data: object, name: str, problems: list[str]) -> None:
        if not isinstance(data, dict):
            problems.append(f"{name or 'the file'} is missing or no object")
        self._data = data if isinstance(data, dict) else {}
        self._prefix = f"{name}." if name else ""
        self._problems = problems

    def section(self, key: str, optional: bool = False) -> _Section:
        data = self._data.get(key)
        return _Section({} if optional and data is None else data, self._prefix + key, self._problems)

    def has(self, key: str) -> bool:
        return key in self._data

    def number(self, key: str, kind: type[Number], default: Number | None = None, most: int = MAX_NUMBER) -> Number:
        """Return a number above zero; [448, 448] is read as 448."""
        value: Any = self._data.get(key, default)
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        if type(value) in (kind, int) and 0 < value <= most:
            return kind(value)
        name = "a whole number" if kind is int else "a number"
        self._problems.append(f"{self._prefix}{key} is {short(value)}, not {name} above 0 and up to {most}")
        return kind(1)

    def switch(self, key: str, default: bool) -> bool:
        value = self._data.get(key, default)
        if not isinstance(value, bool):
            self._problems.append(f"{self._prefix}{key} is {short(value)}, not true or false")
        return value is True

    def choice(self, key: str, default: Any, allowed: tuple[Any, ...]) -> Any:
        """Return one of the values that this package runs."""
        value = self._data.get(key, default)
        if type(value) is not type(allowed[0]) or value not in allowed:  # by type: to Python, true is 1
            listed = " or ".join(map(repr, allowed))
            self._problems.append(f"{self._prefix}{key} is {short(value)}, supported is {listed}")
            return allowed[0]
        return value


def read_config(folder: Path) -> tuple[Layout, ModelConfig]:
    """Read `config.json` of a checkpoint folder.

    Raises:
        MagicError: `source_unavailable` without the file; `checkpoint_invalid` when it is no JSON object, of another
            family, or asks for something that this package does not run (all of it is listed).
    """
    path = folder / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE,
            f"{path} cannot be read: {error.strerror}.",
            "Give the folder of a checkpoint: config.json, tokenizer.json and *.safetensors.",
        ) from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested too deep
        raise _invalid(f"{path} is not JSON: {error}.", "Copy the checkpoint again.") from None
    return parse_config(data)


def parse_config(data: object) -> tuple[Layout, ModelConfig]:
    """Return the layout that a `config.json` announces, and its shapes.

    Raises:
        MagicError: See `read_config`.
    """
    kind = data.get("model_type") if isinstance(data, dict) else None
    layout = _LAYOUTS.get(kind) if isinstance(kind, str) else None
    if layout is None:
        raise _invalid(f"The checkpoint is of the family {short(kind)}.", f"Supported is {SUPPORTED}.")
    problems: list[str] = []
    root = _Section(data, "", problems)
    text = root.section("text_config" if layout is Layout.HF else "llm_config")
    vision, language = _vision(root.section("vision_config"), layout), _language(text)
    _check_connection(root, layout)
    ours = root.section("magicmm", optional=True)
    stored = Head.TIED if text.choice("tie_word_embeddings", False, (False, True)) else Head.UNTIED
    head = Head(ours.choice("head", stored.value, (stored.value, Head.NONE.value)))
    compression = ours.choice("compression", 2, (2, 1))
    ours.choice("pooling", "last_token", ("last_token",))
    system_prompt = ours.switch("system_prompt", True)
    max_tokens = ours.number("max_tokens", int, min(1024, language.max_positions))
    if problems:
        raise _invalid(f"config.json: {'; '.join(problems)}.", f"Supported is {SUPPORTED}.")
    return layout, ModelConfig(vision, language, compression, head, system_prompt, max_tokens)


def _vision(section: _Section, layout: Layout) -> VisionConfig:
    if layout is Layout.HF:
        section.choice("use_qk_norm", False, (False,))
        section.choice("use_absolute_position_embeddings", True, (True,))
    else:
        section.choice("qk_normalization", False, (False,))
    section.choice("norm_type", "layer_norm", ("layer_norm",))
    section.choice("hidden_act", "gelu", ("gelu",))
    section.choice("num_channels", 3, (3,))
    hf = layout is Layout.HF
    bias = section.switch("attention_bias", False) if hf else section.switch("qkv_bias", True)
    return VisionConfig(
        hidden_size=section.number("hidden_size", int, 1024),
        layers=section.number("num_hidden_layers", int, 24, MAX_LAYERS),
        heads=section.number("num_attention_heads", int, 16),
        intermediate_size=section.number("intermediate_size", int, 4096),
        image_size=section.number("image_size", int, 448),
        patch_size=section.number("patch_size", int, 14),
        norm_eps=section.number("layer_norm_eps", float, 1e-6),
        qkv_bias=bias,
    )


def _language(section: _Section) -> LanguageConfig:
    # "qwen3" here is InternVL3.5, whose attention has norms of its own.
    section.choice("model_type", "qwen2", ("qwen2",))
    section.choice("hidden_act", "silu", ("silu",))
    section.choice("use_sliding_window", False, (False,))
    # transformers 5 writes `rope_parameters`, earlier versions `rope_theta` and an optional `rope_scaling`.
    rope = section.section("rope_parameters") if section.has("rope_parameters") else section
    scaling = rope if rope is not section else section.section("rope_scaling", optional=True)
    for key in ("rope_type", "type"):  # the latter is the older spelling; published files have both
        scaling.choice(key, "default", ("default", "dynamic"))
    return LanguageConfig(
        hidden_size=section.number("hidden_size", int),
        layers=section.number("num_hidden_layers", int, most=MAX_LAYERS),
        heads=section.number("num_attention_heads", int),
        kv_heads=section.number("num_key_value_heads", int),
        intermediate_size=section.number("intermediate_size", int),
        vocab_size=section.number("vocab_size", int),
        norm_eps=section.number("rms_norm_eps", float, 1e-6),
        rope_theta=rope.number("rope_theta", float),
        max_positions=section.number("max_position_embeddings", int, 32768),
    )


def _check_connection(root: _Section, layout: Layout) -> None:
    """Refuse another way from the vision tower to the language model."""
    root.choice("downsample_ratio", 1 / UNSHUFFLE, (1 / UNSHUFFLE,))
    if layout is Layout.HF:
        root.choice("vision_feature_layer", -1, (-1,))
        root.choice("vision_feature_select_strategy", "default", ("default",))
        root.choice("projector_hidden_act", "gelu", ("gelu",))
    else:
        root.choice("select_layer", -1, (-1,))
        root.choice("ps_version", "v2", ("v2",))


def config_json(config: ModelConfig, layout: Layout, dtype: str, image_token: int = IMAGE_TOKEN_ID) -> dict[str, Any]:
    """Return the `config.json` that describes `config` in one of the layouts.

    Args:
        config: The shapes.
        layout: Who shall read it.
        dtype: Name of the stored type of the weights, such as "bfloat16".
        image_token: Id of `<IMG_CONTEXT>`; only the hf layout writes it down.
    """
    text = _language_json(config, dtype)
    ours = {
        "compression": config.compression,
        "head": config.head.value,
        "pooling": config.pooling,
        "system_prompt": config.system_prompt,
        "max_tokens": config.max_tokens,
    }
    if config.head is not Head.NONE:
        del ours["head"]  # told by tie_word_embeddings
    if layout is Layout.HF:
        return {
            "architectures": ["InternVLForConditionalGeneration"],
            "model_type": "internvl",
            "torch_dtype": dtype,
            "downsample_ratio": 1 / UNSHUFFLE,
            "image_seq_length": (config.vision.grid // UNSHUFFLE) ** 2,  # vanilla: transformers does not compress
            "image_token_id": image_token,
            "projector_hidden_act": "gelu",
            "tie_word_embeddings": config.head is Head.TIED,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
            "text_config": text,
            "vision_config": _vision_json(config, layout),
            "magicmm": ours,
        }
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "torch_dtype": dtype,
        "downsample_ratio": 1 / UNSHUFFLE,
        "dynamic_image_size": True,
        "force_image_size": config.vision.image_size,
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "tie_word_embeddings": config.head is Head.TIED,
        "use_thumbnail": True,
        "llm_config": {"architectures": ["Qwen2ForCausalLM"], **text},
        "vision_config": _vision_json(config, layout),
        "magicmm": ours,
    }


def _language_json(config: ModelConfig, dtype: str) -> dict[str, Any]:
    language = config.language
    return {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": language.hidden_size,
        "intermediate_size": language.intermediate_size,
        "max_position_embeddings": language.max_positions,
        "num_attention_heads": language.heads,
        "num_hidden_layers": language.layers,
        "num_key_value_heads": language.kv_heads,
        "rms_norm_eps": language.norm_eps,
        "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
        "rope_theta": language.rope_theta,
        "tie_word_embeddings": config.head is Head.TIED,
        "torch_dtype": dtype,
        "use_sliding_window": False,
        "vocab_size": language.vocab_size,
    }


def _vision_json(config: ModelConfig, layout: Layout) -> dict[str, Any]:
    vision = config.vision
    shared = {
        "hidden_act": "gelu",
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "layer_norm_eps": vision.norm_eps,
        "norm_type": "layer_norm",
        "num_attention_heads": vision.heads,
        "num_channels": 3,
        "num_hidden_layers": vision.layers,
    }
    if layout is Layout.HF:
        return {
            **shared,
            "model_type": "internvl_vision",
            "attention_bias": vision.qkv_bias,
            "image_size": [vision.image_size] * 2,
            "patch_size": [vision.patch_size] * 2,
            "use_absolute_position_embeddings": True,
            "use_qk_norm": False,
        }
    return {
        **shared,
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",  # the authors' name for every InternViT
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "qk_normalization": False,
        "qkv_bias": vision.qkv_bias,
    }


def _invalid(message: str, remedy: str) -> MagicError:
    return MagicError(ErrorCode.CHECKPOINT_INVALID, message, remedy)
