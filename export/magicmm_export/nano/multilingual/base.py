"""What the multilingual encoder is taught from: multilingual-e5-small with fewer pieces, texts, their MiniLM vectors.

python -m magicmm_export.nano.multilingual.base FOLDER
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from magicmm_export.graph import Array
from magicmm_export.nano import packages
from magicmm_export.nano.concepts import read_concepts
from magicmm_export.nano.minilm import text_graph
from magicmm_export.nano.multilingual import sources
from magicmm_export.nano.multilingual.e5_file import E5Model, read_e5
from magicmm_export.nano.multilingual.texts import (
    ENGLISH,
    PAIRS,
    PATTERNS,
    Emoji,
    english_texts,
    locales,
    read_emoji,
    read_entries,
    some_pairs,
)
from magicmm_export.nano.multilingual.vocabulary import kept_pieces, unigram_tokenizer
from magicmm_export.nano.run import TextEncoder, open_model
from magicmm_model.checkpoint_folder import whole_checkpoint
from magicmm_model.nano.storing import load_tokenizer

FETCHED = Path("build") / "nano-multilingual"
"""Where files that are not on PyPI are kept."""
WORDS = "embeddings.word_embeddings.weight"

log = logging.getLogger(__name__)


def write_base(target: Path, fetched: Path = FETCHED) -> None:
    """Write the folder: `config.json`, `model.safetensors`, `tokenizer.json`, `texts.json` and `targets.safetensors`.

    Raises:
        PackageError: A pinned package or file is missing or differs.
        E5FileError: The weights cannot be read.
        MagicError: The target exists or cannot be written.
    """
    e5 = read_e5(packages.locate(sources.E5_WEIGHTS))
    emoji = read_emoji(sources.fetch(sources.EMOJI, fetched))
    nouns, verbs = (list(read_entries(sources.fetch(one, fetched))) for one in (sources.NOUNS, sources.VERBS))
    english = english_texts(read_concepts(), nouns, verbs)
    encode = TextEncoder(
        open_model(text_graph(packages.locate(packages.TEXT_WEIGHTS), None)),
        load_tokenizer(packages.locate(packages.TOKENIZER)),
    )
    with whole_checkpoint(target) as staged:
        log.info("MiniLM reads %d English texts.", len(english) + len(emoji) + PAIRS)
        save_targets(staged, english, emoji, encode)
        save_encoder(staged, e5)


def save_targets(
    folder: Path, english: Sequence[str], emoji: Sequence[Emoji], encode: Callable[[list[str]], Array]
) -> None:
    """Write the texts, and the vectors of the English ones: `english`, `emoji` and `pairs`, float32 [n, 384]."""
    pairs = some_pairs(emoji)
    facts = {
        "english": list(english),
        "emoji": [{"code": one.code, "held_out": one.is_held_out, "labels": dict(one.labels)} for one in emoji],
        "pairs": [[*pair.places, pair.pattern] for pair in pairs],
        "patterns": {locale: PATTERNS[locale] for locale in locales(emoji)},
    }
    (folder / "texts.json").write_text(json.dumps(facts, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    vectors = {
        "english": encode(list(english)),
        "emoji": encode([one.labels[ENGLISH] for one in emoji]),
        "pairs": encode([pair.text(emoji, ENGLISH) for pair in pairs]),
    }
    save_file(vectors, folder / "targets.safetensors")


def save_encoder(folder: Path, e5: E5Model) -> None:
    """Write the encoder with the pieces that are kept, by BERT's names, float32."""
    kept = kept_pieces(e5.pieces)
    kept_tokenizer(e5, kept).save(str(folder / "tokenizer.json"), pretty=False)
    tensors = {**e5.tensors, WORDS: e5.words.taken(kept).values()}
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = {"model_type": "magicmm_nano_multilingual", "layers": e5.layers, "heads": e5.heads, "vocab": len(kept)}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def kept_tokenizer(e5: E5Model, kept: Array) -> Tokenizer:
    """Return the tokenizer of some of the pieces."""
    return unigram_tokenizer([e5.pieces[place] for place in kept], e5.scores[kept])


def main() -> int:
    """Write the folder."""
    parser = argparse.ArgumentParser(prog="python -m magicmm_export.nano.multilingual.base", description=__doc__)
    parser.add_argument("target", type=Path, metavar="FOLDER", help="does not exist yet")
    parser.add_argument("--fetched", type=Path, default=FETCHED, metavar="FOLDER", help="keeps what is not on PyPI")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    write_base(options.target, options.fetched)
    return 0


if __name__ == "__main__":
    sys.exit(main())
