"""How a checkpoint wants its words: the ids around a text, the id that fills, and the longest sequence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from magicmm.errors import ErrorCode, MagicError
from magicmm_export.dual.folder import COPY_AGAIN, checkpoint_invalid, read_json

TOKENIZER = "tokenizer.json"
_PROBE = "a dog"
_LEGACY_END = 2
"""Old CLIP configs say that the text ends with token 2, which is wrong; transformers then pools at the highest id."""


@dataclass(frozen=True, slots=True)
class TextRecipe:
    """What happens to the words of a query.

    Attributes:
        head: Ids before the text.
        tail: Ids after it.
        pad_id: The id that fills short rows.
        max_tokens: Longest sequence, head and tail included.
        vocabulary: Rows of the model's token table.
    """

    head: tuple[int, ...]
    tail: tuple[int, ...]
    pad_id: int
    max_tokens: int
    vocabulary: int


def read_text_recipe(folder: Path, family: str, text_config: Any) -> TextRecipe:
    """Read `tokenizer.json` and what says how it is used.

    Args:
        folder: The checkpoint.
        family: `clip` or `siglip`.
        text_config: The text tower's part of the transformers config.

    Raises:
        MagicError: `source_unavailable` without `tokenizer.json`; `checkpoint_invalid` when it is broken or does not
            belong to the model.
    """
    tokenizer = load_tokenizer(folder)
    head, tail = _around(tokenizer)
    ids = set(tokenizer.get_vocab(with_added_tokens=True).values())
    vocabulary = int(text_config.vocab_size)
    if max(ids) >= vocabulary:
        raise _invalid(f"has the id {max(ids)}, the model's table ends at {vocabulary - 1}", "Take the model's own.")
    if family == "clip":
        _check_end(tail, text_config.eos_token_id, max(ids))
    pad_id = _pad_id(folder, tokenizer, text_config.pad_token_id)
    if not 0 <= pad_id < vocabulary:
        raise _invalid(f"fills rows with the id {pad_id}, which the model has not", "Correct pad_token.")
    return TextRecipe(head, tail, pad_id, int(text_config.max_position_embeddings), vocabulary)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Open the tokenizer with truncation and padding off."""
    path = folder / TOKENIZER
    if not path.is_file():
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE,
            f"{path} does not exist.",
            "Write it where transformers is: AutoTokenizer.from_pretrained(FOLDER, use_fast=True).save_pretrained"
            "(FOLDER).",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise _invalid(f"is no tokenizer ({error})", COPY_AGAIN) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _around(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that the post-processor sets before and after a text."""
    whole = tokenizer.encode(_PROBE, add_special_tokens=True).ids
    text = tokenizer.encode(_PROBE, add_special_tokens=False).ids
    mask = tokenizer.encode(_PROBE, add_special_tokens=True).special_tokens_mask
    start = mask.index(0) if 0 in mask else len(mask)
    stop = start + len(text)
    if not text or whole[start:stop] != text:
        raise _invalid(f"does not read {_PROBE!r} between constant ids", COPY_AGAIN)
    return tuple(whole[:start]), tuple(whole[stop:])


def _check_end(tail: tuple[int, ...], end: int, highest: int) -> None:
    """Refuse a tokenizer whose sequences do not end where CLIP takes the vector of a text."""
    expected = highest if end == _LEGACY_END else end
    if expected not in tail:
        raise _invalid(
            f"ends a text with {list(tail)}, the model takes its vector at the id {expected}",
            "Take the model's own tokenizer.json, with its post-processor.",
        )


def _pad_id(folder: Path, tokenizer: Tokenizer, configured: int | None) -> int:
    """Return the id of the pad token, looked up in the order of transformers."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            token = read_json(folder / name, COPY_AGAIN).get("pad_token")
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str) and tokenizer.token_to_id(text) is not None:
                return int(tokenizer.token_to_id(text))
    return 0 if configured is None else int(configured)


def _invalid(message: str, remedy: str) -> MagicError:
    return checkpoint_invalid(f"{TOKENIZER} {message}.", remedy)
