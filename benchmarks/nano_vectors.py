"""Vectors of photos by bundles, kept in build/bench: several programs judge the same bundles on the same photos."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from magicmm.embedder import Embedder
from report import CACHE, ROOT, parser

Array = NDArray[np.float32]
BANK = ROOT / "build" / "nano-bank.magicmm"
FLOAT = ROOT / "build" / "nano-fp32.magicmm"
SEEDS = {seed: ROOT / "build" / f"nano-seed{seed}.magicmm" for seed in (1, 2)}


def bundle_parser(summary: str | None) -> argparse.ArgumentParser:
    """Return the parser of programs that judge the built-in model."""
    found = parser(summary)
    found.add_argument("--bundle", type=Path, metavar="PATH", help="the model (default: the built-in one)")
    return found


def bundles(shipped: Path | None) -> dict[str, Embedder]:
    """Return the bundles that are there, one thread each: what was replaced, the model, other seeds, and float32."""
    others = {
        "concept bank": BANK,
        **{f"nano, seed {seed}": path for seed, path in SEEDS.items()},
        "nano, float32": FLOAT,
    }
    found = {name: Embedder.open(path, threads=1) for name, path in others.items() if path.exists()}
    return {"nano": Embedder.open(shipped, threads=1), **found}


def text_vectors(model: Embedder, texts: Sequence[str]) -> Array:
    """Return [n, dim]."""
    return np.stack([model.embed_text(text) for text in texts])


def photo_vectors(model: Embedder, photos: Sequence[Path]) -> Array:
    """Return [n, dim]; what was embedded before is read."""
    identity = hashlib.sha256(model.fingerprint.encode())
    for path in photos:
        identity.update(path.read_bytes())
    kept = CACHE / "nano-vectors" / f"{identity.hexdigest()[:24]}.npy"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, np.stack([model.embed_image(path) for path in photos]))
    vectors: Array = np.load(kept)
    return vectors
