"""A contact sheet: one HTML file that holds its thumbnails and needs nothing else."""

from __future__ import annotations

import base64
import contextlib
import io
import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from magicmm.errors import PhotoSkipped
from magicmm.image import decode_photo
from magicmm.reading import read_photo
from magicmm.results import NOTHING_MATCHES, say_signals
from magicmm.schema import translated_errors
from magicmm.sources import uri_path

if TYPE_CHECKING:
    from magicmm.results import Match, Results

THUMBNAIL_SIDE = 360
_STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #6e6e73; --paper: #fbfbfd; --card: #fff; --line: #e3e3e8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f5f5f7; --soft: #a1a1a6; --paper: #161618; --card: #232326; --line: #38383c; }
}
body { margin: 2.5rem auto; max-width: 76rem; padding: 0 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.6rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
header p { color: var(--soft); margin: .3rem 0 1.6rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.1rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
figure a { display: block; }
img, .none { display: block; width: 100%; height: 13rem; object-fit: cover; background: var(--line); }
.none { display: grid; place-items: center; color: var(--soft); font-size: .85rem; padding: 1rem;
  box-sizing: border-box; text-align: center; }
figcaption { padding: .6rem .8rem .7rem; display: flex; gap: .6rem; align-items: baseline; }
figcaption b { font-variant-numeric: tabular-nums; }
figcaption span { color: var(--soft); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
"""


def write_sheet(path: Path, title: str, results: Results) -> None:
    """Write the matches as a page, whole or not at all.

    Raises:
        MagicError: `storage_failed` when the file cannot be written.
    """
    cards = "\n".join(_card(match) for match in results.matches) or "<p>No photo matches.</p>"
    doubt = f"<p><b>{NOTHING_MATCHES}</b></p>\n" if results.is_doubtful else ""
    lifted = f"<p>{_html(said)}</p>\n" if (said := say_signals(results)) else ""
    sure = "" if results.confidence is None else f" Confidence of the first: {results.confidence:.0%}."
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{_html(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
        f"<header><h1>{_html(title)}</h1>\n<p>{len(results)} of {results.searched:,} photos, best first;"
        f" the number is the cosine.{sure}</p>\n{doubt}{lifted}</header>\n<main>\n{cards}\n</main>\n</html>\n"
    )
    aside = path.with_name(path.name + ".new")
    with translated_errors(path):
        try:
            with aside.open("w", encoding="utf-8") as file:
                file.write(page)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise


def _card(match: Match) -> str:
    name = _html(uri_path(match.uri).name)
    fits = [kind for kind, value in match.signals.items() if value > 0]
    lift = f" + {', '.join(fits)}" if fits else ""
    try:
        data = base64.b64encode(_thumbnail(uri_path(match.uri))).decode()
        picture = f'<img src="data:image/jpeg;base64,{data}" alt="{name}">'
    except PhotoSkipped as skip:
        picture = f'<div class="none">{_html(skip.message)}</div>'
    return (
        f'<figure><a href="{escape(match.uri)}">{picture}</a>'
        f'<figcaption><b>{match.score:.3f}{lift}</b> <span title="{name}">{name}</span></figcaption></figure>'
    )


def _thumbnail(path: Path) -> bytes:
    image = Image.fromarray(decode_photo(read_photo(path)[0], THUMBNAIL_SIDE).rgb)
    image.thumbnail((2 * THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return file.getvalue()


def _html(text: str) -> str:
    """Escape; bytes that are not UTF-8 are shown as what stands in for them."""
    return escape(text.encode("utf-8", "replace").decode())
