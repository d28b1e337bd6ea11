"""How much of the built-in model's recall is left when photos are turned by EXIF, blurred, dark, cropped or compressed?

All photos of a set are changed alike, queries stay; beside the concept bank that the model replaced. A photo that EXIF
turns upright again shall have the vector of its upright copy.

    python benchmarks/nano_robust.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from nano_quality import METRICS, hits
from nano_vectors import bundle_parser, bundles, photo_vectors, text_vectors
from photo_sets import photo_set
from report import CACHE, Report

SIDE = 768
"""Longer side in pixels of what is changed and written."""
LOSSLESS = 95
LEAST_COSINE = 0.99
TURNED = 6
"""EXIF: turn by 90 degrees clockwise to see it upright."""


def main() -> int:
    """Run the benchmark."""
    options = bundle_parser(__doc__).parse_args()
    report = Report("nano_robust", options)
    name = "development" if options.quick else "held_out"
    photos = photo_set(name)
    queries, right = zip(*photos.queries, strict=True)
    models = {key: model for key, model in bundles(options.bundle).items() if key in ("nano", "concept bank")}
    changed = {label: written(label, name, photos.photos) for label in CHANGES}
    rows = []
    upright: dict[str, float] = {}
    for key, model in models.items():
        asked = text_vectors(model, queries)
        plain = photo_vectors(model, changed["unchanged"])
        for label, paths in changed.items():
            held = photo_vectors(model, paths)
            cosine = float(np.einsum("nd,nd->n", held, plain).mean())
            metrics = (f"{value:.3f}" for value in hits(asked @ held.T, right).mean(0))
            rows.append([key, label, *metrics, f"{cosine:.4f}"])
            if label == "turned by EXIF":
                upright[key] = cosine
    title = f"{name.replace('_', ' ')}: {len(queries)} queries, {len(photos.photos)} photos"
    report.table(title, ["model", "photos", *METRICS, "mean cosine to unchanged"], rows)
    report.goal("turned by EXIF", f"cosine {LEAST_COSINE}", f"{upright['nano']:.4f}", upright["nano"] >= LEAST_COSINE)
    report.finish()
    return 0


def written(label: str, name: str, photos: tuple[Path, ...]) -> list[Path]:
    """Return changed copies of photos."""
    folder = CACHE / "nano-robust" / name / label.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for place, path in enumerate(photos):
        target = folder / f"{place:03}.jpg"
        if not target.exists():
            with Image.open(path) as opened:
                photo = ImageOps.exif_transpose(opened).convert("RGB")
            photo.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            CHANGES[label](photo, target)
        paths.append(target)
    return paths


def _plain(photo: Image.Image, target: Path) -> None:
    photo.save(target, quality=LOSSLESS)


def _turned(photo: Image.Image, target: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = TURNED
    photo.transpose(Image.Transpose.ROTATE_90).save(target, quality=LOSSLESS, exif=exif)


def _blurred(photo: Image.Image, target: Path) -> None:
    photo.filter(ImageFilter.GaussianBlur(max(photo.size) / 100)).save(target, quality=LOSSLESS)


def _dark(photo: Image.Image, target: Path) -> None:
    ImageEnhance.Brightness(photo).enhance(0.3).save(target, quality=LOSSLESS)


def _cropped(photo: Image.Image, target: Path) -> None:
    width, height = photo.size
    photo.crop((width * 3 // 20, height * 3 // 20, width * 17 // 20, height * 17 // 20)).save(target, quality=LOSSLESS)


def _compressed(photo: Image.Image, target: Path) -> None:
    photo.save(target, quality=20)


CHANGES: dict[str, Callable[[Image.Image, Path], None]] = {
    "unchanged": _plain,
    "turned by EXIF": _turned,
    "blurred, radius 1 % of the longer side": _blurred,
    "dark, 30 % of the light": _dark,
    "cropped to the middle 70 %": _cropped,
    "JPEG, quality 20": _compressed,
}


if __name__ == "__main__":
    sys.exit(main())
