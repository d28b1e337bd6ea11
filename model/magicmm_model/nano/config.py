"""Shapes of the built-in model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from magicmm.errors import ErrorCode, MagicError

MODEL_TYPE = "magicmm_nano"
CLS, SEP, PAD = 101, 102, 0
CELL_SHARE, GLOBAL_WEIGHT = 0.7, 0.5
"""Of the concept bank: part of a cell's logits that is its own, and weight of the whole picture."""


@dataclass(frozen=True, slots=True)
class NanoConfig:
    """Shapes and constants.

    Attributes:
        channels: Of the feature map.
        cells: Visual tokens after the compression (a 4 x 4 grid), without the global one.
        classes: Of the classifier that the connector's hidden layer starts as.
        kept: Classes that a visual token is mixed from.
        local_share: Part of a visual token that is its own cell; the rest is the mean of all cells.
        vocab: Token rows.
        positions: Longest sequence, visual tokens counted.
        width: Of the encoder, and length of vectors.
        layers: Of the encoder.
        heads: Of attention.
        inner: Width inside feed-forward blocks.
        rank: Of the adapters.
        bank_kept: Concepts that count in the concept bank.
        bank_power: Their chances to this power weigh them.
        teacher_kept: Concepts that count in what the encoder is taught.
        colour_weight: Of the colours in a photo's vector; what the bank says weighs 1.
        encoder_weight: Of what the encoder says there.
        both_weight: Of photo and words read together, in the vector of a query of both; the photo's vector weighs 1.
        matryoshka: Shorter lengths that vectors may be cut to.
    """

    channels: int = 1280
    cells: int = 16
    classes: int = 1000
    kept: int = 16
    local_share: float = 1.0
    vocab: int = 30522
    positions: int = 512
    width: int = 384
    layers: int = 6
    heads: int = 12
    inner: int = 1536
    rank: int = 16
    bank_kept: int = 50
    bank_power: float = 0.7
    teacher_kept: int = 200
    colour_weight: float = 0.3
    encoder_weight: float = 0.6
    both_weight: float = 0.3
    matryoshka: tuple[int, ...] = (256, 128)

    def to_json(self) -> dict[str, Any]:
        """Return what `config.json` says."""
        return {"model_type": MODEL_TYPE, **asdict(self), "matryoshka": list(self.matryoshka)}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> NanoConfig:
        """Read what `to_json` wrote.

        Raises:
            MagicError: `checkpoint_invalid` for anything else.
        """
        names = {field.name for field in fields(cls)}
        if facts.get("model_type") != MODEL_TYPE or set(facts) - {"model_type"} != names:
            raise MagicError(
                ErrorCode.CHECKPOINT_INVALID,
                f"The configuration is not one of {MODEL_TYPE}.",
                "Give a folder that `python -m magicmm_export.nano.base` or training wrote.",
            )
        values = {name: facts[name] for name in names}
        return cls(**{**values, "matryoshka": tuple(facts["matryoshka"])})
