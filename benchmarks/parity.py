"""How far are the vectors of a bundle from torch, by runtime, scheme and kind of input? For docs/PARITY.md.

One tiny InternVL3-shaped checkpoint with random weights goes through every runtime that this machine has: onnxruntime
and ExecuTorch as a user runs them and, for Core ML, the interpreter over the saved packages. Each bundle is exported,
sealed and opened as any other; the reference is the checkpoint in torch, float32, on the same photos and texts.

    python benchmarks/parity.py                      # some minutes; rewrites the section and results/parity.json
    python benchmarks/parity.py --quick              # two bundles, writes nothing
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parity_page import markdown_table, write_section
from report import ROOT, Report, parser

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "tools"))

from magicmm_export.isolated import embed_queries
from magicmm_export.scenes import sample_scene
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import LanguageConfig, ModelConfig, VisionConfig
from magicmm_model.config_json import Layout
from magicmm_model.embedder import TorchEmbedder
from magicmm_model.loading import load_model
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.recipe import RECIPES

if TYPE_CHECKING:
    from magicmm import Bundle

Query = tuple[str | None, NDArray[np.uint8] | None]

CONFIG = ModelConfig(VisionConfig(128, 3, 4, 256), LanguageConfig(128, 4, 4, 2, 256, 400))
"""Groups of 128 divide it, and it lowers in seconds."""
BUCKETS = (32, 96, 384)
RUNTIMES = {
    "onnx": "onnxruntime",
    "executorch": "ExecuTorch (XNNPACK)",
    "coreml": "Core ML (interpreter of the saved package)",
}
GOALS = {"float32": 0.999, "float16": 0.999, "int8": 0.99}
"""Least cosine to torch by scheme, of a single vector; other schemes are only stated."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Vectors of one kind: how many, and the mean and the least cosine to torch."""

    count: int
    mean: float
    least: float


@dataclass(frozen=True, slots=True)
class Row:
    """One bundle: where it runs, how its weights are stored, what it weighs, and a cell for each kind of input."""

    runtime: str
    scheme: str
    megabytes: float
    text: Cell
    photo: Cell
    composed: Cell


