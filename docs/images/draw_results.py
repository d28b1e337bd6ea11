"""Draw `results.jpg`, the picture in the README: sentences and what the built-in model finds for them.

    python docs/images/draw_results.py            # needs the scikit-image package, for its sample photos

The photos are those of scikit-image that are in the public domain or CC0 (docs/images/README.md); the ranking and the
scores are whatever the model gives.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from magicmm import Gallery
from magicmm.image import decode_photo
from magicmm.sources import uri_path

PHOTOS = (
    *("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png", "horse.png"),
    *("hubble_deep_field.jpg", "retina.jpg", "rocket.jpg"),
)
QUERIES = ("a cat", "a cup of coffee", "a rocket launch", "a horse")
TOP = 3
SIDE, GAP, MARGIN, LABEL = 200, 14, 28, 250
PAPER, INK, SOFT = (251, 251, 253), (29, 29, 31), (110, 110, 115)


def main() -> None:
    """Index, ask, draw."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("Run: pip install scikit-image")
    folder = Path(spec.origin).parent / "data"
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch) / "photos"
        photos.mkdir()
        for name in PHOTOS:
            (photos / name).write_bytes((folder / name).read_bytes())
        with Gallery.open(Path(scratch) / "index.db", sources=[photos]) as gallery:
            for _ in gallery.sync():
                pass
            rows = [(query, gallery.search(query, k=TOP).matches) for query in QUERIES]
        width = 2 * MARGIN + LABEL + TOP * (SIDE + GAP) - GAP
        height = 2 * MARGIN + len(rows) * (SIDE + 44) - 16
        page = Image.new("RGB", (width, height), PAPER)
        draw = ImageDraw.Draw(page)
        large, small = ImageFont.load_default(26), ImageFont.load_default(17)
        for row, (query, matches) in enumerate(rows):
            top = MARGIN + row * (SIDE + 44)
            draw.text((MARGIN, top + SIDE // 2 - 30), f"“{query}”", INK, large)
            draw.text((MARGIN, top + SIDE // 2 + 6), f"best {TOP} of {len(PHOTOS)}", SOFT, small)
            for place, match in enumerate(matches):
                left = MARGIN + LABEL + place * (SIDE + GAP)
                rgb = decode_photo(uri_path(match.uri).read_bytes()).rgb
                page.paste(_square(Image.fromarray(rgb)), (left, top))
                draw.text((left, top + SIDE + 4), f"{match.score:.3f}", INK, small)
        page.save(Path(__file__).with_name("results.jpg"), quality=85)


def _square(image: Image.Image) -> Image.Image:
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    return image.crop((left, top, left + short, top + short)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
