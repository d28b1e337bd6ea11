"""Write bundles and graphs in a process of their own, and say how much memory that process and its children took.

python benchmarks/lower_2b.py bundle CHECKPOINT OUT.magicmm --recipe int8
python benchmarks/lower_2b.py vision CHECKPOINT FOLDER --recipe int8 --image-size 224 --compression 1
python benchmarks/lower_2b.py open OUT.magicmm
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from model_2b import finished
from report import Child, child_environment, run_child

CALIBRATION = 3
"""Photos that are made up to calibrate a graph for OpenVINO."""
_EVERY = 0.02
_UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> int:
    """Do one thing and write what it took as JSON."""
    options = _parser().parse_args()
    begun = time.perf_counter()
    with MemoryWatch() as watch:
        {"command": _command, "bundle": _bundle, "vision": _vision, "open": _open}[options.what](options)
    facts = {"seconds": time.perf_counter() - begun, "own_peak": watch.own_peak, "own_anon": watch.own_anon}
    sys.stdout.write(json.dumps(facts | {"child_peak": watch.child_peak, "child_anon": watch.child_anon}))
    return 0


def lowered(what: str, *arguments: str | Path) -> tuple[Child, dict[str, float]]:
    """Do one thing in a child process; its facts are those that `main` writes."""
    command = [sys.executable, __file__, what, *map(str, arguments)]
    child = finished(run_child(command, child_environment()))
    facts: dict[str, float] = json.loads(child.stdout)
    return child, facts


def made(target: Path, what: str, *arguments: str | Path) -> Path:
    """Return a bundle or graph that is kept; it is written when it is not there yet."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        lowered(what, arguments[0], target, *arguments[1:])
    return target


class MemoryWatch:
    """Looks every 20 ms at how much memory this process and its children hold (Linux; elsewhere only its own peak).

    The kernel's own count for children begins with that of the process that they were forked from.

    Attributes:
        own_peak: Most resident bytes of this process, pages of mapped files included.
        own_anon: Most resident bytes of its own, without files.
        child_peak: As own_peak, of the largest child.
        child_anon: As own_anon, of the largest child.
    """

    def __init__(self) -> None:
        """Prepare; nothing is looked at yet."""
        self.own_peak = self.own_anon = self.child_peak = self.child_anon = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> MemoryWatch:
        """Start looking."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop looking."""
        self._done.set()
        self._thread.join()
        self.own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT

    def _look(self) -> None:
        own = _read("/proc/self/cmdline")
        while not self._done.wait(_EVERY):
            self.own_anon = max(self.own_anon, _resident("self", "RssAnon"))
            for task in Path("/proc/self/task").glob("*/children"):
                for child in _read(str(task)).split():
                    if _read(f"/proc/{child}/cmdline") == own:
                        continue  # forked and not yet another program: that is our own memory
                    self.child_peak = max(self.child_peak, _resident(child, "VmHWM"))
                    self.child_anon = max(self.child_anon, _resident(child, "RssAnon"))


def _resident(process: str, key: str) -> int:
    for line in _read(f"/proc/{process}/status").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: str) -> str:
    """Return what a file says, nothing once its process is gone."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("what", choices=("command", "bundle", "vision", "open"))
    found.add_argument("source", type=Path)
    found.add_argument("target", type=Path, nargs="?")
    found.add_argument("--recipe", default="int8")
    found.add_argument("--low-memory", action="store_true")
    found.add_argument("--openvino", action="store_true")
    found.add_argument("--runtime", default="onnx")
    found.add_argument("--buckets")
    found.add_argument("--image-size", type=int)
    found.add_argument("--compression", type=int)
    return found


def _command(options: argparse.Namespace) -> None:
    """Run `magicmm-export`; random weights may be as far from float32 as they like, and nothing is found in a cache."""
    from magicmm_export import cli

    arguments = [str(options.source), str(options.target), "--recipe", options.recipe, "--no-cache", "--min-cosine=-1"]
    arguments += ["--runtime", options.runtime, *(["--buckets", options.buckets] if options.buckets else [])]
    arguments += ["--low-memory"] if options.low_memory else []
    arguments += ["--compression", str(options.compression)] if options.compression else []
    with contextlib.redirect_stdout(sys.stderr):
        code = cli.main(arguments)
    if code != 0:
        raise SystemExit(code)


def _bundle(options: argparse.Namespace) -> None:
    """Write the same bundle without measuring its quality."""
    from magicmm_export.onnx.export import OnnxOptions, export_onnx
    from magicmm_model.checkpoint import Checkpoint
    from magicmm_quant.recipe import RECIPES

    recipe = RECIPES[options.recipe]
    lowering = OnnxOptions(recipe=recipe, low_memory=options.low_memory, compression=options.compression)
    export_onnx(Checkpoint.open(options.source), options.target, lowering)


def _vision(options: argparse.Namespace) -> None:
    """Write the vision graph alone; at another side of the tile, nothing else differs.

    With `--openvino`, calibrated on made-up photos, and the graph for OpenVINO beside it.
    """
    from magicmm_export.graph import DataFile, GraphWriter
    from magicmm_export.onnx.calibrated import calibrated
    from magicmm_export.onnx.export import OnnxOptions
    from magicmm_export.onnx.linear import LinearWriter
    from magicmm_export.onnx.source import QuantisingSource
    from magicmm_export.onnx.static import static_vision
    from magicmm_export.onnx.vision import write_vision
    from magicmm_export.options import SEED
    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.tokenizer import PromptTokenizer
    from magicmm_quant.hadamard import Rotation
    from magicmm_quant.recipe import RECIPES
    from magicmm_quant.samples import synthetic_samples
    from magicmm_quant.weights import RewrittenWeights

    checkpoint = Checkpoint.open(options.source)
    config = checkpoint.config.variant(compression=options.compression, image_size=options.image_size)
    lowering = OnnxOptions(RECIPES[options.recipe], compression=options.compression, image_size=options.image_size)
    if options.openvino:
        tokenizer = PromptTokenizer(checkpoint.folder / "tokenizer.json", config.language.vocab_size)
        lowering = calibrated(checkpoint, lowering, synthetic_samples(CALIBRATION), tokenizer)
    weights = RewrittenWeights(checkpoint, config, Rotation(config.dim, SEED), lowering.smoothing or {})
    aside = options.target.with_name(f"{options.target.name}.partial-{os.getpid()}")
    aside.mkdir(parents=True)
    data = DataFile(aside / "vision.onnx.data")
    graph = GraphWriter("vision", data)
    source = QuantisingSource(checkpoint, weights, lowering.recipe)
    write_vision(graph, LinearWriter(graph, source), weights, config)
    data.close()
    model = graph.model()
    (aside / "vision.onnx").write_bytes(model.SerializeToString(deterministic=True))
    if lowering.static_scales:
        static = static_vision(model, lowering.static_scales, weights, config)
        (aside / "vision.openvino.onnx").write_bytes(static.SerializeToString(deterministic=True))
    aside.rename(options.target)


def _open(options: argparse.Namespace) -> None:
    """Open both graphs of a bundle as the SDK does on the first photo, and run a photo and a text through them."""
    import numpy as np

    from magicmm import Bundle, Embedder

    embedder = Embedder.open(Bundle.load(options.source))
    embedder.embed_text("a dog")
    side = embedder.bundle.manifest.image.side
    embedder.embed_image(np.zeros((side, side, 3), np.uint8))


if __name__ == "__main__":
    sys.exit(main())