def main() -> int:
    """Run the program."""
    options = parser(__doc__).parse_args()
    report = Report("parity", options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # for child processes
        checkpoint = _checkpoint(folder / "tiny-random")
        queries = _queries()
        wanted = _reference(checkpoint, queries)
        rows = [
            _row(runtime, scheme, export(checkpoint, folder / f"{runtime}-{scheme}.magicmm"), queries, wanted)
            for runtime, scheme, export in _bundles(options.quick)
        ]
    columns = ("runtime", "scheme", "MB", "text", "photo", "composed")
    report.table(
        "Least cosine to torch, float32; random weights",
        columns,
        [[row.runtime, row.scheme, row.megabytes, *_least(row)] for row in rows],
    )
    for row in rows:
        goal = GOALS.get(row.scheme)
        if goal is not None:
            least = min(row.text.least, row.photo.least, row.composed.least)
            report.goal(f"{row.runtime}, {row.scheme}", f">= {goal}", f"{least:.6f}", least >= goal)
    if not options.quick:
        write_section("runtimes", _section(rows, checkpoint.config))
    report.finish()
    return 0


def _checkpoint(folder: Path) -> Checkpoint:
    import_module("random_checkpoint").random_checkpoint(folder, CONFIG, Layout.HF)
    return Checkpoint.open(folder)


def _bundles(quick: bool) -> list[tuple[str, str, Callable[[Checkpoint, Path], Bundle]]]:
    """Return runtime, scheme and exporter of every row; a runtime that is not installed has none."""
    from magicmm_export.onnx.export import OnnxOptions, export_onnx

    found: list[tuple[str, str, Callable[[Checkpoint, Path], Bundle]]] = []
    for name in ("float32", "int8", "int4"):

        def onnx(checkpoint: Checkpoint, target: Path, name: str = name) -> Bundle:
            return export_onnx(checkpoint, target, OnnxOptions(recipe=RECIPES[name]))

        found.append(("onnx", name, onnx))
    if find_spec("executorch"):
        from magicmm_export.executorch.export import ExecutorchOptions, export_executorch

        for name in ("float32", "int8", "int4"):

            def executorch(checkpoint: Checkpoint, target: Path, name: str = name) -> Bundle:
                chosen = ExecutorchOptions(recipe=RECIPES[name], buckets=BUCKETS, most_outside=1.0)
                return export_executorch(checkpoint, target, chosen)

            found.append(("executorch", name, executorch))
    if find_spec("coremltools"):
        from magicmm_export.coreml.export import CoremlOptions, export_coreml
        from magicmm_export.coreml.schemes import SCHEMES, Units

        for scheme in SCHEMES.values():

            def coreml(checkpoint: Checkpoint, target: Path, scheme: Any = scheme) -> Bundle:
                units = Units.CPU_AND_GPU if scheme.off_engine else Units.ALL
                return export_coreml(checkpoint, target, CoremlOptions.of(scheme, units=units, buckets=BUCKETS))

            found.append(("coreml", scheme.name, coreml))
    return [one for one in found if one[:2] in (("onnx", "int8"), ("coreml", "float16"))] if quick else found


def _queries() -> dict[str, list[Query]]:
    scene = sample_scene()
    pictures = [scene, scene[:, ::-1].copy(), 255 - scene[::-1]]
    texts = ["a dog", "two people walking along the beach at sunset", "Café in Zürich, naïve façade"]
    return {
        "text": [(text, None) for text in texts],
        "photo": [(None, picture) for picture in pictures],
        "composed": list(zip(texts, pictures, strict=True)),
    }


def _reference(checkpoint: Checkpoint, queries: dict[str, list[Query]]) -> dict[str, NDArray[np.float32]]:
    import torch

    tokenizer = PromptTokenizer(checkpoint.folder / "tokenizer.json", checkpoint.config.language.vocab_size)
    embedder = TorchEmbedder(load_model(checkpoint, dtype=torch.float32), tokenizer)
    return {kind: np.stack([embedder.embed_query(*one).vector.numpy() for one in own]) for kind, own in queries.items()}


def _row(
    runtime: str,
    scheme: str,
    bundle: Bundle,
    queries: dict[str, list[Query]],
    wanted: dict[str, NDArray[np.float32]],
) -> Row:
    flat = [one for own in queries.values() for one in own]
    vectors = embed_queries(bundle, flat, runtime=runtime)
    cells, start = {}, 0
    for kind, own in queries.items():
        found = vectors[start : start + len(own)].astype(np.float64)
        start += len(own)
        cosines = (found * wanted[kind]).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted[kind], axis=1)
        cells[kind] = Cell(len(own), float(cosines.mean()), float(cosines.min()))
    row = Row(runtime, scheme, bundle.total_bytes / 1e6, **cells)
    shutil.rmtree(bundle.path)
    return row


def _least(row: Row) -> list[str]:
    return [f"{cell.least:.6f}" for cell in (row.text, row.photo, row.composed)]


def _section(rows: Sequence[Row], config: ModelConfig) -> str:
    """Return the section of docs/PARITY.md."""
    return _TEXT.format(
        texts=rows[0].text.count,
        photos=rows[0].photo.count,
        both=rows[0].composed.count,
        vision=f"{config.vision.layers} vision layers of {config.vision.hidden_size}",
        language=f"{config.language.layers} language layers of {config.language.hidden_size}",
        table=markdown_table(
            ("runtime", "scheme", "text", "photo", "composed"),
            [(RUNTIMES[row.runtime], row.scheme, *_least(row)) for row in rows],
        ),
    )


_TEXT = """## Runtimes

`python benchmarks/parity.py` writes this section. It exports one checkpoint for every runtime and compares the vectors
of the sealed bundles with those of the checkpoint in torch, float32: the least cosine of {texts} texts, {photos} photos
and {both} photos with words.

**Random weights**: {vision}, {language}. The numbers show that
graphs, packages and programs compute the same function, and how much noise a scheme adds. They forecast nothing for
trained weights; 4 bits do worst on noise.

{table}
The token table is int8 in every bundle: the float32 rows show what that costs. Each row runs as its users run it: the
SDK on onnxruntime and on ExecuTorch's XNNPACK, and for Core ML our interpreter of the saved package.

### What the Core ML rows do not prove

Core ML predicts on Apple's systems only. The interpreter reads the file that ships and rounds every value to its
declared type; it shows that graph, weights (compressed ones, too) and shapes are right, and that nothing leaves float16
between operators. Not verified here: the arithmetic inside of Apple's kernels (order and width of accumulation,
approximations), which unit runs what, and how fast.
"""


if __name__ == "__main__":
    sys.exit(main())
