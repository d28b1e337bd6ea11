"""Next-token logits and short answers, for the restoration stage, the judge and the reranker (paper 3.3, 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.embedder import pad_prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from magicmm_model.embedder import TorchEmbedder
    from magicmm_model.templates import Prompt


@torch.inference_mode()
def next_token_logits(embedder: TorchEmbedder, prompts: Sequence[Prompt], pixels: Tensor | None = None) -> Tensor:
    """Return the scores of what follows each prompt, such as those of "Yes" and "No".

    Args:
        embedder: Opened with `head=True`.
        prompts: Of `PromptBuilder.chat`.
        pixels: uint8 [n, side, side, 3], the tiles of all prompts in order, or None.

    Returns:
        float32 [b, vocab].

    Raises:
        MagicError: `argument_invalid` without a head, or without prompts.
    """
    if not prompts:
        raise MagicError(ErrorCode.ARGUMENT_INVALID, "There are no prompts.", "Give one or more.")
    return _Decoding(embedder, prompts, pixels).scores


@torch.inference_mode()
def generate(
    embedder: TorchEmbedder, prompts: Sequence[Prompt], pixels: Tensor | None = None, max_new_tokens: int = 64
) -> list[str]:
    """Return the most likely answer to each prompt, token by token (greedy).

    Args:
        embedder: Opened with `head=True`.
        prompts: Of `PromptBuilder.chat`.
        pixels: uint8 [n, side, side, 3], the tiles of all prompts in order, or None.
        max_new_tokens: Longest answer; it also ends with `<|im_end|>` or `<|endoftext|>`.

    Raises:
        MagicError: `argument_invalid` without a head, for no new tokens, or for sequences longer than the model reads.
    """
    if not prompts:
        return []
    special, most = embedder.tokenizer.special, embedder.model.config.language.max_positions
    if not 0 < max_new_tokens <= most - max(len(prompt.ids) for prompt in prompts):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"max_new_tokens is {max_new_tokens}; prompt and answer may have {most:,} tokens together.",
            "Ask for 1 token or more, or shorten the prompt.",
        )
    decoding = _Decoding(embedder, prompts, pixels)
    answers: list[list[int]] = [[] for _ in prompts]
    running = torch.ones(len(prompts), dtype=torch.bool)
    for step in range(max_new_tokens):
        chosen = decoding.scores.argmax(-1).cpu()
        running &= (chosen != special.turn_end) & (chosen != special.end)
        for answer, token, alive in zip(answers, chosen.tolist(), running.tolist(), strict=True):
            if alive:
                answer.append(token)
        if not running.any() or step + 1 == max_new_tokens:
            break
        decoding.advance(chosen)
    return [embedder.tokenizer.decode(answer) for answer in answers]


class _Decoding:
    """Keys and values of a batch of prompts of different lengths, and the scores of each one's next token."""

    def __init__(self, embedder: TorchEmbedder, prompts: Sequence[Prompt], pixels: Tensor | None) -> None:
        model, special = embedder.model, embedder.tokenizer.special
        device = model.language.norm.weight.device
        ids, last = pad_prompts(prompts, special.end)
        visual = None if pixels is None else model.visual_tokens(pixels.to(device))
        hidden, past = model.language(model.embed_sequence(ids.to(device), visual, special.context))
        self._model, self._past = model, past
        self._next = last.to(device) + 1
        # What each prompt may look at: itself, then everything generated; not the padding between.
        self._seen = torch.arange(ids.shape[1], device=device)[None] < self._next[:, None]
        self.scores = model.logits(hidden[torch.arange(len(ids), device=device), self._next - 1]).float()

    def advance(self, tokens: Tensor) -> None:
        """Append one token to every sequence."""
        embeds = self._model.language.embed_tokens(tokens.to(self._seen.device))[:, None]
        self._seen = torch.cat([self._seen, torch.ones_like(self._seen[:, :1])], dim=1)
        hidden, self._past = self._model.language(embeds, self._past, self._next[:, None], self._seen[:, None, None])
        self._next = self._next + 1
        self.scores = self._model.logits(hidden[:, 0]).float()
