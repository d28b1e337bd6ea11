"""Published sizes of the family, token counts, and sizes that do not fit each other."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import pytest

from magicmm import ErrorCode, MagicError
from magicmm_model.config import FAMILY, Head, ModelConfig
from magicmm_model.naming import tensor_shapes

# Millions, from the fact sheet of the paper (section 1.5).
PUBLISHED = {"vision": 304.0, "connector": 8.66, "language": 1543.3}


def millions(config: ModelConfig) -> dict[str, float]:
    counts = dict.fromkeys(PUBLISHED, 0.0)
    for name, shape in tensor_shapes(config).items():
        counts[name.partition(".")[0]] += prod(shape) / 1e6
    return counts


def test_the_2b_has_the_published_number_of_parameters() -> None:
    embedder = millions(FAMILY["2B"].variant(head=Head.NONE))
    assert embedder["vision"] == pytest.approx(PUBLISHED["vision"], abs=0.05)
    assert embedder["connector"] == pytest.approx(PUBLISHED["connector"], abs=0.005)
    assert embedder["language"] == pytest.approx(PUBLISHED["language"], abs=0.05)
    assert sum(embedder.values()) == pytest.approx(1856, abs=0.5)


@pytest.mark.parametrize(
    ("size", "head", "total"),
    [("2B", Head.UNTIED, 2089), ("2B", Head.TIED, 1856), ("8B", Head.UNTIED, 7944)],
)
def test_totals_with_a_head(size: str, head: Head, total: float) -> None:
    assert sum(millions(FAMILY[size].variant(head=head)).values()) == pytest.approx(total, abs=1)


@pytest.mark.parametrize(("size", "dim"), [("1B", 896), ("2B", 1536), ("8B", 3584)])
def test_a_vector_is_as_long_as_a_hidden_state(size: str, dim: int) -> None:
    assert FAMILY[size].dim == dim


@pytest.mark.parametrize("size", list(FAMILY))
def test_all_sizes_share_one_vision_tower(size: str) -> None:
    assert FAMILY[size].vision == FAMILY["2B"].vision


@pytest.mark.parametrize(("side", "compression", "tokens"), [(448, 1, 256), (448, 2, 64), (224, 1, 64)])
def test_visual_tokens_of_a_tile(side: int, compression: int, tokens: int) -> None:
    assert FAMILY["2B"].variant(image_size=side, compression=compression).tile_tokens == tokens


def test_a_variant_keeps_what_is_not_asked_for() -> None:
    config = replace(FAMILY["2B"], compression=1, head=Head.TIED, max_tokens=99, system_prompt=False)
    assert config.variant() == config
    changed = config.variant(compression=2, image_size=896, head=Head.NONE)
    assert (changed.compression, changed.vision.image_size, changed.head) == (2, 896, Head.NONE)
    assert (changed.max_tokens, changed.system_prompt, changed.language) == (99, False, config.language)
    assert config.vision.image_size == 448


@pytest.mark.parametrize(
    "changes",
    [
        {"compression": 0},
        {"compression": 3},
        {"compression": -2},
        {"image_size": 0},
        {"image_size": -448},
        {"image_size": 450},
        {"image_size": 252},  # 18 patches: halved once, not twice
    ],
    ids=str,
)
def test_a_variant_that_does_not_fit_is_a_wrong_argument(changes: dict[str, Any]) -> None:
    with pytest.raises(MagicError) as caught:
        FAMILY["2B"].variant(**changes)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert str(next(iter(changes.values()))) in caught.value.message


def test_all_sizes_that_do_not_fit_are_named_at_once() -> None:
    config = FAMILY["2B"]
    with pytest.raises(MagicError) as caught:
        replace(
            config,
            vision=replace(config.vision, hidden_size=1000, image_size=450),
            language=replace(config.language, hidden_size=1540, kv_heads=5),
            compression=3,
            max_tokens=40_000,
        )
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID
    for problem in (
        "compression is 3",
        "vision hidden size 1000",
        "language hidden size 1540",
        "language heads 12 is not a positive multiple of 5",
        "image size 450",
        "max_tokens 40000",
    ):
        assert problem in caught.value.message


@pytest.mark.parametrize("part", ["vision", "language"])
@pytest.mark.parametrize("value", [0, -4])
def test_sizes_below_one_are_refused(part: str, value: int) -> None:
    config = FAMILY["2B"]
    with pytest.raises(MagicError):
        replace(config, **{part: replace(getattr(config, part), heads=value)})


def test_heads_of_odd_width_cannot_be_rotated() -> None:
    language = replace(FAMILY["2B"].language, hidden_size=12 * 127)
    with pytest.raises(MagicError, match="even width"):
        replace(FAMILY["2B"], language=language)
