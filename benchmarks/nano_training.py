"""What each part of the miniature model does, and how much seeds matter, before checkpoints become bundles.

Searches by words and by photo and words (`photo_sets.py`, `composed_sets.py`, Tux Paint's captions), with vectors of
the concept bank that the model replaces, of its encoder alone, and of what is indexed. Settings are chosen on
development sets; `--held-out` adds those that nothing may be chosen on.

    python -m magicmm_export.nano build/nano-bank-fp32.magicmm --precision fp32     # feature maps come from its graph
    python benchmarks/nano_training.py RUN/stages/distil-*/checkpoint ...
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnxruntime import InferenceSession, SessionOptions
from torch.nn import functional

from composed_sets import ComposedSet, real_queries, rendered_pairs
from magicmm import Bundle, Embedder
from magicmm_model.nano.config import CLS, SEP
from magicmm_model.nano.storing import TOKENIZER, load_nano, load_tokenizer
from nano_quality import KS, fetch_stamps, ranked, useful_stamps
from photo_sets import photo_set
from report import CACHE, ROOT, Report, parser

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from torch import Tensor

    from magicmm_model.nano.model import NanoModel

REFERENCE = ROOT / "build" / "nano-bank-fp32.magicmm"
BATCH = 50
WEIGHTS = (0.7, 1.0, 1.5)
"""Of words in late fusion."""
METRICS = (*(f"R@{k}" for k in KS), "mAP")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a checkpoint is given of photos.

    Attributes:
        cells: float16 [n, views, 16, 1280].
        crops: uint8 [n, 256, 256, 3].
        before: Vectors of the concept bank that the model replaces [n, 384].
    """

    cells: NDArray[np.float16]
    crops: NDArray[np.uint8]
    before: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Searches:
    """Queries of words among photos, for one set."""

    name: str
    photos: Seen
    queries: Sequence[str]
    right: Sequence[Sequence[int]]


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    folders, options.checkpoints = options.checkpoints, [folder.parent.name for folder in options.checkpoints]
    report = Report("nano_training", options)
    maps = FeatureMaps(options.reference)
    stamps = useful_stamps(fetch_stamps())[:: 10 if options.quick else 1]
    pictures = [path for path, _ in stamps]
    names = ("development", "held_out") if options.held_out else ("development",)
    right = [[place] for place in range(len(stamps))]
    searches = [Searches("stamps", maps.of("stamps", pictures), [caption for _, caption in stamps], right)]
    asked: list[tuple[ComposedSet, Seen, Seen]] = []
    for name in names:
        photos = photo_set(name)
        seen = maps.of(name, photos.photos)
        searches.append(Searches(name, seen, *zip(*photos.queries, strict=True)))
        for found in (real_queries(name), rendered_pairs(name, pictures)):
            asked.append((found, maps.of(found.name, found.photos), maps.of(f"{found.name}, asked", found.asked)))
    tables: defaultdict[str, defaultdict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        scorer = Scorer(load_nano(folder).eval(), load_tokenizer(folder / TOKENIZER))
        for search in searches:
            for label, scores in by_words(scorer, search).items():
                tables[f"{search.name}, {len(search.queries)} queries"][label].append(scores)
        for found, held, objects in asked:
            for label, scores in by_both(scorer, found, held, objects).items():
                tables[f"{found.name}, {len(found.words)} queries of photo and words"][label].append(scores)
    for title, table in tables.items():
        rows = [[label, *_mean_and_spread(scores)] for label, scores in table.items()]
        report.table(f"{title}: mean of {len(folders)} seeds (least to most)", ["vectors", *METRICS], rows)
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = parser(__doc__)
    found.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="one a seed")
    found.add_argument("--reference", type=Path, metavar="PATH", default=REFERENCE, help="the concept bank in float32")
    found.add_argument("--held-out", action="store_true", help="also the sets that nothing may be chosen on")
    return found


class FeatureMaps:
    """The compressed maps that the image graph of a bundle works with; kept in build/bench."""

    def __init__(self, bundle: Path) -> None:
        """Open the graph and show its inner value."""
        self._embedder = Embedder.open(bundle)
        model = onnx.load(bundle / "image.onnx")
        (pooled,) = [node.output[0] for node in model.graph.node if node.op_type == "AveragePool"]
        model.graph.output.append(onnx.helper.make_tensor_value_info(pooled, onnx.TensorProto.FLOAT, None))
        self._pooled, self._graph = pooled, model.SerializeToString()

    def of(self, name: str, photos: Sequence[Path]) -> Seen:
        """Return what the graph makes of photos; equal ones are read once."""
        different = list(dict.fromkeys(photos))
        identity = hashlib.sha256(self._embedder.fingerprint.encode())
        for path in different:
            identity.update(path.read_bytes())
        kept = CACHE / f"nano-maps-{name.replace(', ', '-')}-{identity.hexdigest()[:16]}.npz"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            made = self._run(different)
            np.savez(kept, cells=made.cells, crops=made.crops, before=made.before)
        arrays = np.load(kept)
        places = {path: place for place, path in enumerate(different)}
        order = [places[path] for path in photos]
        return Seen(*(arrays[part][order] for part in ("cells", "crops", "before")))

    def _run(self, photos: Sequence[Path]) -> Seen:
        session = InferenceSession(self._graph, SessionOptions(), providers=["CPUExecutionProvider"])
        cells, crops, before = [], [], []
        for path in photos:
            pixels = self._embedder.prepare(path)
            vector, pooled = session.run(["vector", self._pooled], {"pixels": pixels})
            cells.append(pooled.reshape(len(pooled), pooled.shape[1], -1).transpose(0, 2, 1).astype(np.float16))
            crops.append(pixels[0])
            before.append(vector[0])
        return Seen(np.stack(cells), np.stack(crops), np.stack(before))


