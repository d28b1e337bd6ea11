"""Prompts: chat template, instruction, picture, text; and the place of the pooled token (paper fact sheet 1.3, 1.4).

A prompt is the concatenation of these lines, each with the line break at its end unless said otherwise:

* `<|im_start|>system`, InternVL's own message and `<|im_end|>`; left out with `system_prompt=False`
* `<|im_start|>user`
* `Instruct: {instruction}`
* `<img>`, 64 x `<IMG_CONTEXT>` a tile, `</img>`; without picture left out
* `Query: {text}`, or `Text: {text}` on the candidate side; without text left out
* `<|im_end|>` right after the last of these, without a break between
* `<|im_start|>assistant`: the vector is the hidden state of its line break, the last token

Special tokens are set as ids and what lies between them is tokenized piece by piece. That gives the ids of the whole
text, because the pieces end where the pre-tokenizer splits anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm.tokenizer import check_text
from magicmm_model import instructions
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from magicmm_model.config import ModelConfig
    from magicmm_model.tokenizer import PromptTokenizer

SYSTEM_MESSAGE = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001
)
"""InternVL's own (its `internvl2_5` conversation), which the base model was tuned with."""
IMAGE_PLACEHOLDER = "<image>"
"""Where a picture belongs in the text of a chat turn."""


class Side(str, Enum):
    """Which side of a search a prompt describes."""

    QUERY = "Query"
    CANDIDATE = "Text"


class Reads(str, Enum):
    """What a role is made of."""

    TEXT = "text"
    IMAGE = "image"
    IMAGE_AND_TEXT = "image and text"


@dataclass(frozen=True, slots=True)
class Role:
    """One way to ask the model for a vector.

    Attributes:
        instruction: First line of the prompt.
        side: Names the text line.
        reads: What must be given.
        max_tiles: 1 for photos; 4 (and a thumbnail) for documents, as in the paper.
    """

    instruction: str
    side: Side
    reads: Reads
    max_tiles: int = 1


ROLES = {
    "photo": Role(instructions.IMAGE, Side.CANDIDATE, Reads.IMAGE),
    "query": Role(INSTRUCTIONS[TaskGroup.TEXT_TO_IMAGE]["MSCOCO"].query, Side.QUERY, Reads.TEXT),
    "composed": Role(INSTRUCTIONS[TaskGroup.COMPOSED_TO_IMAGE]["CIRR"].query, Side.QUERY, Reads.IMAGE_AND_TEXT),
    "similar": Role(INSTRUCTIONS[TaskGroup.IMAGE_TO_IMAGE]["NIGHTS"].query, Side.QUERY, Reads.IMAGE),
    "caption": Role(instructions.TEXT, Side.CANDIDATE, Reads.TEXT),
    "captioned_photo": Role(instructions.IMAGE_WITH_TEXT, Side.CANDIDATE, Reads.IMAGE_AND_TEXT),
    "document": Role(instructions.DOCUMENT, Side.CANDIDATE, Reads.IMAGE, max_tiles=4),
    "document_query": Role(INSTRUCTIONS[TaskGroup.TEXT_TO_DOCUMENT]["ColPali"].query, Side.QUERY, Reads.TEXT),
}
"""The roles of a gallery; `photo`, `query` and `composed` are those that every bundle has (docs/FORMAT.md)."""


@dataclass(frozen=True, slots=True)
class RoleTokens:
    """A role as the constant ids of its prompts, in the form in which a bundle's manifest holds it.

    A prompt is head + [image_before + visual tokens + image_after] + [ids of `text`] + tail.
    """

    head: tuple[int, ...]
    image_before: tuple[int, ...]
    image_after: tuple[int, ...]
    text: str
    tail: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One sequence for the language model.

    Attributes:
        ids: Token ids; `<IMG_CONTEXT>` stands where visual tokens belong.
        truncated: Whether the text was cut.
    """

    ids: tuple[int, ...]
    truncated: bool = False

    @property
    def last(self) -> int:
        """Place of the pooled token: the last one, the line break after "assistant"."""
        return len(self.ids) - 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a chat; each `<image>` in `text` is the place of a picture."""

    speaker: str
    text: str


