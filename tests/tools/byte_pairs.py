"""A byte-level BPE tokenizer of Qwen's kind, small enough to be a vector: trained here, by counting, on the texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from tokenizers import Regex, pre_tokenizers

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>")
PLAIN: dict[str, dict[str, bool]] = {
    "<tool_call>": {},
    "<tool_call>>": {},
    "<wide>": {"lstrip": True, "rstrip": True},
    "<e\u0301>": {"normalized": True},
}
"""Added tokens that are not special: they are found in a text."""
_TRAINED = 300

Pair = tuple[str, str]


def tokenizer_json(texts: Iterable[str]) -> str:
    """Return the file."""
    alphabet = _alphabet()
    merges = [*_boundaries(alphabet), *_train(texts)]
    merges = list(dict.fromkeys(merges))
    tokens = list(dict.fromkeys([*alphabet, *(left + right for left, right in merges)]))
    added = {token: {"special": True} for token in SPECIAL} | PLAIN
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [_added(len(tokens) + place, *token) for place, token in enumerate(added.items())],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
                ],
            },
            "post_processor": None,
            "decoder": None,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: place for place, token in enumerate(tokens)},
                "merges": merges,
            },
        },
        separators=(",", ":"),
    )


def _added(number: int, content: str, flags: dict[str, bool]) -> dict[str, Any]:
    defaults = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": number, "content": content, **defaults, **flags}


def _alphabet() -> list[str]:
    """Return the spelling of every byte, in their order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _boundaries(alphabet: list[str]) -> list[Pair]:
    """Return merges across the ends of any character, so that ids tell where the text was cut into pieces."""
    return [pair for byte in alphabet for pair in (("a", byte), (byte, "!"), (byte, "b"))]


def _train(texts: Iterable[str]) -> list[Pair]:
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    spell = pre_tokenizers.ByteLevel(False, use_regex=False)
    pieces = Counter(spell.pre_tokenize_str(piece)[0][0] for text in texts for piece, _ in split.pre_tokenize_str(text))
    words = [(list(piece), count) for piece, count in sorted(pieces.items())]
    merges: list[Pair] = []
    for _ in range(_TRAINED):
        pairs: Counter[Pair] = Counter()
        for tokens, count in words:
            for pair in pairwise(tokens):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for tokens, _ in words:
            _join(tokens, best)
    return merges


def _join(tokens: list[str], pair: Pair) -> None:
    place = 0
    while place < len(tokens) - 1:
        if (tokens[place], tokens[place + 1]) == pair:
            tokens[place : place + 2] = ["".join(pair)]
        place += 1
