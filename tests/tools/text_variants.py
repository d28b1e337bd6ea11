"""Hundreds of texts for tokenizer.json: each script in a dozen settings, and characters thrown together by blocks."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence

_SETTINGS: dict[str, Callable[[str], str]] = {
    "capitals": str.upper,
    "small letters": str.lower,
    "taken apart": lambda text: unicodedata.normalize("NFD", text),
    "put together": lambda text: unicodedata.normalize("NFKC", text),
    "backwards": lambda text: text[::-1],
    "without spaces": lambda text: text.replace(" ", ""),
    "in an English sentence": lambda text: f"A photo of {text} at 10:45, in the rain.",
    "in quotes": lambda text: f"\u00ab{text}\u00bb\u2014'{text}'!?",
    "with digits": lambda text: f"3{text}42 {text}2024",
    "on lines": lambda text: f" {text}\n\n  {text}\r\n\t{text}  ",
    "with contractions": lambda text: f"{text}'s {text}'LL don't we'Ve",
    "with emoji": lambda text: f"\U0001f600{text}\U0001f43e\ufe0f {text}\u2764",
}
_BLOCKS: dict[str, Sequence[tuple[int, int]]] = {
    "latin with marks": ((0x41, 0x7A), (0xC0, 0x24F), (0x300, 0x36F), (0x1E00, 0x1EFF)),
    "white space and line ends": ((0x9, 0xD), (0x20, 0x20), (0x85, 0x85), (0x2000, 0x200F), (0x61, 0x64)),
    "marks and symbols": ((0x21, 0x2F), (0x5B, 0x60), (0x2010, 0x2027), (0x20A0, 0x20C0), (0x2190, 0x21FF)),
    "emoji and joiners": (
        (0x1F300, 0x1F64F),
        (0x1F900, 0x1F9FF),
        (0x200D, 0x200D),
        (0xFE0F, 0xFE0F),
        (0x1FA70, 0x1FAFF),
    ),
    "ideographs and kana": ((0x3040, 0x30FF), (0x4E00, 0x4FFF), (0xAC00, 0xACFF), (0x1100, 0x11FF), (0xFF00, 0xFFEF)),
    "scripts of India": ((0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xD00, 0xD7F), (0x20, 0x20)),
    "right to left": ((0x590, 0x5FF), (0x600, 0x6FF), (0x200E, 0x200F), (0x20, 0x20), (0x30, 0x39)),
    "numbers of all kinds": (
        (0x30, 0x39),
        (0xB2, 0xBE),
        (0x660, 0x669),
        (0x2150, 0x218B),
        (0x2460, 0x249B),
        (0x61, 0x66),
    ),
    "beyond the basic plane": ((0x10000, 0x100FF), (0x10400, 0x1044F), (0x1D400, 0x1D4FF), (0x20000, 0x200FF)),
    "contractions": (
        (0x27, 0x27),
        (0x53, 0x54),
        (0x73, 0x74),
        (0x6C, 0x6D),
        (0x65, 0x65),
        (0x72, 0x72),
        (0x17F, 0x17F),
    ),
}
_EACH = 20


def variants(scripts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts by name; a text that another name has already comes once."""
    named = {
        f"script: {script}, {setting}": change(text)
        for script, text in scripts.items()
        for setting, change in _SETTINGS.items()
    }
    for block, ranges in _BLOCKS.items():
        for number in range(_EACH):
            named[f"{block} {number + 1}"] = _thrown(f"{block} {number}", ranges)
    names: dict[str, str] = {}
    for name, text in named.items():
        names.setdefault(text, name)
    return {name: text for text, name in names.items() if text not in scripts.values()}


def _thrown(name: str, ranges: Sequence[tuple[int, int]]) -> str:
    """Return 4 to 19 characters that depend on `name` alone."""
    data = hashlib.shake_256(name.encode()).digest(64)
    chars = []
    for place in range(4 + data[0] % 16):
        first, last = ranges[data[1 + 3 * place] % len(ranges)]
        offset = int.from_bytes(data[2 + 3 * place : 4 + 3 * place], "little")
        chars.append(chr(first + offset % (last - first + 1)))
    return "".join(chars)
