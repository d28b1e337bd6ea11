"""The pieces of XLM-R's tokenizer that are kept, and the `tokenizer.json` that splits texts into them.

Splitting searches for the likeliest pieces, so a text whose pieces are all kept is split as before; others fall back on
shorter pieces. A script that is left out reads as <unk>.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from magicmm_export.graph import Array

BOS, PAD, EOS, UNK = 0, 1, 2, 3
SPECIAL = 4
"""The first ids; the tokenizer's ids of all kept pieces follow in the order of their scores."""
SCRIPTS = frozenset(
    {
        "LATIN",
        "CYRILLIC",
        "GREEK",
        "HEBREW",
        "ARABIC",
        "DEVANAGARI",
        "BENGALI",
        "THAI",
        "CJK",
        "IDEOGRAPHIC",
        "HIRAGANA",
        "KATAKANA",
        "KATAKANA-HIRAGANA",
        "HANGUL",
    }
)
"""First words of the Unicode names of their letters."""
MOST_RANK = 150_000
"""Of the 250,002 pieces, by score: rarer ones are kept only when they are one character."""
SPACE = "\u2581"
# What XLM-R reads instead of NFKC's result: white space of all kinds as a space, control characters as nothing.
_SPACES = r"[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]"
_NOTHING = r"[\x00-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]"


def kept_pieces(pieces: Sequence[str], most_rank: int = MOST_RANK) -> Array:
    """Return the ids, ascending, of the special pieces, of common ones in `SCRIPTS`, and of their single characters."""
    kept = [
        place
        for place, piece in enumerate(pieces)
        if place < SPECIAL or (script(piece) in SCRIPTS | {None} and (place < most_rank or len(piece) == 1))
    ]
    return np.array(kept)


def script(piece: str) -> str | None:
    """Return what most letters of a piece belong to, as the first word of their Unicode names; None without letters."""
    found = Counter(unicodedata.name(char, "?").split()[0] for char in piece if char.isalpha())
    return found.most_common(1)[0][0] if found else None


def unigram_tokenizer(pieces: Sequence[str], scores: Sequence[float] | Array) -> Tokenizer:
    """Return the tokenizer with ids in the order given; the first four are special.

    With special tokens it puts <s> before a text and </s> behind it. There is no "query: " as in E5's own use: names of
    things find their translations better without (training/LOG.md), and a query is three tokens shorter.
    """
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, map(float, scores), strict=True)), unk_id=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_SPACES), " "),
            normalizers.Replace(Regex(_NOTHING), ""),
            normalizers.NFKC(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")]
    )
    ends = [(pieces[place], place) for place in (BOS, EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer
