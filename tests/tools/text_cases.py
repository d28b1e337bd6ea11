"""Cases for tokenizer.json: the tokenizer of the shipped model, and the tiny one of the tests."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from magicmm.errors import MagicError
from magicmm.tokenizer import Tokenizer, check_text, fit_tokens
from tiny_bundles import tokenizer_json
from tools import byte_pairs
from tools.text_variants import variants

NANO = Path(__file__).parents[2] / "sdk/python/magicmm/bundles/nano.magicmm/tokenizer.json"

SCRIPTS = {
    "arabic": "\u0642\u0637\u0629 \u0639\u0644\u0649 \u0627\u0644\u0633\u0637\u062d",
    "armenian": "\u056f\u0561\u057f\u0578\u0582 \u057f\u0561\u0576\u056b\u0584\u056b\u0576",
    "bengali": "\u099b\u09be\u09a6\u09c7 \u09ac\u09bf\u09a1\u09bc\u09be\u09b2",
    "burmese": "\u1000\u103c\u1031\u102c\u1004\u103a",
    "cherokee": "\u13aa\u13a6 \u13e3\u13b3\u13a9",
    "chinese": "\u5c4b\u9876\u4e0a\u7684\u732b",
    "cyrillic": "\u041a\u043e\u0442 \u043d\u0430 \u043a\u0440\u044b\u0448\u0435 \u0451\u0439",
    "devanagari": "\u091b\u0924 \u092a\u0930 \u092c\u093f\u0932\u094d\u0932\u0940",
    "ethiopic": "\u12f5\u1218\u1275 \u1260\u1323\u122a\u12eb",
    "georgian": "\u10d9\u10d0\u10e2\u10d0 \u10e1\u10d0\u10ee\u10e3\u10e0\u10d0\u10d5\u10d6\u10d4",
    "greek": "\u0393\u03ac\u03c4\u03b1 "
    "\u03c3\u03c4\u03b7 \u03c3\u03c4\u03ad\u03b3\u03b7\u03c2 \u039f\u0394\u039f\u03a3",
    "gujarati": "\u0aac\u0abf\u0ab2\u0abe\u0aa1\u0ac0",
    "gurmukhi": "\u0a2c\u0a3f\u0a71\u0a32\u0a40",
    "hebrew": "\u05d7\u05ea\u05d5\u05dc \u05e2\u05dc \u05d4\u05d2\u05d2",
    "japanese": "\u5c4b\u6839\u306e\u4e0a\u306e\u732b \u30cd\u30b3 \uff88\uff7a \u30ac\u30d7",
    "kannada": "\u0cac\u0cc6\u0c95\u0ccd\u0c95\u0cc1",
    "khmer": "\u1786\u17d2\u1798\u17b6",
    "korean": "\uc9c0\ubd95 \uc704\uc758 \uace0\uc591\uc774",
    "lao": "\u0ec1\u0ea1\u0ea7",
    "malayalam": "\u0d2a\u0d42\u0d1a\u0d4d\u0d1a",
    "mongolian": "\u182e\u1824\u1824\u1837",
    "sinhala": "\u0db6\u0dc5\u0dbd\u0dcf",
    "tamil": "\u0baa\u0bc2\u0ba9\u0bc8",
    "telugu": "\u0c2a\u0c3f\u0c32\u0c4d\u0c32\u0c3f",
    "thai": "\u0e41\u0e21\u0e27\u0e1a\u0e19\u0e2b\u0e25\u0e31\u0e07\u0e04\u0e32",
    "tibetan": "\u0f5e\u0f72\u0f0b\u0f58\u0f72",
    "turkish": "\u0130STANBUL I\u011eDIR \u0131\u015f\u0131k",
    "vietnamese": "Con m\u00e8o tr\u00ean m\u00e1i nh\u00e0",
    "deseret beyond the basic plane": "\U00010400\U00010401 \U00010428",
    "rare ideographs beyond the basic plane": "\U00020000\U0002a6d7 \U00030000",
}
TEXTS = {
    "a sentence": "A dog running on the beach at sunset",
    "upper and lower case": "The QUICK Brown fOX",
    "punctuation": 'Hello, world! (it\'s 5:30 p.m.) -- "quoted" & more; #tag @user 100% a/b\\c',
    "typographic punctuation": "\u201cquoted\u201d \u2018it\u2019s\u2019 \u2014 \u2026 \u00ab\u00bb \u00bf\u00a1",
    "ascii symbols": "$5 + 3 = 8 < 9 ^ ` ~ | {x} [y]",
    "other symbols": "\u20ac5 \u00a3 \u00d7 \u00f7 \u2211 \u2192 \u2605 \u00b0C \u2122 \u00ae \u00bd",
    "digits": "IMG_20200131_123456.jpg 3.14 1,000,000 \u0663\u0664 \uff11\uff12 \u00b2",
    "html": '<b>cat</b> &amp; <a href="x">dog</a><br/>&nbsp;&#39;',
    "emoji": "\U0001f600 cat\U0001f408\u200d\u2b1b \u2764\ufe0f \U0001f1e9\U0001f1ea",
    "emoji family with joiners": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "emoji skin tone": "\U0001f44d\U0001f3fd ok",
    "composed accents": "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m",
    "decomposed accents": "cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "stacked marks": "Z\u0351\u036b\u0343a\u0363\u0368l\u034cg\u0321o\u0322",
    "compatibility forms": "\ufb01ne \uff26\uff55\uff4c\uff4c \u2460 \u2167 \u33a1",
    "sharp s and ligatures": "Stra\u00dfe STRASSE \u1e9e \u00e6 \u0153 \u0133",
    "hangul jamo": "\u1112\u1161\u11ab \ud55c",
    "tabs and line ends inside": "\ta cat\r\non\na  roof ",
    "white space of other scripts": "a\u00a0cat\u2003on\u3000a\u202froof\u2028here",
    "zero width characters": "ca\u200bt d\u200co\u200dg \ufeffbom so\u00adft",
    "control characters": "a\u0000b\u0001c\u001fd\u007fe\u0085f\u009fg",
    "replacement character": "a\ufffdb \ufffd",
    "private use and noncharacters": "a\ue000b \uffff \U0010ffff",
    "right-to-left marks": "\u202eabc\u202c \u200fcat\u200e",
    "special tokens as text": "[CLS] a cat [SEP] [PAD] [UNK] [MASK]",
    "special tokens inside words": "x[SEP]y [sep] [CLS][SEP]",
    "word pieces as text": "##ing ## cat ##s",
    "prompt tokens of other models": "<|im_end|> <image> </s> {text} %s {0}",
    "a word at the longest": "a" * 100,
    "a word too long": "a" * 101,
    "a long word of many pieces": "antidisestablishmentarianism" * 3,
    "one letter": "a",
    "one symbol": "?",
    "mixed scripts": "cat\u732b\u043a\u043e\u0442 2\u5339",
    "words of the tiny tokenizer": "A red dog, photo of green:blue",
    "special tokens of chats": "<|im_start|>user<|im_end|><|endoftext|> <IMG_CONTEXT>x",
    "added tokens that are not special": "a<tool_call>b <tool_call>>c< tool_call>",
    "added tokens that take the space around them": "a \n<wide>\t b<wide><wide> c",
    "added tokens to be normalised": "x<\u00e9>y <e\u0301> z<e>",
    "special tokens over added ones": "<|im_end|><tool_call><|im_end|",
    "contractions before other letters": "it'sb can'tb we'reb you'veb I'mb she'llb he'db n'xb n'rb n'lb",
    "contractions in capitals before other letters": "IT'Sb WE'Reb YOU'vEb I'Mb SHE'LLb HE'Db it'\u017fb 'sb",
    "spaces at every place": "  a   b\n   c    ",
    "line ends of all systems": "a\r\nb\n\rc\r\r\n\n d!\n\n!\n",
}
BLANK = {
    "empty": "",
    "spaces": "   ",
    "tabs and line ends": "\t\r\n",
    "no-break space": "\u00a0",
    "ideographic space": "\u3000",
    "line and paragraph separators": "\u2028\u2029",
    "next line": "\u0085",
    "file to unit separators": "\u001c\u001d\u001e\u001f",
    "zero width space, which leaves no token": "\u200b",
    "null character, which leaves no token": "\u0000",
}
_EACH = 0x1000
_FIRSTS = (*range(0, 0x34000, _EACH), 0xE0000, 0xF0000)
"""Where characters are; what lies between is not assigned."""


def tiny_tokenizer() -> bytes:
    """Return the tokenizer file of the tiny bundles."""
    return tokenizer_json().encode()


def bpe_tokenizer() -> bytes:
    """Return the tokenizer file of the kind that vision-language bundles have."""
    return byte_pairs.tokenizer_json([*TEXTS.values(), *SCRIPTS.values()]).encode()


def open_tokenizers() -> dict[str, Tokenizer]:
    """Return the tokenizers that the cases name."""
    found = {"nano": Tokenizer(NANO)}
    for name, content in (("tiny", tiny_tokenizer()), ("bpe", bpe_tokenizer())):
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            file.write(content)
            file.flush()
            found[name] = Tokenizer(Path(file.name))
    return found


def texts() -> list[dict[str, Any]]:
    """Return the cases of tokenizer.json."""
    tokenizers = open_tokenizers()
    named = TEXTS | {f"script: {name}": text for name, text in SCRIPTS.items()}
    cases: list[tuple[str, dict[str, Any]]] = []
    for kind in tokenizers:
        for name, text in (named | BLANK).items():
            cases.append((f"{kind}: {name}", {"tokenizer": kind, "text": text, "most": 512, "truncate": False}))
    for name, text in variants(SCRIPTS).items():
        for kind in ("nano", "bpe"):
            cases.append((f"{kind}: {name}", {"tokenizer": kind, "text": text, "most": 512, "truncate": False}))
    long = " ".join(f"word{number} cat" for number in range(150))
    cases += [
        ("300 words are too long", {"tokenizer": "nano", "text": long, "most": 62, "truncate": False}),
        ("300 words cut", {"tokenizer": "nano", "text": long, "most": 62, "truncate": True}),
        ("exactly as many as fit", {"tokenizer": "tiny", "text": "red dog", "most": 2, "truncate": False}),
        ("one more than fits", {"tokenizer": "tiny", "text": "red dog a", "most": 2, "truncate": False}),
        ("one more than fits, cut", {"tokenizer": "tiny", "text": "red dog a", "most": 2, "truncate": True}),
        ("a lone surrogate", {"tokenizer": "tiny", "utf16": [97, 0xD800, 98], "most": 62, "truncate": False}),
        ("a pair of surrogates", {"tokenizer": "tiny", "utf16": [0xD83D, 0xDE00], "most": 62, "truncate": False}),
        ("as many characters as allowed", _repeated(200_000)),
        ("one character too many", _repeated(200_001)),
        ("a word of 100,000 bytes", {"tokenizer": "bpe", "text": "ab", "times": 50_000, "most": 5, "truncate": True}),
    ]
    results = [_case(name, given, tokenizers[given["tokenizer"]]) for name, given in cases]
    return results + [_characters(kind, tokenizers[kind], first) for kind in ("nano", "bpe") for first in _FIRSTS]


def characters_text(first: int, last: int) -> str:
    """Return every character from `first` to `last`, between others that show where a tokenizer cuts."""
    codes = (code for code in range(first, last + 1) if not 0xD800 <= code < 0xE000)
    return "".join(f" a{chr(code)}! a{chr(code)}b" for code in codes)


def digest_of(ids: list[int]) -> str:
    """Return the SHA-256 of ids as little-endian int32."""
    return hashlib.sha256(b"".join(token.to_bytes(4, "little") for token in ids)).hexdigest()


def text_of(given: dict[str, Any]) -> str:
    """Read the text of a case; `utf16` holds what JSON cannot."""
    if "utf16" in given:
        units = b"".join(unit.to_bytes(2, "little") for unit in given["utf16"])
        return units.decode("utf-16-le", "surrogatepass")
    return str(given["text"]) * int(given.get("times", 1))


def ids_of(given: dict[str, Any], tokenizer: Tokenizer) -> list[int]:
    """Run a case."""
    return fit_tokens(tokenizer.encode(check_text(text_of(given))), given["most"], given["truncate"])


def _repeated(times: int) -> dict[str, Any]:
    return {"tokenizer": "tiny", "text": "?", "times": times, "most": 3, "truncate": True}


def _characters(kind: str, tokenizer: Tokenizer, first: int) -> dict[str, Any]:
    last = first + _EACH - 1
    ids = tokenizer.encode(characters_text(first, last))
    given = {"operation": "characters", "tokenizer": kind, "first": first, "last": last}
    expect = {"count": len(ids), "sha256": digest_of(ids)}
    return {"name": f"{kind}: characters {first:x} to {last:x}", "input": given, "expect": expect, "tolerance": 0}


def _case(name: str, given: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    try:
        return {"name": name, "input": given, "expect": {"ids": ids_of(given, tokenizer)}, "tolerance": 0}
    except MagicError as error:
        return {"name": name, "input": given, "error": error.code.value}
