"""The units of a model: matrices that read the same input, merged along the output axis, under the names recipes match.

vision.patches
vision.layers.{i}.qkv | .proj | .fc1 | .fc2
connector.linear_1 | connector.linear_2
language.layers.{i}.qkv | .o | .gate_up | .down
tokens                                              the token table, which is no linear
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magicmm_model.naming import tensor_shapes

if TYPE_CHECKING:
    from magicmm_model.config import ModelConfig

PATCHES = "vision.patches"
TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Feed:
    """Which rows of a unit are, channel by channel, the input of another one: smoothing can move between the two.

    Attributes:
        unit: The one that reads them.
        start: First row.
        copies: How many heads of the reader read each row (grouped-query attention), 1 for all others.
        width: Rows of a head; of all of them where nothing is copied.
    """

    unit: str
    start: int
    copies: int
    width: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How one unit comes from the modules of a checkpoint.

    Attributes:
        parts: The modules that are merged, in the order of the rows.
        norm: The norm in front, whose gain and bias the unit takes over.
        layer_scale: The tensor that its output is multiplied by.
        reads_stream: Its input is the language model's residual stream, which may be rotated.
        writes_stream: Its output is added to that stream.
        feed: The reader of its output, where smoothing can reach it.
    """

    parts: tuple[str, ...]
    norm: str | None = None
    layer_scale: str | None = None
    reads_stream: bool = False
    writes_stream: bool = False
    feed: Feed | None = None


def unit_plans(config: ModelConfig) -> dict[str, Plan]:
    """Return the plan of every unit that is a plain linear (all but patches and tokens), in graph order."""
    plans: dict[str, Plan] = {}
    for place in range(config.vision.layers):
        plans |= _vision_layer(f"vision.layers.{place}", config.vision.hidden_size)
    plans["connector.linear_1"] = Plan(("connector.linear_1",), norm="connector.layer_norm")
    plans["connector.linear_2"] = Plan(("connector.linear_2",), writes_stream=True)
    for place in range(config.language.layers):
        plans |= _language_layer(f"language.layers.{place}", config)
    return plans


def unit_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return [outputs, inputs] of every unit in graph order, the token table (vocabulary, width) last."""
    shapes = tensor_shapes(config)
    sizes = {PATCHES: (config.vision.hidden_size, 3 * config.vision.patch_size**2)}
    for unit, plan in unit_plans(config).items():
        weights = [shapes[f"{part}.weight"] for part in plan.parts]
        sizes[unit] = (sum(rows for rows, _ in weights), weights[0][1])
    return {**sizes, TOKENS: (config.language.vocab_size, config.dim)}


def _vision_layer(block: str, size: int) -> dict[str, Plan]:
    values = Feed(f"{block}.proj", start=2 * size, copies=1, width=size)
    return {
        f"{block}.qkv": Plan((f"{block}.attn.qkv",), norm=f"{block}.norm1", feed=values),
        f"{block}.proj": Plan((f"{block}.attn.proj",), layer_scale=f"{block}.ls1"),
        f"{block}.fc1": Plan((f"{block}.mlp.fc1",), norm=f"{block}.norm2"),
        f"{block}.fc2": Plan((f"{block}.mlp.fc2",), layer_scale=f"{block}.ls2"),
    }


def _language_layer(block: str, config: ModelConfig) -> dict[str, Plan]:
    language = config.language
    keys = language.kv_heads * language.head_dim
    copies = language.heads // language.kv_heads
    values = Feed(f"{block}.o", start=language.hidden_size + keys, copies=copies, width=language.head_dim)
    up = Feed(f"{block}.down", start=language.intermediate_size, copies=1, width=language.intermediate_size)
    return {
        f"{block}.qkv": Plan(
            tuple(f"{block}.self_attn.{letter}_proj" for letter in "qkv"),
            norm=f"{block}.input_layernorm",
            reads_stream=True,
            feed=values,
        ),
        f"{block}.o": Plan((f"{block}.self_attn.o_proj",), writes_stream=True),
        f"{block}.gate_up": Plan(
            (f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj"),
            norm=f"{block}.post_attention_layernorm",
            reads_stream=True,
            feed=up,
        ),
        f"{block}.down": Plan((f"{block}.mlp.down_proj",), writes_stream=True),
    }
