"""Broken `config.json` files: whatever stands in them, one MagicError names the key."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magicmm import ErrorCode, MagicError
from magicmm_model.config import FAMILY
from magicmm_model.config_json import Layout, config_json, parse_config, read_config
from tiny_checkpoints import published_config

Config = dict[str, Any]
ORIGINAL = published_config() | {"magicmm": config_json(FAMILY["2B"], Layout.ORIGINAL, "float32")["magicmm"]}
HF = config_json(FAMILY["2B"], Layout.HF, "float32")


def invalid(data: object) -> str:
    with pytest.raises(MagicError) as caught:
        parse_config(data)
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID
    return f"{caught.value.message} {caught.value.remedy}"


def changed(data: Config, section: str, key: str, value: object) -> Config:
    return {**data, section: {**data[section], key: value}}


WRONG_NUMBERS: list[object] = [
    "28", None, True, -28, 0, [28], [28, 29], {}, 28.5, float("nan"), float("inf"), 10**400, 10**12, [[28, 28]]
]  # fmt: skip


@pytest.mark.parametrize("value", WRONG_NUMBERS, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size"])
def test_a_size_is_a_whole_number_above_zero(value: object, key: str) -> None:
    assert f"llm_config.{key}" in invalid(changed(ORIGINAL, "llm_config", key, value))


@pytest.mark.parametrize("value", [value for value in WRONG_NUMBERS if value != 28.5], ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
def test_an_epsilon_is_a_finite_number_above_zero(value: object, key: str) -> None:
    assert f"llm_config.{key}" in invalid(changed(ORIGINAL, "llm_config", key, value))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("magicmm", "compression", True),
        ("magicmm", "compression", 2.0),
        ("magicmm", "compression", "2"),
        ("magicmm", "system_prompt", 1),
        ("magicmm", "system_prompt", "false"),
        ("magicmm", "head", ["none"]),
        ("text_config", "tie_word_embeddings", 1),
        ("text_config", "tie_word_embeddings", None),
        ("text_config", "use_sliding_window", 0),
        ("vision_config", "attention_bias", "yes"),
        ("vision_config", "num_channels", 3.0),
    ],
)
def test_a_switch_or_a_choice_of_another_type_is_refused(section: str, key: str, value: object) -> None:
    assert f"{section}.{key}" in invalid(changed(HF, section, key, value))


@pytest.mark.parametrize("section", ["text_config", "vision_config", "magicmm"])
@pytest.mark.parametrize("value", [[], "x", 3, True])
def test_a_section_that_is_no_object_is_refused(section: str, value: object) -> None:
    assert section in invalid({**HF, section: value})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def leaves(data: Config, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in data.items():
        found += [(*path, key)] + (leaves(value, (*path, key)) if isinstance(value, dict) else [])
    return found


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_stands_in_the_file_only_magic_errors_come_out(data: st.DataObject) -> None:
    config: Config = deepcopy(data.draw(st.sampled_from([HF, ORIGINAL])))
    for path in data.draw(st.lists(st.sampled_from(leaves(config)), min_size=1, max_size=4)):
        inner: Any = config
        for key in path[:-1]:
            inner = inner[key] if isinstance(inner, dict) and key in inner else {}
        if isinstance(inner, dict):
            inner[path[-1]] = data.draw(JSON)
    try:
        _, parsed = parse_config(config)
    except MagicError as error:
        assert error.code is ErrorCode.CHECKPOINT_INVALID
    else:
        assert type(parsed.tile_tokens) is int
        assert parsed.tile_tokens > 0


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"\xef\xbb\xbf{}"],
    ids=lambda content: repr(content[:6]),
)
def test_a_file_that_is_not_json_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(MagicError) as caught:
        read_config(tmp_path)
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID
    assert str(tmp_path / "config.json") in caught.value.message


def test_a_folder_without_config_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(MagicError) as caught:
        read_config(tmp_path)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
