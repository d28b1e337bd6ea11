"""Turn a folder of staged files into a bundle: golden cases, hashes, manifest, verification, one rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm.manifest import FORMAT, FORMAT_VERSION
from magicmm.runtime import ONNX
from magicmm.verify import golden_case, verify_bundle

if TYPE_CHECKING:
    from magicmm.embedder import Matrix
    from magicmm.verify import Query

    class Embed(Protocol):
        """Runs queries on a bundle."""

        def __call__(self, bundle: Bundle, queries: Sequence[Query], *, runtime: str) -> Matrix:
            """Return float32 [n, dim], unit rows."""
            ...


GOLDEN = "golden/cases.json"


@dataclass(frozen=True)
class GoldenInput:
    """What one golden case asks: words, a picture (uint8 [h, w, 3]), or both."""

    name: str
    text: str | None = None
    rgb: NDArray[np.uint8] | None = None


def write_bundle(
    staged: Path,
    target: Path,
    manifest: Mapping[str, Any],
    golden: Sequence[GoldenInput],
    threads: int = 0,
    embed: Embed | None = None,
) -> Bundle:
    """Complete the staged folder and rename it to `target`, replacing what was there.

    Args:
        staged: A folder beside `target` that holds graphs, tokenizer and tables; it is gone afterwards.
        target: The bundle, `NAME.magicmm`.
        manifest: Everything but format, files and golden, which are filled in here.
        golden: Cases whose vectors, computed here, every later `verify` has to meet.
        threads: Threads of the model while golden vectors are computed.
        embed: What runs the golden cases, on the runtime that it is given; None = the SDK's `Embedder`.

    Raises:
        MagicError: `bundle_invalid` when the finished bundle does not verify; `target` is untouched then.
    """
    (staged / GOLDEN).parent.mkdir(exist_ok=True)
    pictures = _write_pictures(staged, golden)
    write_provisional(staged, manifest)
    provisional = Bundle.load(staged)
    embedder = Embedder.open(provisional, threads)
    queries = [(case.text, case.rgb) for case in golden]
    manifest_read = provisional.manifest
    runtimes = (*sorted(manifest_read.graphs, key=lambda name: name != ONNX), *manifest_read.alternatives)
    run = embed or partial(_embed, threads=threads)
    vectors = {runtime: run(provisional, queries, runtime=runtime) for runtime in runtimes}
    cases = [
        golden_case(
            embedder,
            case.name,
            case.text,
            None if case.rgb is None else (pictures[case.rgb.tobytes()], case.rgb),
            {runtime: rows[place] for runtime, rows in vectors.items()},
        )
        for place, case in enumerate(golden)
    ]
    _write_json(staged / GOLDEN, {"cases": cases}, indent=None)
    _write_manifest(staged, manifest)
    complete = Bundle.load(staged)
    for runtime in runtimes:
        if not verify_bundle(complete, threads, partial(run, complete, runtime=runtime), runtime).passes:
            raise MagicError(
                ErrorCode.BUNDLE_INVALID,
                f"{staged} does not verify on {runtime}.",
                "Nothing was written to the target.",
            )
    _replace(staged, target)
    return Bundle.load(target)


def write_provisional(staged: Path, manifest: Mapping[str, Any]) -> None:
    """Make a staged folder one that the SDK opens, without hashes and golden cases; `write_bundle` replaces it."""
    (staged / GOLDEN).parent.mkdir(exist_ok=True)
    _write_json(staged / GOLDEN, {"cases": []})
    _write_manifest(staged, manifest, hashed=False)


def weights_identity(files: Sequence[Path]) -> str:
    """Return the `weights` field: SHA-256 over the SHA-256 of each file, in the given order."""
    return hashlib.sha256(b"".join(bytes.fromhex(_sha256(file)) for file in files)).hexdigest()


def _embed(bundle: Bundle, queries: Sequence[Query], threads: int, runtime: str) -> Matrix:
    embedder = Embedder.open(bundle, threads, runtime)
    rows = [embedder.embed_query(*query) for query in queries]
    return np.stack(rows) if rows else np.empty((0, embedder.dim), np.float32)


def _write_pictures(staged: Path, golden: Sequence[GoldenInput]) -> dict[bytes, str]:
    """Write the pictures of golden cases, named after the first case that shows each; return the file of each."""
    names: dict[bytes, str] = {}
    for case in golden:
        if case.rgb is not None and (content := case.rgb.tobytes()) not in names:
            names[content] = f"golden/{case.name}.rgb"
            (staged / names[content]).write_bytes(content)
    return names


def _write_manifest(folder: Path, manifest: Mapping[str, Any], hashed: bool = True) -> None:
    facts = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest, "golden": GOLDEN}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": _sha256(path) if hashed else "0" * 64,
        }
        for path in paths
    }
    _write_json(folder / "manifest.json", {**facts, "files": files})


def _sha256(path: Path) -> str:
    """Hash a file piece by piece: weights may be larger than memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def _write_json(path: Path, content: Mapping[str, Any], indent: int | None = 1) -> None:
    separators = None if indent else (",", ":")
    path.write_text(
        json.dumps(content, indent=indent, separators=separators, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _replace(staged: Path, target: Path) -> None:
    for path in staged.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    old = target.with_name(target.name + ".old")
    if target.exists():
        target.rename(old)
    staged.rename(target)
    shutil.rmtree(old, ignore_errors=True)
