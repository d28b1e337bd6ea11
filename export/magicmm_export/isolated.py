"""Run a staged bundle in a process of its own, without torch: its graphs need memory that export must not add to."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicmm import Bundle, Embedder, MagicError
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
    staged: Path, manifest: Mapping[str, Any], photos: Sequence[Path | NDArray[np.uint8]], texts: Sequence[str]
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
        _run("embed", staged, {"photos": names, "texts": list(texts)}, Path(folder))
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
    write_bundle(staged, Path(request["target"]), request["manifest"], golden, request["threads"])


def _embed(staged: Path, folder: Path, request: Mapping[str, Any]) -> None:
    embedder = Embedder.open(staged)
    images = [np.load(name) if name.endswith(".npy") else name for name in request["photos"]]
    texts = [embedder.embed_text(text, truncate=True) for text in request["texts"]]
    rows = np.stack(texts) if texts else np.empty((0, embedder.dim), np.float32)
    # One at a time: activations of a batch would add to the memory of both graphs.
    photos = [embedder.embed_image(image) for image in images]
    found = np.stack(photos) if photos else np.empty((0, embedder.dim), np.float32)
    np.savez(folder / "vectors.npz", photos=found, texts=rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
