"""How well photos are found by words of many languages: the built-in model, and the multilingual option beside it.

Captions of Tux Paint's stamps (see `nano_quality.py`) stand in 77 languages, written by volunteers; nothing was taught
or chosen with them but what that program says of the English ones. Every language with 200 captions or more is
measured: the caption is the query, its picture is to be found among all 430. Beside it stands what the English caption
of the same stamps finds with the English encoder: no translation can be expected to do better.

Names of emoji that were held out while the multilingual encoder was taught: the translated name is to find the English
one among those of all emoji, as each model places them. A taught encoder never saw these.

    make nano-multilingual
    python benchmarks/nano_languages.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from magicmm import Embedder
from magicmm_export.nano.multilingual.base import FETCHED
from magicmm_export.nano.multilingual.sources import EMOJI, fetch
from magicmm_export.nano.multilingual.texts import ENGLISH, locales, read_emoji
from nano_quality import BOOTSTRAPS, KS, fetch_stamps, useful_stamps
from report import ROOT, Report, parser, race

MULTILINGUAL = ROOT / "build" / "nano-multilingual.magicmm"
LEAST_CAPTIONS = 200
FIRST = ("en", "de", "es", "fr", "it", "pt", "ru", "zh_CN", "ja", "ar", "hi")
"""Languages that the option is for, in the order of the table; others follow by name."""
QUERIES = {"English": "a brown dog on the beach", "German": "ein brauner Hund am Strand", "Japanese": "浜辺の茶色い犬"}

Array = NDArray[np.float32]
Ranks = NDArray[np.float64]


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--bundle", type=Path, metavar="PATH", help="the English model (default: the built-in one)")
    options.add_argument("--multilingual", type=Path, metavar="PATH", default=MULTILINGUAL)
    options.add_argument("--languages", type=lambda text: text.split(","), metavar="LIST", help="de,ja,... alone")
    options.add_argument("--every", type=int, default=1, metavar="N", help="captions of every Nth stamp alone")
    given = options.parse_args()
    report = Report("nano_languages", given)
    english, multilingual = (Embedder.open(path, threads=1) for path in (given.bundle, given.multilingual))
    measure_stamps(report, english, multilingual, given.quick, given.languages, given.every)
    measure_emoji(report, english, multilingual, given.quick)
    measure_cost(report, english, multilingual, rounds=2 if given.quick else 60)
    report.finish()
    return 0


def measure_stamps(
    report: Report, english: Embedder, multilingual: Embedder, quick: bool, only: Sequence[str] | None, every: int
) -> None:
    """Rank all pictures for the captions of every language, or of `only` these; captions of every nth stamp alone."""
    stamps = useful_stamps(fetch_stamps())[:: 20 if quick else 1]
    captions = [read_captions(path) | {"en": caption} for path, caption in stamps]
    pictures, others = (np.stack([model.embed_image(path) for path, _ in stamps]) for model in (english, multilingual))
    known = np.stack([english.embed_text(caption, truncate=True) for _, caption in stamps])
    columns = ["language", "captions", "model", *(f"R@{k}" for k in KS), "median rank"]
    rows: list[list[object]] = []
    for language in languages(captions, LEAST_CAPTIONS // 20 if quick else LEAST_CAPTIONS):
        if only is not None and language not in only:
            continue
        places = np.array([place for place, found in enumerate(captions) if language in found and place % every == 0])
        if not len(places):
            continue
        words = [captions[place][language] for place in places]
        asked = {"English words, English encoder": known[places]}
        if language != "en":  # it would be the same again
            asked["English encoder"] = np.stack([english.embed_text(text, truncate=True) for text in words])
        asked["multilingual"] = np.stack([multilingual.embed_text(text, truncate=True) for text in words])
        for name, queries in asked.items():
            found = ranks(queries, others if name == "multilingual" else pictures, places)
            rows.append([language, len(places), name, *(spread(found <= k) for k in KS), float(np.median(found))])
    report.table(f"captions -> pictures, {len(stamps)} pictures", columns, rows)


def read_captions(picture: Path) -> dict[str, str]:
    """Return the captions of a stamp by language, without the English one."""
    lines = picture.with_suffix(".txt").read_text("utf-8", errors="replace").splitlines()[1:]
    pairs = (line.split(".utf8=", 1) for line in lines if ".utf8=" in line)
    return {language.strip(): caption.strip() for language, caption in pairs if caption.strip()}


def languages(captions: Sequence[dict[str, str]], least: int) -> list[str]:
    """Return the languages with enough captions, the important ones first; variants of English are left out."""
    counts: dict[str, int] = {}
    for found in captions:
        for language in found:
            counts[language] = counts.get(language, 0) + 1
    enough = {language for language, count in counts.items() if count >= least and not language.startswith("en_")}
    return [*(one for one in FIRST if one in enough), *sorted(enough - set(FIRST))]


def ranks(queries: Array, held: Array, right: NDArray[np.int64]) -> Ranks:
    """Return the rank of each query's right row, from 1; rows with equal scores share the mean of their places."""
    scores = queries @ held.T
    own = scores[np.arange(len(right)), right][:, None]
    found: Ranks = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
    return found


