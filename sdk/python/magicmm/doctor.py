"""Look at bundle and index, say what is wrong and what to do; set a damaged index aside."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from magicmm.bundle import Bundle
from magicmm.concept_rows import ConceptRows, describe
from magicmm.errors import ErrorCode, MagicError
from magicmm.image import heic_supported
from magicmm.index import Index
from magicmm.locking import writer_lock
from magicmm.scan import data_is_sound, open_scan_file, scan_path
from magicmm.schema import translated_errors
from magicmm.sources import FolderSource, uri_path

if TYPE_CHECKING:
    import os

    from magicmm.records import Model

INDEX_SUFFIXES = ("", "-wal", "-shm", ".scan", ".scan.new")
"""The files of one index, by what follows its name; the lock file carries no data."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: state "ok", "warn" (works, but you may want to know) or "fail"."""

    state: str
    subject: str
    message: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the finding for JSON."""
        return asdict(self)


def examine(
    index_path: Path, bundle_path: str | os.PathLike[str] | None, threads: int = 0, runtime: str = "onnx"
) -> list[Finding]:
    """Check everything that can be wrong; changes nothing."""
    findings: list[Finding] = []
    bundle = None
    try:
        bundle = Bundle.default() if bundle_path is None else Bundle.load(bundle_path)
        findings += _examine_bundle(bundle, threads, runtime)
    except MagicError as error:
        findings.append(Finding("fail", "model", error.message, error.remedy))
    findings.append(
        Finding("ok", "heic", "HEIC photos can be read.")
        if heic_supported()
        else Finding("warn", "heic", "HEIC photos are skipped.", 'pip install "magicmm[heic]"')
    )
    if not index_path.exists():
        return [*findings, Finding("warn", "index", f"There is no index at {index_path} yet.", "magicmm index DIR")]
    try:
        with closing(Index(index_path)) as index:
            findings += _examine_index(index, bundle)
    except MagicError as error:
        findings.append(Finding("fail", "index", error.message, error.remedy))
    return findings


def _examine_bundle(bundle: Bundle, threads: int, runtime: str) -> Iterator[Finding]:
    report = bundle.verify(threads, runtime)
    name = f"{bundle.manifest.id} ({bundle.total_bytes / 1e6:.1f} MB)"
    if report.passes:
        yield Finding("ok", "model", f"{name}: hashes right, golden cases at cosine {report.least_cosine:.6f}.")
    else:
        yield Finding(
            "fail",
            "model",
            f"{name}: golden cases differ here (cosine {report.least_cosine:.4f}).",
            "Update onnxruntime, or use another bundle.",
        )


def _examine_index(index: Index, bundle: Bundle | None) -> Iterator[Finding]:
    problems = index.check_integrity()
    if problems:
        yield Finding("fail", "index", f"{index.path} is damaged: {problems[0]}.", "magicmm rebuild")
        return
    model = index.active_model()
    photos = 0 if model is None else index.count_vectors(model)
    yield Finding("ok", "index", f"{index.path} is sound and holds {photos:,} photos.")
    if model is not None:
        yield from _examine_model(index, model, bundle)
        yield from _examine_taught(index, model)
    yield from _examine_sources(index)
    skips = Counter(skip.reason.value for skip in index.skips())
    if skips:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skips.most_common())
        yield Finding("warn", "photos", f"Skipped: {reasons}.", "magicmm status (lists each with its reason)")


def _examine_model(index: Index, model: Model, bundle: Bundle | None) -> Iterator[Finding]:
    if bundle is not None and bundle.fingerprint != model.fingerprint:
        yield Finding(
            "fail",
            "match",
            f"The index was made with {model.name}, not with this {bundle.manifest.id}.",
            "Give that bundle with --bundle, or: magicmm rebuild",
        )
    missing = index.count_missing(model)
    if missing:
        yield Finding("warn", "photos", f"{missing:,} photos have no vector yet.", "magicmm index")
    path = scan_path(index.path)
    if open_scan_file(path, index, model) is None:
        yield Finding("warn", "scan", "No current scan file; a search reads the index instead.", "magicmm index")
    elif not data_is_sound(path):
        yield Finding("fail", "scan", f"{path} is damaged.", f"Delete {path}; it is made again from the index.")
    else:
        yield Finding("ok", "scan", f"{path} is sound.")


def _examine_taught(index: Index, model: Model) -> Iterator[Finding]:
    rows = ConceptRows(index)
    for known in rows.known().values():
        concept = describe(known, rows.examples(known), model.fingerprint)
        if concept.stale:
            yield Finding(
                "warn",
                "taught",
                f"{concept.stale:,} photos of {concept.name!r} do not count: another model made their vectors.",
                "magicmm index (when the photos are there), or teach the name again",
            )


def _examine_sources(index: Index) -> Iterator[Finding]:
    for uri in index.sources():
        if not uri.startswith("file:///"):
            continue
        ids = index.photo_ids(uri)
        if FolderSource(uri_path(uri)).changes({}, ids.keys()).unavailable:
            yield Finding(
                "warn",
                "folder",
                f"{uri_path(uri)} (or a part of it) cannot be read; its {len(ids):,} photos stay in the index.",
                "Connect the drive, or: magicmm forget DIR",
            )


def set_aside_if_damaged(index_path: Path) -> tuple[Path | None, list[FolderSource]]:
    """Rename the files of a damaged index so that a new one can be made; a sound index is left alone.

    Returns:
        Where the damaged file is kept (None = nothing was wrong) and the folders it still names.

    Raises:
        MagicError: `index_too_new`, `index_locked`, `storage_failed`.
    """
    if not index_path.exists() or not _is_damaged(index_path):
        return None, []
    sources = _salvage_sources(index_path)
    stem = f"{index_path.name}.damaged-{datetime.now():%Y%m%d-%H%M%S}"
    with writer_lock(index_path), translated_errors(index_path):
        for suffix in INDEX_SUFFIXES:
            path = index_path.with_name(index_path.name + suffix)
            if path.exists():
                path.rename(index_path.with_name(stem + suffix))
    return index_path.with_name(stem), sources


def _is_damaged(index_path: Path) -> bool:
    try:
        with closing(Index(index_path)) as index:
            index.skips()
            return bool(index.check_integrity())
    except MagicError as error:
        if error.code is not ErrorCode.INDEX_CORRUPT:
            raise
        return True


def _salvage_sources(index_path: Path) -> list[FolderSource]:
    with contextlib.suppress(sqlite3.Error, MagicError, OSError):
        with closing(sqlite3.connect(f"{index_path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            rows = [str(uri) for (uri,) in database.execute("SELECT uri FROM source")]
        return [FolderSource(uri_path(uri)) for uri in rows if uri.startswith("file:///")]
    return []
