"""Lengths of sequences for runtimes whose graphs have fixed shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from magicmm import ErrorCode, MagicError
from magicmm_model.config import ModelConfig

BUCKETS = (32, 96, 384)
"""Tokens behind the prefix: a query; a photo or a photo with words; a document of five tiles. The longest prompt of the
model is added."""


def choose_buckets(config: ModelConfig, roles: Mapping[str, Any], wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Return the lengths that the language part is lowered for, shortest first.

    Args:
        config: The variant that is exported.
        roles: As the manifest lists them.
        wanted: Lengths, or None for the published ones.

    Raises:
        MagicError: `argument_invalid` for a length that is no length, and when a photo of some role does not fit.
    """
    if wanted is None:
        return (*(length for length in BUCKETS if length < config.max_tokens), config.max_tokens)
    if not wanted or min(wanted) < 1 or max(wanted) > config.max_tokens:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"Buckets of {', '.join(map(str, wanted)) or 'no'} tokens do not fit the model's 1 to {config.max_tokens}.",
            "Give lengths such as 32,96,384.",
        )
    largest = max(wanted)
    for name, role in roles.items():
        tiles = role["max_tiles"] + (role["max_tiles"] > 1)  # and the thumbnail
        around = sum(len(role[part]) for part in ("image_before", "image_after", "tail"))
        needed = around + tiles * config.tile_tokens
        if needed > largest:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"A photo of the role {name} takes {needed} tokens, the largest bucket {largest}.",
                f"Add a bucket of at least {needed}.",
            )
    return tuple(sorted(set(wanted)))
