"""Questions about query and candidates as token ids and tiles, with texts cut to what there is room for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.templates import PromptBuilder, Turn
from magicmm_model.tiling import photo_tiles
from magicmm_training.entries import image_bytes
from magicmm_training.reranker.prompts import listwise_message, pointwise_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from magicmm_model.config import ModelConfig
    from magicmm_model.tokenizer import PromptTokenizer
    from magicmm_training.entries import Entry
    from magicmm_training.judge.message import Message

_SEAM = 3
"""Tokens that a text may gain where it is cut and where it meets the words of the question."""
_SHORTEST = 16
"""Tokens of a text below which cutting it would leave too little to judge by."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An entry that is decoded.

    Attributes:
        entry: The entry.
        tiles: uint8 [n, side, side, 3], or None without picture.
        tokens: How many its text has.
    """

    entry: Entry
    tiles: Tensor | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A question for the model.

    Attributes:
        ids: Of the chat, up to where the answer begins.
        tiles: Of its pictures, in order.
        text: The words, for messages.
    """

    ids: tuple[int, ...]
    tiles: tuple[Tensor, ...]
    text: str


class RankReader:
    """Reads questions for one model and tokenizer."""

    def __init__(self, config: ModelConfig, tokenizer: PromptTokenizer, max_tokens: int) -> None:
        """Prepare the prompts.

        Args:
            config: Of the model.
            tokenizer: Its tokenizer.
            max_tokens: Longest question with its answer.
        """
        self._tokenizer = tokenizer
        self._prompts = PromptBuilder(config, tokenizer)
        self._side, self._tile_tokens = config.vision.image_size, config.tile_tokens
        self._most = min(max_tokens, config.language.max_positions)

    def show(self, entry: Entry) -> Shown:
        """Decode an entry.

        Raises:
            MagicError: `image_invalid` for a picture that is none.
        """
        tiles = None if entry.image is None else photo_tiles(image_bytes(entry.image), self._side, entry.max_tiles)
        return Shown(entry, tiles, 0 if entry.text is None else len(self._tokenizer.encode(entry.text)))

    def pointwise(self, query: Shown, candidate: Shown, answer: int = 1) -> Asked:
        """Return the question about one candidate.

        Args:
            query: The query.
            candidate: The candidate.
            answer: Tokens to leave room for.

        Raises:
            MagicError: `argument_invalid` when there is no room for it.
        """
        query, candidate = self._cut([query, candidate], answer)
        return self._ask(pointwise_message(query.entry, candidate.entry), [query, candidate], answer)

    def listwise(self, query: Shown, candidates: Sequence[Shown], answer: int = 1) -> Asked:
        """Return the question about several candidates; see `pointwise`."""
        query, *candidates = self._cut([query, *candidates], answer)
        message = listwise_message(query.entry, [shown.entry for shown in candidates])
        return self._ask(message, [query, *candidates], answer)

    def _ask(self, message: Message, shown: Sequence[Shown], answer: int) -> Asked:
        tiles = tuple(part.tiles for part in shown if part.tiles is not None)
        prompt = self._prompts.chat([Turn("user", message.text)], [len(part) for part in tiles])
        if len(prompt.ids) + answer > self._most:
            raise _too_long(self._most)
        return Asked(prompt.ids, tiles, message.text)

    def _cut(self, shown: Sequence[Shown], answer: int) -> list[Shown]:
        """Cut the longest texts so far that all fit; shorter ones stay whole."""
        visual = sum(2 + len(part.tiles) * self._tile_tokens for part in shown if part.tiles is not None)
        # The longer of the two questions without what is asked about, each text one word.
        bare = [replace(part.entry, text="x", image=None) for part in shown]
        messages = [listwise_message(bare[0], bare[1:]), pointwise_message(bare[0], bare[1])]
        frame = max(len(self._prompts.chat([Turn("user", message.text)]).ids) for message in messages)
        longest = _longest([part.tokens for part in shown], self._most - frame - visual - answer - _SEAM * len(shown))
        if longest is None:
            return list(shown)
        if longest < _SHORTEST:
            raise _too_long(self._most)
        return [self._shortened(part, longest) for part in shown]

    def _shortened(self, shown: Shown, longest: int) -> Shown:
        text = shown.entry.text
        if text is None or shown.tokens <= longest:
            return shown
        words = self._tokenizer.decode(self._tokenizer.encode(text)[:longest])
        return replace(shown, entry=replace(shown.entry, text=words), tokens=longest)


def _longest(tokens: Sequence[int], room: int) -> int | None:
    """Return the most tokens that a text may keep so that all fit into the room; None when nothing is to be cut."""
    if sum(tokens) <= room:
        return None
    left = room
    for place, count in enumerate(sorted(tokens)):
        share = left // (len(tokens) - place)
        if count > share:
            return share
        left -= count
    return None


def _too_long(most: int) -> MagicError:
    return MagicError(
        ErrorCode.ARGUMENT_INVALID,
        f"A question about query and candidates does not fit into {most:,} tokens.",
        "Raise max_tokens, use fewer tiles, or shorter lists.",
    )