class PromptBuilder:
    """Makes prompts for one model and tokenizer."""

    def __init__(self, config: ModelConfig, tokenizer: PromptTokenizer) -> None:
        """Tokenize what all prompts share."""
        self._config = config
        self._tokenizer = tokenizer
        special = tokenizer.special
        self._break = tokenizer.encode("\n")
        system = self._turn("system", tokenizer.encode(SYSTEM_MESSAGE)) if config.system_prompt else []
        self._opening = (*system, special.turn_start)
        self._closing = (special.turn_end, *self._break, special.turn_start, *tokenizer.encode("assistant\n"))

    def role_tokens(self, role: Role) -> RoleTokens:
        """Return the constant parts of a role's prompts."""
        special = self._tokenizer.special
        line_break = "\n" if role.reads is Reads.IMAGE_AND_TEXT else ""
        return RoleTokens(
            head=(*self._opening, *self._tokenizer.encode(f"user\nInstruct: {role.instruction}\n")),
            image_before=(special.image_start,),
            image_after=(special.image_end,),
            text=f"{line_break}{role.side.value}: {{text}}",
            tail=self._closing,
        )

    def build(self, role: Role, text: str | None = None, tiles: int = 0) -> Prompt:
        """Return the prompt of one item.

        Args:
            role: What is asked, and of what.
            text: The user's words, or None.
            tiles: Tiles of the picture, thumbnail included; 0 = no picture.

        Raises:
            MagicError: `text_invalid` for an empty text; `argument_invalid` when text or picture is missing or too
                much for the role, or when the picture alone leaves no room for a text.
        """
        self._check_parts(role, text, tiles)
        parts = self.role_tokens(role)
        context = self._tokenizer.special.context
        image = (*parts.image_before, *[context] * (tiles * self._config.tile_tokens), *parts.image_after)
        ids = [*parts.head, *(image if tiles else ())]
        truncated = False
        room = self._config.max_tokens - len(ids) - len(parts.tail)
        if room < (text is not None):
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"Instruction and picture need {len(ids) + len(parts.tail)} tokens, the model reads "
                f"{self._config.max_tokens}.",
                "Use fewer tiles or a larger max_tokens.",
            )
        if text is not None:
            words = self._tokenizer.encode(parts.text.replace("{text}", check_text(text)))
            truncated = len(words) > room
            ids += words[:room]
        return Prompt((*ids, *parts.tail), truncated)

    def chat(self, turns: Sequence[Turn], tiles: Sequence[int] = ()) -> Prompt:
        """Return a chat up to the point where the assistant speaks next (restoration stage, judge, reranker).

        Args:
            turns: Who said what; without a turn of "system", InternVL's own message opens the chat if the config says
                so.
            tiles: For each picture in order, its number of tiles.

        Raises:
            MagicError: `argument_invalid` when the placeholders in the turns are not as many as the pictures, or the
                chat is longer than the model reads.
        """
        places = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns)
        if places != len(tiles):
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The chat has {places} {IMAGE_PLACEHOLDER} placeholders for {len(tiles)} pictures.",
                f"Write {IMAGE_PLACEHOLDER} once for each picture.",
            )
        own_system = any(turn.speaker == "system" for turn in turns)
        ids = [] if own_system or not self._config.system_prompt else list(self._opening[:-1])
        pictures = iter(tiles)
        for turn in turns:
            ids += self._turn(turn.speaker, self._content(turn.text, pictures))
        ids += self._closing[1 + len(self._break) :]
        if len(ids) > self._config.language.max_positions:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The chat has {len(ids):,} tokens, the model reads {self._config.language.max_positions:,}.",
                "Shorten it or use fewer tiles.",
            )
        return Prompt(tuple(ids))

    def _check_parts(self, role: Role, text: str | None, tiles: int) -> None:
        needs_text, needs_image = role.reads is not Reads.IMAGE, role.reads is not Reads.TEXT
        if needs_text and text is None and not tiles:
            check_text("")
        if needs_text != (text is not None) or needs_image != (tiles > 0):
            given = " and ".join(name for name, there in (("text", text is not None), ("image", tiles)) if there)
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The role reads {role.reads.value}, given was {given or 'nothing'}.",
                "Choose a role that reads what you have.",
            )

    def _content(self, text: str, pictures: Iterator[int]) -> list[int]:
        special = self._tokenizer.special
        first, *others = text.split(IMAGE_PLACEHOLDER)
        ids = self._tokenizer.encode(first)
        for piece in others:
            context = [special.context] * (next(pictures) * self._config.tile_tokens)
            ids += [special.image_start, *context, special.image_end, *self._tokenizer.encode(piece)]
        return ids

    def _turn(self, speaker: str, content: Sequence[int]) -> list[int]:
        special = self._tokenizer.special
        name = self._tokenizer.encode(f"{speaker}\n")
        return [special.turn_start, *name, *content, special.turn_end, *self._break]
