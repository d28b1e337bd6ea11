"""Ask the `tokenizers` library what it takes each character for, and write the answers as tables for Kotlin.

    python tests/tools/unicode_tables.py        # half a minute

Platforms know Unicode in the version that they shipped with, and so do the parts of `tokenizers`: one part drops a
character that another calls a letter. Tables that were asked for are the same on every phone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

TARGET = Path(__file__).parents[2] / "sdk/kotlin/core/src/main/kotlin/dev/magicmm/UnicodeTables.kt"
_LINE = 100


def characters() -> Iterator[str]:
    """Yield every character that a text may hold."""
    return (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)


def ranges(members: Iterable[int]) -> list[tuple[int, int]]:
    """Return first and last of every run of neighbours."""
    found: list[tuple[int, int]] = []
    for code in members:
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    return found


def base36(number: int) -> str:
    """Write a number in digits and small letters."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return (base36(number // 36) if number >= 36 else "") + digits[number % 36]


def set_table(is_member: Callable[[str], bool]) -> str:
    """Write a set: by run, how many characters lie before it and how many it has."""
    numbers: list[int] = []
    end = 0
    for first, last in ranges(ord(char) for char in characters() if is_member(char)):
        numbers += (first - end, last - first + 1)
        end = last + 1
    return " ".join(map(base36, numbers))


def lower_table(lower: Callable[[str], str]) -> str:
    """Write small letters: by run of capitals at equal steps, gap, count, step and signed distance."""
    runs: list[list[int]] = []  # first, last, step, distance
    for char in characters():
        small = lower(char)
        if small == char or len(small) > 1:
            continue
        code, distance = ord(char), ord(small) - ord(char)
        run = runs[-1] if runs else None
        if run and run[3] == distance and code - run[1] <= 2 and run[2] in (0, code - run[1]):
            run[1], run[2] = code, code - run[1]
        else:
            runs.append([code, code, 0, distance])
    numbers, end = [], 0
    for first, last, step, distance in runs:
        count = (last - first) // step + 1 if step else 1
        numbers.append(" ".join(map(base36, (first - end, count, max(step, 1)))))
        numbers.append("-" * (distance < 0) + base36(abs(distance)))
        end = last
    return " ".join(numbers)


def matches(pattern: str) -> Callable[[str], bool]:
    """Return whether a regular expression matches a character."""
    splitter = pre_tokenizers.Split(Regex(pattern), "removed")
    return lambda char: splitter.pre_tokenize_str(char) == []


def bert(**steps: bool) -> Callable[[str], str]:
    """Return the normaliser of BERT with only the given steps."""
    names = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    normalize: Callable[[str], str] = normalizers.BertNormalizer(
        **{name: steps.get(name, False) for name in names}
    ).normalize_str
    return normalize


def kotlin() -> str:
    """Return the source file."""
    clean, ideograph, marks = bert(clean_text=True), bert(handle_chinese_chars=True), bert(strip_accents=True)
    words = pre_tokenizers.BertPreTokenizer()
    tables = {
        "DROPPED": (
            "What the BERT normaliser drops: controls and the like.",
            set_table(lambda c: not clean(c)),
        ),
        "IDEOGRAPHS": ("What it sets spaces around.", set_table(lambda c: ideograph(c) != c)),
        "MARKS": ("Marks that it drops after taking letters apart.", set_table(lambda c: not marks(c))),
        "PUNCTUATION": (
            "What the BERT pre-tokenizer makes words of their own.",
            set_table(lambda c: len(words.pre_tokenize_str(f"a{c}a")) == 3),
        ),
        "LETTERS": ("Regular expression \\p{L}.", set_table(matches(r"\p{L}"))),
        "NUMBERS": ("Regular expression \\p{N}.", set_table(matches(r"\p{N}"))),
        "SMALL": ("Small letters of capitals.", lower_table(bert(lowercase=True))),
    }
    parts = [f"    /** {says} */\n    const val {name} =\n{_literal(text)}\n" for name, (says, text) in tables.items()]
    return (
        "package dev.magicmm\n\n"
        f"// Written by tests/tools/unicode_tables.py from the answers of tokenizers {tokenizers.__version__}.\n\n"
        "/** What characters are, as runs in base 36; [CodePointSet] and [SmallLetters] read them. */\n"
        "internal object UnicodeTables {\n" + "\n".join(parts) + "}\n"
    )


def _literal(text: str) -> str:
    lines, line = [], ""
    for word in text.split(" "):
        if len(line) + len(word) >= _LINE:
            lines.append(line)
            line = ""
        line += word + " "
    lines.append(line.rstrip())
    return "        " + " +\n            ".join(f'"{line}"' for line in lines)


if __name__ == "__main__":
    TARGET.write_text(kotlin(), encoding="utf-8")