class Scorer:
    """One checkpoint: vectors of words, photos and both."""

    def __init__(self, model: NanoModel, tokenizer: Tokenizer) -> None:
        """Take a model and its tokenizer."""
        self._model, self._tokenizer = model, tokenizer

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return [n, width]."""
        rows = []
        for text in texts:
            ids = torch.tensor([self._tokenizer.encode(text).ids])
            rows.append(self._model(ids, torch.ones_like(ids)))
        return torch.cat(rows)

    @torch.inference_mode()
    def photos(self, seen: Seen) -> dict[str, Tensor]:
        """Return vectors by the parts of the model."""
        parts = defaultdict(list)
        for start in range(0, len(seen.cells), BATCH):
            cells = torch.from_numpy(seen.cells[start : start + BATCH].astype(np.float32))
            parts["encoder alone"].append(self._model.photos(cells))
            views = self._model.concepts(cells.flatten(0, 1)).view(*cells.shape[:2], -1)
            parts["concepts alone"].append(functional.normalize(views.sum(1), dim=-1))
            crops = torch.from_numpy(seen.crops[start : start + BATCH])
            parts["indexed: encoder, concepts, colours"].append(self._model.indexed(cells, crops))
        return {"concept bank, as before": torch.from_numpy(seen.before), **{k: torch.cat(v) for k, v in parts.items()}}

    @torch.inference_mode()
    def composed(self, seen: Seen, texts: Sequence[str]) -> Tensor:
        """Return vectors of photos and words, read together in one pass each."""
        rows = []
        for cells, text in zip(seen.cells, texts, strict=True):
            words = self._tokenizer.encode(text, add_special_tokens=False).ids
            ids = torch.tensor([[CLS, SEP, *words, SEP]])
            part = torch.from_numpy(cells[None].astype(np.float32))
            rows.append(self._model.composed(ids, torch.ones_like(ids), part))
        return torch.cat(rows)

    def asked(self, together: Tensor, photos: Tensor) -> Tensor:
        """Return what the composed graph says, of what `composed` and `photos` (as indexed) returned."""
        return functional.normalize(self._model.config.both_weight * together + photos, dim=-1)


def by_words(scorer: Scorer, search: Searches) -> dict[str, list[float]]:
    """Return recall and precision by the vectors that photos have."""
    queries = scorer.texts(search.queries)
    vectors = scorer.photos(search.photos)
    bare = vectors["encoder alone"] + vectors["concepts alone"]
    vectors["encoder and concepts"] = functional.normalize(bare, dim=-1)
    return {label: _scores((queries @ held.T).numpy(), search.right) for label, held in vectors.items()}


def by_both(scorer: Scorer, found: ComposedSet, held: Seen, objects: Seen) -> dict[str, list[float]]:
    """Return the same for queries of photo and words, late fusion beside one pass."""
    photos, asked = scorer.photos(held), scorer.photos(objects)
    words = scorer.texts(found.words)
    before, indexed = "concept bank, as before", "indexed: encoder, concepts, colours"
    queries = {
        f"{name}, late fusion, words x {weight}": (asked[name] + weight * words, photos[name])
        for name in (before, indexed)
        for weight in WEIGHTS
    }
    together = scorer.composed(objects, found.words)
    weight = Bundle.default().manifest.raw["composed"]["text_weight"]
    whole = scorer.asked(together, asked[indexed]) + weight * words
    queries["both read together, alone"] = (together, photos[indexed])
    queries[f"as a search asks: with the photo, and words x {weight}"] = (whole, photos[indexed])
    rows = {}
    for label, (query, among) in queries.items():
        scores = (functional.normalize(query, dim=-1) @ among.T).numpy()
        for row, place in enumerate(found.itself):
            if place >= 0:
                scores[row, place] = -2
        rows[label] = _scores(scores, found.right)
    return rows


def _scores(scores: NDArray[np.float32], right: Sequence[Sequence[int]]) -> list[float]:
    ranks, precision = ranked(scores, right)
    return [*(float((ranks < k).mean()) for k in KS), float(precision.mean())]


def _mean_and_spread(rows: list[list[float]]) -> list[str]:
    values = np.array(rows)
    low, high = values.min(0), values.max(0)
    return [
        f"{mean:.3f}" + ("" if first == last else f" ({first:.3f} to {last:.3f})")
        for mean, first, last in zip(values.mean(0), low, high, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
