"""Text to token ids by a checkpoint's `tokenizer.json`, with the special tokens that prompts are built from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the tokens with a meaning of their own (paper fact sheet 1.5).

    Attributes:
        turn_start: `<|im_start|>`, before the name of who speaks.
        turn_end: `<|im_end|>`; ends an answer.
        end: `<|endoftext|>`; fills short rows of a batch, never read.
        image_start: `<img>`, before the visual tokens of a picture.
        image_end: `</img>`, after them.
        context: `<IMG_CONTEXT>`, the place of one visual token.
    """

    turn_start: int
    turn_end: int
    end: int
    image_start: int
    image_end: int
    context: int


SPELLINGS = {
    "turn_start": "<|im_start|>",
    "turn_end": "<|im_end|>",
    "end": "<|endoftext|>",
    "image_start": "<img>",
    "image_end": "</img>",
    "context": "<IMG_CONTEXT>",
}


class PromptTokenizer:
    """The `tokenizers` library on one `tokenizer.json`.

    Special tokens written in a text are treated as plain text: a caption cannot close its own prompt.
    """

    def __init__(self, path: Path, vocab_size: int | None = None) -> None:
        """Load `tokenizer.json`.

        Args:
            path: The file.
            vocab_size: Rows of the token table that the ids must fit, or None for no check.

        Raises:
            MagicError: `source_unavailable` without the file; `checkpoint_invalid` when it is no tokenizer, lacks
                special tokens (all are listed), or has ids outside the token table.
        """
        from tokenizers import Tokenizer as Backend

        if not path.is_file():
            raise MagicError(
                ErrorCode.SOURCE_UNAVAILABLE,
                f"{path} is missing.",
                "A checkpoint with vocab.json and merges.txt gets one by transformers: "
                "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER).",
            )
        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise _invalid(f"{path} is not a tokenizer: {error}.") from None
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        ids = {name: self._backend.token_to_id(spelling) for name, spelling in SPELLINGS.items()}
        missing = [SPELLINGS[name] for name, token in ids.items() if token is None]
        if missing:
            raise _invalid(f"{path} lacks the special tokens {', '.join(missing)}.")
        plain = [SPELLINGS[name] for name, token in ids.items() if token in self.encode(SPELLINGS[name])]
        if plain:
            raise _invalid(f"{path} does not mark {', '.join(plain)} as special, so a caption could close its prompt.")
        highest = max(self._backend.get_vocab(with_added_tokens=True).values())
        if vocab_size is not None and highest >= vocab_size:
            raise _invalid(f"{path} has ids up to {highest}, the token table has {vocab_size} rows.")
        self.special = SpecialTokens(**{field.name: ids[field.name] for field in fields(SpecialTokens)})

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens around it."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids; special tokens are left out."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text


def _invalid(message: str) -> MagicError:
    return MagicError(ErrorCode.CHECKPOINT_INVALID, message, "Copy the tokenizer of the checkpoint again.")
