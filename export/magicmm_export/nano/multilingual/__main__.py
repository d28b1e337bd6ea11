"""`python -m magicmm_export.nano.multilingual OUT.magicmm`: the built-in model with words of many languages.

Photos move into the space of multilingual-e5-small. With --checkpoint they stay where they are, and the text encoder is
one that `magicmm_training.nano.languages` taught to meet them there.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from functools import partial
from pathlib import Path

from magicmm import Bundle
from magicmm_export.nano.concepts import read_concepts
from magicmm_export.nano.multilingual import sources
from magicmm_export.nano.multilingual.base import FETCHED
from magicmm_export.nano.multilingual.bundle import build_multilingual, load_taught, some_texts
from magicmm_export.nano.multilingual.own_space import own_space, replace_bank
from magicmm_export.nano.multilingual.texts import read_emoji


def main() -> int:
    """Build, verify, write, and say how large it is in JSON."""
    parser = argparse.ArgumentParser(prog="python -m magicmm_export.nano.multilingual", description=__doc__)
    parser.add_argument("target", type=Path, metavar="OUT.magicmm")
    parser.add_argument("--from", dest="source", type=Path, metavar="BUNDLE", help="whose photos (default: built in)")
    parser.add_argument("--fetched", type=Path, default=FETCHED, metavar="FOLDER", help="keeps what is not on PyPI")
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="of magicmm_training.nano.languages")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    source = Bundle.default() if options.source is None else Bundle.load(options.source)
    concepts = read_concepts()
    texts = some_texts(read_emoji(sources.fetch(sources.EMOJI, options.fetched)), concepts)
    if options.checkpoint is None:
        encoder, bank = own_space([concept.names[0] for concept in concepts])
        bundle = build_multilingual(encoder, source, texts, options.target, partial(replace_bank, bank=bank))
    else:
        bundle = build_multilingual(load_taught(options.checkpoint), source, texts, options.target)
    facts = {"fingerprint": bundle.fingerprint, "total_bytes": bundle.total_bytes}
    sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
