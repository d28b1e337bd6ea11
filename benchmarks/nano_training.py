"""How good is a checkpoint of the miniature model before it becomes a bundle, beside the concept bank that it replaces?

On what settings may be chosen on alone: the development photos of `photo_sets.py`, captions of Tux Paint's stamps, and
rendered pairs: 25 stamps, each pasted on 12 development photos. There a query is the picture of a stamp and the words
for a photo; one picture in 300 is right. Late fusion is the sum of both vectors, the words times a weight.

    python -m magicmm_export.nano build/nano-fp32.magicmm --precision fp32     # feature maps come from its graph
    python benchmarks/nano_training.py RUN/stages/distil-*/checkpoint
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnxruntime import InferenceSession, SessionOptions
from torch.nn import functional

from magicmm import Embedder
from magicmm_model.nano.config import CLS, SEP
from magicmm_model.nano.storing import TOKENIZER, load_nano, load_tokenizer
from nano_quality import KS, REFERENCE, fetch_stamps, ranked, useful_stamps
from photo_sets import photo_set
from rendered import render
from report import CACHE, Report, parser

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from torch import Tensor

    from magicmm_model.nano.model import NanoModel

BATCH = 50
WEIGHTS = (0.7, 1.0, 1.5)


@dataclass(frozen=True, slots=True)
class Searches:
    """Queries of words among photos, for one set.

    Attributes:
        name: Of the set.
        cells: float16 [photos, views, 16, 1280].
        queries: Words.
        right: Places of the photos that each fits.
    """

    name: str
    cells: NDArray[np.float16]
    queries: Sequence[str]
    right: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rendered pairs.

    Attributes:
        objects: Cells of the object of each pair.
        words: For the scene of each.
        rendered: Cells of each picture.
    """

    objects: NDArray[np.float16]
    words: Sequence[str]
    rendered: NDArray[np.float16]


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    folders, options.checkpoints = options.checkpoints, [folder.parent.name for folder in options.checkpoints]
    report = Report("nano_training", options)
    maps = FeatureMaps(options.reference)
    stamps = useful_stamps(fetch_stamps())[:: 10 if options.quick else 1]
    photos = photo_set("development")
    stamp_cells = maps.cells("stamps", [path for path, _ in stamps])
    searches = [
        Searches("development", maps.cells("development", photos.photos), *zip(*photos.queries, strict=True)),
        Searches("stamps", stamp_cells, [caption for _, caption in stamps], [[place] for place in range(len(stamps))]),
    ]
    pairs = rendered_pairs(maps, [path for path, _ in stamps], photos.photos)
    for folder in folders:
        scorer = Scorer(load_nano(folder).eval(), load_tokenizer(folder / TOKENIZER))
        show(report, folder.parent.name, scorer, searches, pairs)
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = parser(__doc__)
    found.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    found.add_argument("--reference", type=Path, metavar="PATH", default=REFERENCE, help="the concept bank in float32")
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

    def cells(self, name: str, photos: Sequence[Path]) -> NDArray[np.float16]:
        """Return [photos, views, 16, 1280]."""
        identity = hashlib.sha256(self._embedder.fingerprint.encode())
        for path in photos:
            identity.update(path.read_bytes())
        kept = CACHE / f"nano-maps-{name}-{identity.hexdigest()[:16]}.npy"
        if not kept.exists():
            session = InferenceSession(self._graph, SessionOptions(), providers=["CPUExecutionProvider"])
            rows = []
            for path in photos:
                (pooled,) = session.run([self._pooled], {"pixels": self._embedder.prepare(path)})
                rows.append(pooled.reshape(len(pooled), pooled.shape[1], -1).transpose(0, 2, 1).astype(np.float16))
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.save(kept, np.stack(rows))
        found: NDArray[np.float16] = np.load(kept)
        return found


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
    def photos(self, cells: NDArray[np.float16]) -> tuple[Tensor, Tensor]:
        """Return vectors of the model and of its concept bank."""
        own, bank = [], []
        for start in range(0, len(cells), BATCH):
            part = torch.from_numpy(cells[start : start + BATCH].astype(np.float32))
            own.append(self._model.photos(part))
            views = self._model.teacher(part.flatten(0, 1))
            bank.append(functional.normalize(views.reshape(len(part), -1, views.shape[-1]).sum(1)))
        return torch.cat(own), torch.cat(bank)

    @torch.inference_mode()
    def composed(self, cells: NDArray[np.float16], texts: Sequence[str]) -> Tensor:
        """Return vectors of photos with words, in one pass each."""
        rows = []
        for photo, text in zip(cells, texts, strict=True):
            words = self._tokenizer.encode(text, add_special_tokens=False).ids
            ids = torch.tensor([[CLS, SEP, *words, SEP]])
            part = torch.from_numpy(photo[None].astype(np.float32))
            rows.append(self._model.composed(ids, torch.ones_like(ids), part))
        return torch.cat(rows)


def show(report: Report, name: str, scorer: Scorer, searches: Sequence[Searches], pairs: Pairs) -> None:
    """Add the tables of one checkpoint."""
    for found in searches:
        queries = scorer.texts(found.queries)
        own, bank = scorer.photos(found.cells)
        variants = {"concept bank": bank, "model": own, "sum": functional.normalize(own + bank)}
        rows = [[label, *_recall(queries, held, found.right)] for label, held in variants.items()]
        cosine = float((own * bank).sum(1).mean())
        title = f"{name}: {found.name}, {len(found.queries)} queries, cosine to the concept bank {cosine:.3f}"
        report.table(title, ["vectors of photos", *(f"R@{k}" for k in KS), "mAP"], rows)
    own, bank = scorer.photos(pairs.rendered)
    objects, object_bank = scorer.photos(pairs.objects)
    words, both = scorer.texts(pairs.words), scorer.composed(pairs.objects, pairs.words)
    held = functional.normalize(own + bank)
    asked = {f"late fusion, concept bank, weight {weight}": (object_bank + weight * words, bank) for weight in WEIGHTS}
    asked |= {f"late fusion, model, weight {weight}": (objects + weight * words, own) for weight in WEIGHTS}
    asked |= {"composed, photos of the model": (both, own), "composed, photos of the sum": (both, held)}
    right = [[place] for place in range(len(pairs.words))]
    rows = [[label, *_recall(functional.normalize(query), of, right)] for label, (query, of) in asked.items()]
    report.table(f"{name}: {len(right)} rendered pairs", ["query", *(f"R@{k}" for k in KS), "mAP"], rows)


def _recall(queries: Tensor, held: Tensor, right: Sequence[Sequence[int]]) -> list[float]:
    ranks, precision = ranked((queries @ held.T).numpy(), right)
    return [*(float((ranks < k).mean()) for k in KS), float(precision.mean())]


def rendered_pairs(maps: FeatureMaps, stamps: Sequence[Path], photos: Sequence[Path]) -> Pairs:
    """Paste stamps on photos, the same way every time."""
    rendered = render(stamps, photos)
    objects = list(dict.fromkeys(pair.thing for pair in rendered))
    cells = dict(zip(objects, maps.cells("objects", objects), strict=True))
    pictures = maps.cells("pairs", [pair.path for pair in rendered])
    return Pairs(np.stack([cells[pair.thing] for pair in rendered]), [pair.words for pair in rendered], pictures)


if __name__ == "__main__":
    sys.exit(main())