def spread(hits: NDArray[np.bool_]) -> str:
    """Return the mean and the middle 95 % of means of as many hits drawn again (bootstrap)."""
    rng = np.random.default_rng(0)
    means = rng.binomial(len(hits), hits.mean(), BOOTSTRAPS) / len(hits)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{hits.mean():.3f} ({low:.3f} to {high:.3f})"


def measure_emoji(report: Report, english: Embedder, multilingual: Embedder, quick: bool) -> None:
    """Find the English name of held-out emoji by the translated one."""
    emoji = read_emoji(fetch(EMOJI, ROOT / FETCHED))
    emoji = emoji[:: 20 if quick else 1]
    models = (english, multilingual)
    known = [np.stack([model.embed_text(one.labels[ENGLISH]) for one in emoji]) for model in models]
    right = np.array([place for place, one in enumerate(emoji) if one.is_held_out])
    rows: list[list[object]] = []
    for locale in [ENGLISH, *locales(emoji)]:
        names = [emoji[place].labels[locale] for place in right]
        cells: list[object] = [locale]
        for model, names_known in zip(models, known, strict=True):
            vectors = np.stack([model.embed_text(name, truncate=True) for name in names])
            cells += [
                spread(ranks(vectors, names_known, right) <= 1),
                float((vectors * names_known[right]).sum(1).mean()),
            ]
        rows.append(cells)
    columns = ["locale", "R@1, English encoder", "cosine", "R@1, multilingual", "cosine"]
    report.table(f"{len(right)} held-out emoji -> {len(emoji)} English names", columns, rows)


def measure_cost(report: Report, english: Embedder, multilingual: Embedder, rounds: int) -> None:
    """Say what a text takes and how large the text parts are, on one thread."""
    models = {"English": english, "multilingual": multilingual}
    rows: list[list[object]] = []
    for language, query in QUERIES.items():
        timings = race({name: partial(model.embed_text, query) for name, model in models.items()}, rounds, seconds=30)
        rows += [[language, name, one.best * 1e3, one.median * 1e3, one.runs] for name, one in timings.items()]
    report.table("one query, 1 thread", ["query", "encoder", "min ms", "median ms", "runs"], rows)
    rows = []
    for name, model in models.items():
        sizes = {path.name: path.stat().st_size for path in model.bundle.path.iterdir() if path.is_file()}
        text = sum(size for file, size in sizes.items() if file.startswith("text.onnx"))
        rows.append([name, text / 1e6, sizes["tokenizer.json"] / 1e6, model.bundle.total_bytes / 1e6])
    report.table("size", ["model", "text graph MB", "tokenizer MB", "bundle MB"], rows)


if __name__ == "__main__":
    sys.exit(main())
