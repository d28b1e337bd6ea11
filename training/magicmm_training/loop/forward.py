"""The model as one `forward`, which is what wrappers of parallel training need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.losses.next_token import next_token_loss

if TYPE_CHECKING:
    from magicmm_model.model import MagicModel


class TrainableModel(nn.Module):
    """Token ids and pixels to vectors, next-token logits or the next-token loss, whichever the arguments ask for.

    Attributes:
        model: What is trained.
        image_token_id: Id of `<IMG_CONTEXT>`.
        autocast: Type of the forward pass under autocast; None = that of the parameters. The cast weights are kept for
            one call only: kept longer, those of a pass without gradients would be used by one that needs them.
        always_see: Run the vision tower on a black tile when a batch has no picture, and add nothing of it. Sharded
            training needs it: all processes must take the same parts in the same order.
    """

    def __init__(self, model: MagicModel, image_token_id: int, autocast: torch.dtype | None = None) -> None:
        """Wrap a model; its parameters are shared, not copied."""
        super().__init__()
        self.model = model
        self.image_token_id = image_token_id
        self.autocast = autocast
        self.always_see = False

    def forward(
        self,
        ids: Tensor,
        pixels: Tensor | None = None,
        *,
        last: Tensor | None = None,
        places: Tensor | None = None,
        targets: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Run the model.

        Args:
            ids: int64 [b, s], padded on the right, with `image_token_id` where visual tokens belong.
            pixels: uint8 [n, side, side, 3], the tiles of all sequences in order, or None.
            last: int64 [b], places of the pooled tokens: asks for vectors.
            places: int64 [m], places in the flattened [b * s] whose next token is scored: asks for logits.
            targets: int64 [b, s] from `next_token_targets`: asks for the summed next-token loss.
            positions: int64 [b, s] of packed sequences; by default 0, 1, ...
            mask: bool [b, 1, s, s] of packed sequences, True = may be seen; by default causal.

        Returns:
            Unit vectors, float32 [b, dim]; or logits, float32 [m, vocab]; or a float32 scalar.

        Raises:
            MagicError: `argument_invalid` unless exactly one of `last`, `places` and `targets` is given.
        """
        if sum(asked is not None for asked in (last, places, targets)) != 1:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "The model gives vectors, logits or a loss, and was asked for several of them or none.",
                "Pass one of last, places and targets.",
            )
        with torch.autocast(ids.device.type, self.autocast, enabled=self.autocast is not None):
            embeds = self._embeds(ids, pixels)
            if last is not None:
                return self.model.vectors(embeds, last)
            hidden, _ = self.model.language(embeds, positions=positions, mask=mask)
            if targets is not None:
                return next_token_loss(hidden, targets, self.model.logits)[0]
            return self.model.logits(hidden.flatten(0, 1)[places]).float()

    def _embeds(self, ids: Tensor, pixels: Tensor | None) -> Tensor:
        if pixels is None and self.always_see:
            side = self.model.config.vision.image_size
            blank = torch.zeros(1, side, side, 3, dtype=torch.uint8, device=ids.device)
            unseen = self.model.visual_tokens(blank).sum() * 0
            return self.model.embed_sequence(ids, None, self.image_token_id) + unseen
        visual = None if pixels is None else self.model.visual_tokens(pixels)
        return self.model.embed_sequence(ids, visual, self.image_token_id)
