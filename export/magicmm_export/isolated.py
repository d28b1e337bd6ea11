"""Run a staged bundle piece by piece, in a process of its own without torch: their memory must not add up."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicmm import Bundle, Embedder, MagicError
from magicmm.runtime import COREML, EXECUTORCH
from magicmm_export.bundle_writer import GoldenInput, write_bundle, write_provisional
from magicmm_export.children import hand_back, run_module

Floats = NDArray[np.float32]


def seal_bundle(
    staged: Path, target: Path, manifest: Mapping[str, Any], golden: Sequence[GoldenInput], threads: int = 0
) -> Bundle:
    """Do what `write_bundle` does, in a child process.

    Raises:
        MagicError: What the child raised; `runtime_failed` when it was killed.
    """
    cases = [
        {"name": case.name, "text": case.text, "rgb": None if case.rgb is None else case.rgb.tolist()}
        for case in golden
    ]
    request = {"target": str(target), "manifest": dict(manifest), "golden": cases, "threads": threads}
    with TemporaryDirectory() as folder:
        _run("seal", staged, request, Path(folder))
    return Bundle.load(target)


def embed_staged(
    staged: Path,
    manifest: Mapping[str, Any],
    photos: Sequence[Path | NDArray[np.uint8]],
    texts: Sequence[str],
    runtime: str = "onnx",
) -> tuple[Floats, Floats]:
    """Embed photos (role `photo`) and texts (role `query`) with a bundle that is not sealed yet.

    Returns:
        float32 [photos, dim] and [texts, dim].

    Raises:
        MagicError: What the child raised; `runtime_failed` when it was killed.
    """
    write_provisional(staged, manifest)
    with TemporaryDirectory() as folder:
        names = []
        for place, photo in enumerate(photos):
            path = Path(folder, f"{place}.npy")
            if not isinstance(photo, Path):
                np.save(path, photo)
            names.append(str(photo if isinstance(photo, Path) else path))
        _run("embed", staged, {"photos": names, "texts": list(texts), "runtime": runtime}, Path(folder))
        with np.load(Path(folder, "vectors.npz")) as found:
            return found["photos"], found["texts"]


def _run(verb: str, staged: Path, request: Mapping[str, Any], folder: Path) -> None:
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    run_module(
        "magicmm_export.isolated",
        verb,
        str(staged),
        str(folder),
        what="The process that runs the new bundle",
        hint="It may have run out of memory; the bundle was not written.",
    )


def main(verb: str, staged: Path, folder: Path) -> int:
    """Do what a parent asks for; errors go to stdout as JSON."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    try:
        (_seal if verb == "seal" else _embed)(staged, folder, request)
    except MagicError as error:
        return hand_back(error)
    return 0


def _seal(staged: Path, _: Path, request: Mapping[str, Any]) -> None:
    golden = [
        GoldenInput(case["name"], case["text"], None if case["rgb"] is None else np.array(case["rgb"], np.uint8))
        for case in request["golden"]
    ]
    threads = request["threads"]
    embed = partial(embed_queries, threads=threads)
    write_bundle(staged, Path(request["target"]), request["manifest"], golden, threads, embed)


def _embed(staged: Path, folder: Path, request: Mapping[str, Any]) -> None:
    bundle = Bundle.load(staged)
    images = [np.load(name) if name.endswith(".npy") else name for name in request["photos"]]
    queries = [*((None, image) for image in images), *((text, None) for text in request["texts"])]
    rows = embed_queries(bundle, queries, truncate=True, runtime=request["runtime"])
    np.savez(folder / "vectors.npz", photos=rows[: len(images)], texts=rows[len(images) :])


def embed_queries(
    bundle: Bundle,
    queries: Sequence[tuple[str | None, object | None]],
    threads: int = 0,
    truncate: bool = False,
    runtime: str = "onnx",
) -> Floats:
    """Do what `Embedder.embed_query` does for many queries, with one piece of one graph in memory at a time.

    Args:
        bundle: The bundle.
        queries: Words, and a photo in any form that `Embedder` reads; one of them may be None.
        threads: 0 takes all physical cores.
        truncate: Use the beginning of a text that is too long.
        runtime: As for `Embedder.open`.

    Returns:
        float32 [n, dim], unit rows.

    Raises:
        MagicError: As `Embedder.embed_query`.
    """
    from magicmm_export.observed import Item, ObservedEncoder  # onnx is needed only here

    embedder, roles = Embedder.open(bundle, threads, runtime), bundle.manifest.roles
    if runtime == COREML and bundle.manifest.architecture == "dual_encoder":
        from magicmm_export.coreml.dual import package_embedder  # it needs torch and coremltools

        embedder = package_embedder(bundle)
    if runtime == EXECUTORCH or bundle.manifest.architecture == "dual_encoder":  # small, or one piece
        rows = [embedder.embed_query(text, image, truncate) for text, image in queries]
        return np.stack(rows) if rows else np.empty((0, bundle.manifest.dim), np.float32)
    items = []
    for text, image in queries:
        name = "query" if image is None else "photo" if text is None else "composed"
        pixels = None if image is None else embedder.prepare(image, name)
        items.append(Item(roles[name], text, pixels))
    if not items:
        return np.empty((0, bundle.manifest.dim), np.float32)
    if runtime == COREML:
        from magicmm_export.coreml.encoder import CoremlEncoder  # it needs torch and coremltools

        return CoremlEncoder(bundle).vectors(items, truncate)
    return ObservedEncoder(bundle, threads=threads, runtime=runtime).vectors(items, truncate)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
