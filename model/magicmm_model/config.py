"""The shapes of one model: the InternVL3 family (paper fact sheet 1.5) and how a run uses them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from magicmm.errors import ErrorCode, MagicError

UNSHUFFLE = 2
"""InternVL's pixel unshuffle: 2 x 2 grid cells become one visual token (`downsample_ratio` 0.5)."""


class Head(str, Enum):
    """Where next-token logits come from."""

    TIED = "tied"
    """The token embeddings, transposed."""
    UNTIED = "untied"
    """A matrix of its own, as in the published 2B and 8B."""
    NONE = "none"
    """A pure embedder: no logits."""


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """InternViT: pre-norm blocks with LayerScale, a class token and absolute positions.

    Attributes:
        image_size: Side of a tile in pixels; fixes the number of positions.
        patch_size: Side of a patch in pixels.
        norm_eps: Epsilon of every LayerNorm.
        qkv_bias: Whether query, key and value have biases.
    """

    hidden_size: int = 1024
    layers: int = 24
    heads: int = 16
    intermediate_size: int = 4096
    image_size: int = 448
    patch_size: int = 14
    norm_eps: float = 1e-6
    qkv_bias: bool = True

    @property
    def grid(self) -> int:
        """Patches along one side of a tile."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, slots=True)
class LanguageConfig:
    """Qwen2.5: grouped-query attention with biases on query, key and value, RMSNorm, SwiGLU, rotary positions.

    Attributes:
        max_positions: Longest sequence. Published checkpoints announce dynamic NTK scaling of the rotary positions,
            which does nothing up to this length and is therefore not implemented; longer sequences are refused.
    """

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int = 151674
    norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_positions: int = 32768

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that shapes of tensors and the meaning of a vector depend on, but for the roles.

    Attributes:
        compression: Factor by which the patch grid shrinks before the pixel unshuffle (paper section 3.2):
            2 = compressed, 1 = vanilla InternVL3.
        head: Where next-token logits come from.
        pooling: The hidden state that becomes the vector: that of the last token of the closing template.
        system_prompt: Whether prompts begin with InternVL's own system message.
        max_tokens: Longest prompt; text beyond it is cut before the closing tokens.

    Raises:
        MagicError: `checkpoint_invalid` when sizes do not fit each other.
    """

    vision: VisionConfig
    language: LanguageConfig
    compression: int = 2
    head: Head = Head.UNTIED
    pooling: str = field(default="last_token", init=False)
    system_prompt: bool = True
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        """Refuse sizes that do not divide."""
        vision, language = self.vision, self.language
        problems = [
            f"{name} {value} is not a positive multiple of {divisor} ({why})"
            for name, value, divisor, why in (
                ("vision hidden size", vision.hidden_size, vision.heads, "heads"),
                ("language hidden size", language.hidden_size, 2 * language.heads, "heads of even width"),
                ("language heads", language.heads, language.kv_heads, "key/value heads"),
                (
                    "image size",
                    vision.image_size,
                    vision.patch_size * self.compression * UNSHUFFLE,
                    f"patch {vision.patch_size} x compression {self.compression} x unshuffle {UNSHUFFLE}",
                ),
            )
            if value < 1 or divisor < 1 or value % divisor
        ]
        if self.compression not in (1, 2):
            problems.insert(0, f"compression is {self.compression}, not 1 or 2")
        if not 0 < self.max_tokens <= language.max_positions:
            problems.append(f"max_tokens {self.max_tokens} is not between 1 and {language.max_positions}")
        if problems:
            raise MagicError(
                ErrorCode.CHECKPOINT_INVALID,
                f"The sizes of the model do not fit each other: {'; '.join(problems)}.",
                "Correct config.json or the chosen variant (448 px with compression 1 or 2, 224 px with 1).",
            )

    @property
    def dim(self) -> int:
        """Length of a vector: the hidden size of the language model."""
        return self.language.hidden_size

    @property
    def tile_tokens(self) -> int:
        """Visual tokens of one tile: 64 at 448 px with compression 2, 256 without, 64 at 224 px without."""
        return (self.vision.grid // self.compression // UNSHUFFLE) ** 2

    @property
    def connector_size(self) -> int:
        """Width of a visual token before the connector."""
        return self.vision.hidden_size * UNSHUFFLE**2

    def variant(
        self, *, compression: int | None = None, image_size: int | None = None, head: Head | None = None
    ) -> ModelConfig:
        """Return the same model run at another compression, tile side or head; None keeps what there is.

        Raises:
            MagicError: `argument_invalid` when the sizes do not fit each other.
        """
        side = self.vision.image_size if image_size is None else image_size
        try:
            return replace(
                self,
                vision=replace(self.vision, image_size=side),
                compression=self.compression if compression is None else compression,
                head=head or self.head,
            )
        except MagicError as error:
            raise MagicError(ErrorCode.ARGUMENT_INVALID, error.message, error.remedy) from None


FAMILY = {
    "1B": ModelConfig(VisionConfig(), LanguageConfig(896, 24, 14, 2, 4864)),
    "2B": ModelConfig(VisionConfig(), LanguageConfig(1536, 28, 12, 2, 8960)),
    "8B": ModelConfig(VisionConfig(), LanguageConfig(3584, 28, 28, 4, 18944)),
}
"""The published sizes that this package runs. All three share one vision tower."""
