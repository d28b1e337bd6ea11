"""`config.json` of both layouts: as published, as transformers writes and reads it, and of other families."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, InternVLConfig

from magicmm import ErrorCode, MagicError
from magicmm_model.config import FAMILY, Head, ModelConfig
from magicmm_model.config_json import Layout, config_json, parse_config, read_config
from tiny_checkpoints import published_config

Config = dict[str, Any]


def hf() -> Config:
    """Return what transformers itself writes for InternVL3-2B."""
    text = {**published_config()["llm_config"], "architectures": ["Qwen2ForCausalLM"]}
    build: Any = InternVLConfig  # half typed
    written = build(vision_config={"attention_bias": True}, text_config=text)
    data: Config = json.loads(written.to_json_string(use_diff=True))
    return data


def newer_hf() -> Config:
    """Return the same in the manner of transformers 5."""
    data = hf()
    text = data["text_config"]
    text["rope_parameters"] = {"rope_theta": text.pop("rope_theta"), "rope_type": "dynamic", "factor": 2.0}
    del text["rope_scaling"]
    text.pop("torch_dtype", None)
    data["dtype"] = text["dtype"] = "bfloat16"
    return data


def invalid(data: object) -> str:
    with pytest.raises(MagicError) as caught:
        parse_config(data)
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID
    return f"{caught.value.message} {caught.value.remedy}"


@pytest.mark.parametrize(
    ("build", "layout"), [(published_config, Layout.ORIGINAL), (hf, Layout.HF), (newer_hf, Layout.HF)]
)
def test_published_configs_are_read(build: Callable[[], Config], layout: Layout) -> None:
    assert parse_config(build()) == (layout, FAMILY["2B"])


@pytest.mark.parametrize("rope", [None, {}, {"rope_type": "default"}], ids=str)
def test_models_without_rope_scaling_are_read(rope: object) -> None:
    data = hf()
    data["text_config"]["rope_scaling"] = rope
    assert parse_config(data)[1] == FAMILY["2B"]


def test_numbers_of_the_file_arrive_in_the_config() -> None:
    """Every number another, so that no two can be mixed up."""
    data = hf()
    data["text_config"] |= {"num_hidden_layers": 5, "rms_norm_eps": 1e-5, "rope_theta": 5e5, "vocab_size": 777}
    data["text_config"] |= {"max_position_embeddings": 4096, "intermediate_size": 99, "tie_word_embeddings": True}
    data["vision_config"] |= {"num_hidden_layers": 7, "intermediate_size": 88, "layer_norm_eps": 1e-4}
    data["vision_config"] |= {"image_size": [224, 224], "patch_size": [7, 7], "attention_bias": False}
    data["magicmm"] = {"compression": 1, "system_prompt": False, "max_tokens": 500}
    _, config = parse_config(data)
    language, vision = config.language, config.vision
    assert (language.layers, language.norm_eps, language.rope_theta, language.vocab_size) == (5, 1e-5, 5e5, 777)
    assert (language.max_positions, language.intermediate_size, config.head) == (4096, 99, Head.TIED)
    assert (language.hidden_size, language.heads, language.kv_heads) == (1536, 12, 2)
    assert (vision.layers, vision.intermediate_size, vision.norm_eps) == (7, 88, 1e-4)
    assert (vision.image_size, vision.patch_size, vision.qkv_bias) == (224, 7, False)
    assert (vision.hidden_size, vision.heads) == (1024, 16)
    assert (config.compression, config.system_prompt, config.max_tokens) == (1, False, 500)


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "qwen2_5_vl", "clip", None, 7, ["internvl"], {}])
def test_other_families_are_told_what_is_supported(kind: object) -> None:
    message = invalid({**hf(), "model_type": kind})
    assert "family" in message
    assert "InternVL3" in message


@pytest.mark.parametrize("data", [None, [], "internvl", 3, {}], ids=str)
def test_a_file_that_is_no_config_is_refused(data: object) -> None:
    assert "InternVL3" in invalid(data)


FOREIGN = [
    (hf, "text_config", "model_type", "qwen3"),  # InternVL3.5
    (hf, "text_config", "hidden_act", "gelu"),
    (hf, "text_config", "use_sliding_window", True),
    (hf, "text_config", "rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
    (hf, "text_config", "rope_scaling", {"type": "yarn", "factor": 4.0}),  # the older spelling
    (hf, "text_config", "rope_scaling", {"type": "linear", "factor": 4.0}),
    (newer_hf, "text_config", "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e6}),
    (newer_hf, "text_config", "rope_parameters", {"rope_type": "dynamic"}),
    (hf, "vision_config", "use_qk_norm", True),  # InternViT-6B
    (hf, "vision_config", "norm_type", "rms_norm"),
    (hf, "vision_config", "num_channels", 1),
    (hf, "vision_config", "use_absolute_position_embeddings", False),
    (hf, "", "downsample_ratio", 0.25),
    (hf, "", "vision_feature_layer", -4),
    (hf, "", "vision_feature_select_strategy", "full"),
    (hf, "", "projector_hidden_act", "relu"),
    (hf, "magicmm", "pooling", "mean"),
    (hf, "magicmm", "compression", 4),
    (hf, "magicmm", "head", "tied"),  # contradicts tie_word_embeddings
    (published_config, "llm_config", "model_type", "internlm2"),
    (published_config, "llm_config", "use_sliding_window", True),
    (published_config, "vision_config", "qk_normalization", True),
    (published_config, "vision_config", "norm_type", "rms_norm"),
    (published_config, "", "downsample_ratio", 0.25),
    (published_config, "", "select_layer", -4),
    (published_config, "", "ps_version", "v1"),
]


def changed(build: Callable[[], Config], section: str, key: str, value: object) -> Config:
    data = build()
    (data.setdefault(section, {}) if section else data)[key] = value
    return data


@pytest.mark.parametrize(("build", "section", "key", "value"), FOREIGN)
def test_what_this_package_does_not_run_is_refused_by_its_key(
    build: Callable[[], Config], section: str, key: str, value: object
) -> None:
    message = invalid(changed(build, section, key, value))
    assert f"{section}.{key}".lstrip(".") in message
    assert "InternVL3" in message


def test_all_problems_are_named_at_once() -> None:
    data = hf()
    data["text_config"] |= {"model_type": "qwen3", "vocab_size": -1}
    data["vision_config"] |= {"use_qk_norm": True, "norm_type": "rms_norm"}
    data["downsample_ratio"] = 0.25
    data["magicmm"] = {"max_tokens": "many"}
    message = invalid(data)
    for key in ("text_config.model_type", "text_config.vocab_size", "vision_config.use_qk_norm", "downsample_ratio"):
        assert key in message
    assert "vision_config.norm_type" in message
    assert "magicmm.max_tokens" in message


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "vocab_size", "rope_theta"])
def test_what_has_no_safe_default_must_be_there(key: str) -> None:
    data = hf()
    del data["text_config"][key]
    assert f"text_config.{key}" in invalid(data)


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("head", list(Head))
@pytest.mark.parametrize("compression", [1, 2])
def test_what_is_written_is_read_again(layout: Layout, head: Head, compression: int) -> None:
    config = replace(FAMILY["1B"], head=head, compression=compression, max_tokens=77, system_prompt=False)
    config = replace(config, vision=replace(config.vision, qkv_bias=False, image_size=224 * compression))
    config = replace(config, language=replace(config.language, rope_theta=12345.5, norm_eps=1e-5))
    text = json.dumps(config_json(config, layout, "bfloat16"))
    assert parse_config(json.loads(text)) == (layout, config)


def check_shapes(theirs: Any, ours: ModelConfig) -> None:
    text, vision = theirs.text_config, theirs.vision_config
    language = ours.language
    assert (text.model_type, text.hidden_size, text.vocab_size) == ("qwen2", ours.dim, language.vocab_size)
    assert (text.num_hidden_layers, text.intermediate_size) == (language.layers, language.intermediate_size)
    assert (text.num_attention_heads, text.num_key_value_heads) == (language.heads, language.kv_heads)
    assert (text.rope_theta, text.rms_norm_eps) == (language.rope_theta, language.norm_eps)
    assert (text.max_position_embeddings, text.use_sliding_window) == (language.max_positions, False)
    assert text.tie_word_embeddings is (ours.head is Head.TIED)
    assert (vision.hidden_size, vision.num_hidden_layers) == (ours.vision.hidden_size, ours.vision.layers)
    assert (vision.num_attention_heads, vision.intermediate_size) == (ours.vision.heads, ours.vision.intermediate_size)
    assert tuple(vision.image_size) == (ours.vision.image_size,) * 2
    assert tuple(vision.patch_size) == (ours.vision.patch_size,) * 2
    assert (vision.attention_bias, vision.layer_norm_eps) == (ours.vision.qkv_bias, ours.vision.norm_eps)
    assert (vision.use_qk_norm, vision.norm_type) == (False, "layer_norm")


@pytest.mark.parametrize("head", [Head.TIED, Head.UNTIED])
@pytest.mark.parametrize("size", list(FAMILY))
def test_transformers_reads_the_same_shapes(size: str, head: Head, tmp_path: Path) -> None:
    config = FAMILY[size].variant(head=head)
    (tmp_path / "config.json").write_text(json.dumps(config_json(config, Layout.HF, "bfloat16", image_token=4711)))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(theirs, InternVLConfig)
    check_shapes(theirs, config)
    assert (theirs.image_token_id, theirs.image_seq_length, str(theirs.dtype)) == (4711, 256, "torch.bfloat16")
    assert (theirs.downsample_ratio, theirs.vision_feature_layer) == (0.5, -1)


def test_a_file_that_transformers_wrote_is_read(folder: Path) -> None:
    layout, config = read_config(folder)
    assert layout is Layout.HF
    check_shapes(AutoConfig.from_pretrained(folder), config)
