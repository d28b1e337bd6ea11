"""Texts that the multilingual encoder is taught with: English ones, and names of emoji that stand in many languages."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from magicmm_export.nano.concepts import Concept

ENGLISH = "en"
_LEFT_OUT = frozenset({ENGLISH, "en-gb"})
HELD_OUT = 10
"""One emoji in ten is never taught."""
TEMPLATES = (
    "a photo of a {}",
    "a {}",
    "a picture of {}",
    "{} in the city",
    "two {}s",
    "a small {}",
    "a red {}",
    "the {} at night",
    "{} on a table",
    "people with a {}",
    "{} on the beach",
    "an old {}",
)
PAIRS = 12_000
"""How many pairs of emoji are taught; each may appear in every locale."""
_AND = {
    "bn": "{} এবং {}",
    "da": "{} og {}",
    "de": "{} und {}",
    "en": "{} and {}",
    "es": "{} y {}",
    "es-mx": "{} y {}",
    "et": "{} ja {}",
    "fi": "{} ja {}",
    "fr": "{} et {}",
    "hi": "{} और {}",
    "hu": "{} és {}",
    "it": "{} e {}",
    "ja": "{}と{}",
    "ko": "{}와 {}",
    "lt": "{} ir {}",
    "ms": "{} dan {}",
    "nb": "{} og {}",
    "nl": "{} en {}",
    "pl": "{} i {}",
    "pt": "{} e {}",
    "ru": "{} и {}",
    "sv": "{} och {}",
    "th": "{}และ{}",
    "uk": "{} і {}",  # noqa: RUF001 - the letter is Ukrainian
    "vi": "{} và {}",
    "zh": "{}和{}",
    "zh-hant": "{}和{}",
}
PATTERNS = {locale: ("{}, {}", both) for locale, both in _AND.items()}
"""How two names stand together, by locale."""
_SEEN = frozenset({5, 6, 8, 11, 13, 15, 17, 18, 19, 20, 27})
"""WordNet's files of nouns that can be seen: animals, artefacts, bodies, events, food, places, objects, people,
phenomena, plants, substances."""
NAMES, FRAMED, MEANINGS, EXAMPLES = 18_000, 8_000, 9_000, 9_000
"""How many of WordNet's words, words within a template, definitions and example sentences are taken."""
_LONGEST_EXAMPLE = 90


@dataclass(frozen=True)
class Emoji:
    """One emoji.

    Attributes:
        code: Its code points.
        labels: Its name by locale, English among them.
    """

    code: str
    labels: Mapping[str, str]

    @property
    def is_held_out(self) -> bool:
        """Whether nothing may be taught or chosen with it but what is measured."""
        return int(hashlib.sha256(self.code.encode()).hexdigest(), 16) % HELD_OUT == 0


@dataclass(frozen=True)
class Pair:
    """Two emoji whose names stand together.

    Attributes:
        places: Of both among all emoji.
        pattern: Which of a locale's `PATTERNS` joins them.
    """

    places: tuple[int, int]
    pattern: int

    def text(self, emoji: Sequence[Emoji], locale: str) -> str:
        """Return both names in a language."""
        names = (emoji[place].labels[locale] for place in self.places)
        return PATTERNS[locale][self.pattern].format(*names)


@dataclass(frozen=True)
class Entry:
    """One entry of WordNet: its words, its definition, and sentences that show its use."""

    kind: int
    words: tuple[str, ...]
    meaning: str
    examples: tuple[str, ...]


def read_emoji(archive: Path) -> list[Emoji]:
    """Return all emoji of the archive of `emojibase-data` in their order, with the labels of every locale."""
    labels: dict[str, dict[str, str]] = {}
    with tarfile.open(archive) as packed:
        for member in packed:
            _, *folders, name = member.name.split("/")
            if name == "data.json" and len(folders) == 1 and (file := packed.extractfile(member)):
                labels[folders[0]] = {one["hexcode"]: one["label"] for one in json.load(file)}
    return [
        Emoji(code, {locale: found[code] for locale, found in sorted(labels.items()) if code in found})
        for code in labels[ENGLISH]
    ]


def locales(emoji: Sequence[Emoji]) -> list[str]:
    """Return the locales but the English ones."""
    return sorted({locale for one in emoji for locale in one.labels} - _LEFT_OUT)


def some_pairs(emoji: Sequence[Emoji], count: int = PAIRS, seed: int = 1) -> list[Pair]:
    """Return pairs of emoji that may be taught, in turns with each pattern."""
    taught = [place for place, one in enumerate(emoji) if not one.is_held_out]
    drawn = np.random.default_rng(seed).choice(taught, (count, 2))
    return [Pair((int(first), int(second)), number % 2) for number, (first, second) in enumerate(drawn)]


def read_entries(path: Path) -> Iterator[Entry]:
    """Yield the entries of a `data.*` file of WordNet."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("  "):  # the licence
                continue
            facts, _, gloss = line.rstrip().partition(" | ")
            fields = facts.split(" ")
            count = int(fields[3], 16)
            words = (re.sub(r"\(.*\)", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])
            meaning, *examples = gloss.split('; "')
            shown = (example.replace('"', "").strip() for example in examples)
            yield Entry(int(fields[1]), tuple(words), meaning.strip(), tuple(filter(None, shown)))


def english_texts(
    concepts: Sequence[Concept], nouns: Sequence[Entry], verbs: Sequence[Entry], seed: int = 0
) -> list[str]:
    """Return sorted texts: names and descriptions of classes, names framed and in pairs, and what WordNet has."""
    rng = np.random.default_rng(seed)

    def framed(word: str) -> str:
        return TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(word)

    def some(texts: Sequence[str], most: int) -> list[str]:
        return [texts[place] for place in rng.permutation(len(texts))[:most]]

    found: list[str] = []
    for concept in concepts:
        first, other = concept.names[0], concepts[int(rng.integers(len(concepts)))].names[0]
        found += [*concept.names, *map(framed, concept.names), f"a {first} next to a {other}", f"{first} and {other}"]
        if concept.description:
            found += re.split(r"(?<=\.) ", concept.description)
    seen = [entry for entry in nouns if entry.kind in _SEEN]
    words = some([word for entry in seen for word in entry.words[:2]], NAMES + FRAMED)
    examples = [text for entry in (*nouns, *verbs) for text in entry.examples if len(text) < _LONGEST_EXAMPLE]
    found += [*words[:NAMES], *map(framed, words[NAMES:])]
    found += [*some([entry.meaning for entry in seen], MEANINGS), *some(examples, EXAMPLES)]
    return sorted(set(found))
