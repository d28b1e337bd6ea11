"""What each verb of the command line does: ask the SDK, write the answer to stdout."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicmm.cli import printable
from magicmm.errors import ErrorCode, MagicError
from magicmm.results import NOTHING_MATCHES, say_signals
from magicmm.terminal import show_progress

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from magicmm.concepts import Concept
    from magicmm.gallery import Gallery
    from magicmm.results import Match, Progress, Results


def run_index(options: Namespace) -> int:
    """Add folders and sync."""
    from magicmm.sources import require_folder
    from magicmm.sync import Budget

    with _open_gallery(options, [require_folder(folder) for folder in options.folders]) as gallery:
        if options.plan:
            return _say_plan(gallery, options.json)
        last = show_progress(gallery.sync(Budget(seconds=options.budget)))
        status = gallery.status()
        if options.json:
            answer = _counts(last) | {"indexed": status.indexed, "all_skipped": len(status.skipped)}
            _write_json(answer)
        else:
            _write_lines([f"{status.indexed:,} photos indexed, {len(status.skipped):,} skipped (see: magicmm status)"])
    return 0


def run_search(options: Namespace) -> int:
    """Find photos by words, photo or both."""
    if options.text is None and options.image is None:
        raise MagicError(ErrorCode.ARGUMENT_INVALID, "There is nothing to search for.", "Give TEXT, --image, or both.")
    with _open_gallery(options) as gallery:
        _sync_first(gallery, options)
        image = None if options.image is None else Path(options.image)
        switches = {"taught": not options.no_taught, "signals": not options.no_signals}
        results = gallery.search(options.text, image, options.k, options.min_score, _filter(options), **switches)
        title = " + ".join(part for part in (options.text, image and f"photo {image.name}") if part)
        _answer(results, options, title, {"text": options.text, "image": options.image})
    return 0


def run_similar(options: Namespace) -> int:
    """Find photos like a given one, which is left out."""
    from magicmm.sources import path_uri

    photo = Path(options.photo)
    uri = path_uri(photo)
    with _open_gallery(options) as gallery:
        _sync_first(gallery, options)
        photo_id = gallery.photo_id(uri)
        if photo_id is None:
            results = gallery.search(None, photo, options.k, options.min_score, _filter(options))
        else:
            results = gallery.similar(photo_id, options.k, options.min_score, _filter(options))
        _answer(results, options, f"like {photo.name}", {"photo": options.photo})
    return 0


def run_duplicates(options: Namespace) -> int:
    """Group duplicates."""
    with _open_gallery(options) as gallery:
        groups = gallery.duplicates(options.min_score)
    if options.json:
        _write_json({"groups": [{"kind": g.kind, "photos": [_hit(m) for m in g.photos]} for g in groups]})
    else:
        _write_lines("\n".join(printable(_path(m.uri)) for m in group.photos) + "\n" for group in groups)
        sys.stderr.write(f"{len(groups)} groups\n")
    return 0


def run_status(options: Namespace) -> int:
    """Say what is indexed and what was skipped."""
    with _open_gallery(options) as gallery:
        status = gallery.status()
    skipped = [{"path": _path(s.uri), "reason": s.reason.value, "detail": s.detail} for s in status.skipped]
    sources = [_path(uri) for uri in status.sources]
    if options.json:
        facts = {name: getattr(status, name) for name in ("index_path", "index_bytes", "model", "fingerprint", "dim")}
        progress = {"rebuilding": status.rebuilding, "rebuilt": status.rebuilt}
        _write_json(facts | {"indexed": status.indexed, "sources": sources, "skipped": skipped} | progress)
        return 0
    lines = [
        f"index    {status.index_path} ({status.index_bytes / 1e6:.1f} MB)",
        f"model    {status.model or 'none yet'}",
        *(f"folder   {printable(path)}" for path in sources),
        f"photos   {status.indexed:,} indexed, {len(skipped):,} skipped",
    ]
    if status.rebuilding:
        lines.append(f"rebuild  {status.rebuilt:,} photos done with {status.rebuilding}; run: magicmm rebuild")
    for reason, count in Counter(skip["reason"] for skip in skipped).most_common():
        lines.append(f"skipped  {count:,} x {reason}")
    lines += [f"         {printable(skip['path'])}: {printable(skip['detail'])}" for skip in skipped]
    _write_lines(lines)
    return 0


def run_doctor(options: Namespace) -> int:
    """Check everything; fail when something needs the user."""
    from magicmm.doctor import examine

    findings = examine(_index_path(options), options.bundle, options.threads, options.runtime)
    if options.json:
        _write_json({"findings": [finding.as_dict() for finding in findings]})
    else:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            _write_lines([f"{finding.state:5} {finding.subject:{width}}  {printable(finding.message)}"])
            if finding.remedy:
                _write_lines([f"      {'':{width}}  -> {printable(finding.remedy)}"])
    return 1 if any(finding.state == "fail" for finding in findings) else 0


def run_rebuild(options: Namespace) -> int:
    """Embed all photos anew; a damaged index is set aside first."""
    from magicmm.doctor import set_aside_if_damaged
    from magicmm.sources import require_folder
    from magicmm.teaching import restore_concepts

    sources: list[Any] = [require_folder(folder) for folder in options.folders]
    aside, known = set_aside_if_damaged(_index_path(options))
    if aside is not None:
        sys.stderr.write(f"magicmm: the damaged index is kept as {printable(str(aside))}\n")
        sources += known
        if not sources:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "The damaged index no longer says which folders it held.",
                "Name them: magicmm rebuild DIR...",
            )
    with _open_gallery(options, sources) as gallery:
        last = show_progress(gallery.rebuild() if aside is None else gallery.sync())
        indexed = gallery.status().indexed
    if aside is not None:
        restore_concepts(aside, _index_path(options))
    if options.json:
        _write_json(_counts(last) | {"indexed": indexed, "set_aside": None if aside is None else str(aside)})
    else:
        _write_lines([f"{indexed:,} photos indexed anew"])
    return 0


def run_forget(options: Namespace) -> int:
    """Remove folders or taught names from the index."""
    with _open_gallery(options) as gallery:
        for what in options.what:
            gallery.forget(what if options.taught else _to_forget(what, gallery))
        left, names = gallery.status(), [concept.name for concept in gallery.taught()]
    if options.json:
        _write_json({"indexed": left.indexed, "sources": [_path(uri) for uri in left.sources], "taught": names})
    else:
        _write_lines([f"{left.indexed:,} photos of {len(left.sources)} folders left, {len(names)} taught names"])
    return 0


def _to_forget(what: str, gallery: Gallery) -> str:
    """Return a taught name as it is and the URI of a folder: what was typed may be either."""
    from magicmm.concepts import key_of, may_be_name
    from magicmm.sources import FolderSource

    folder, sources, names = FolderSource(what).uri, gallery.status().sources, [c.name for c in gallery.taught()]
    is_name = may_be_name(what) and key_of(what) in map(key_of, names)
    if is_name and folder in sources:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{what!r} is a folder of the index and a taught name.",
            f"For the folder write {os.path.join(os.curdir, what)!r}, for the name add --taught.",
        )
    if not is_name and folder not in sources:
        known = ", ".join([*map(_path, sources), *map(repr, names)]) or "nothing"
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{what!r} is not a source of this index, and no taught name.",
            f"It knows: {known}.",
        )
    return what if is_name else folder


def run_teach(options: Namespace) -> int:
    """Teach a name by photos."""
    with _open_gallery(options) as gallery:
        concept = gallery.teach(options.name, options.photos, options.noun, options.replace)
    if options.json:
        _write_json(_concept(concept))
    else:
        _write_lines([f"{printable(concept.name)!r} is taught by {concept.examples:,} photos"])
    return 0


def run_taught(options: Namespace) -> int:
    """List what was taught."""
    with _open_gallery(options) as gallery:
        concepts = gallery.taught()
    if options.json:
        _write_json({"taught": [_concept(concept) for concept in concepts]})
        return 0
    for concept in concepts:
        noun = f" ({concept.noun})" if concept.noun else ""
        _write_lines([printable(f"{concept.name}{noun}: {concept.examples:,} photos")])
        if concept.stale:
            _write_lines(
                [f"  {concept.stale:,} photos of another model do not count until they are found or taught again"]
            )
    sys.stderr.write(f"{len(concepts)} taught names\n")
    return 0


def run_verify(options: Namespace) -> int:
    """Check a bundle here."""
    report = _bundle(options.bundle).verify(runtime=options.runtime)
    if options.json:
        checks = [{"name": c.name, "inputs_equal": c.inputs_equal, "cosine": c.cosine} for c in report.checks]
        _write_json({"passes": report.passes, "files": report.files, "bytes": report.bytes, "checks": checks})
    else:
        _write_lines(
            [
                f"{report.files} files, {report.bytes / 1e6:.1f} MB: hashes are right",
                *(
                    f"{'ok' if c.passes else 'DRIFT':5} {c.name}: inputs {'equal' if c.inputs_equal else 'DIFFER'},"
                    f" cosine {c.cosine:.6f}"
                    for c in report.checks
                ),
            ]
        )
    return 0 if report.passes else 1


def run_info(options: Namespace) -> int:
    """Say what a bundle is."""
    bundle = _bundle(options.bundle)
    raw = bundle.manifest.raw
    if options.json:
        answer = {key: value for key, value in raw.items() if key != "files"}
        _write_json(answer | {"path": str(bundle.path), "bytes": bundle.total_bytes, "fingerprint": bundle.fingerprint})
        return 0
    facts = {
        "id": bundle.manifest.id,
        "title": raw.get("title"),
        "path": bundle.path,
        "architecture": bundle.manifest.architecture.replace("_", " "),
        "dimensions": bundle.manifest.dim,
        "size": f"{bundle.total_bytes / 1e6:.1f} MB in {len(bundle.manifest.files)} files",
        "runtimes": ", ".join([*bundle.manifest.graphs, *bundle.manifest.alternatives]),
        "photo": f"{bundle.manifest.image.side} px, views: {', '.join(bundle.manifest.image.views)}",
        "text": f"at most {bundle.manifest.text.max_tokens} tokens",
        "roles": ", ".join(bundle.manifest.roles),
        "quantisation": ", ".join(f"{part}: {scheme}" for part, scheme in bundle.manifest.quantisation.items()),
        "licence": raw.get("licence"),
        "fingerprint": bundle.fingerprint,
    }
    _write_lines(f"{name:13} {printable(str(value))}" for name, value in facts.items() if value)
    return 0


def _open_gallery(options: Namespace, sources: Sequence[Any] = ()) -> Gallery:
    from magicmm.embedder import Embedder
    from magicmm.gallery import Gallery

    threads, runtime = getattr(options, "threads", 0), getattr(options, "runtime", "onnx")
    embedder = Embedder.open(getattr(options, "bundle", None), threads, runtime)
    return Gallery.open(_index_path(options), embedder, sources)


def _index_path(options: Namespace) -> Path:
    from magicmm.gallery import default_index_path

    return default_index_path() if options.index is None else Path(options.index)


def _bundle(path: str | None) -> Any:
    from magicmm.bundle import Bundle

    return Bundle.default() if path is None else Bundle.load(path)


def _sync_first(gallery: Gallery, options: Namespace) -> None:
    if options.no_sync:
        return
    try:
        show_progress(gallery.sync())
    except MagicError as error:
        # Searching must go on beside a running sync, on a read-only index, and with a full disk.
        if error.code not in (ErrorCode.INDEX_LOCKED, ErrorCode.STORAGE_FAILED):
            raise
        sys.stderr.write(f"magicmm: not looking for new photos: {printable(error.message)}\n")


def _filter(options: Namespace) -> Any:
    from magicmm.filters import Filter
    from magicmm.sources import folder_uri

    under = tuple(folder_uri(Path(folder)) for folder in options.under)
    return Filter(since=options.since, until=options.until, under=under)


def _answer(results: Results, options: Namespace, title: str, query: dict[str, Any]) -> None:
    hits = [_hit(match) for match in results.matches]
    if results.is_doubtful and not options.json:
        sys.stderr.write(f"{NOTHING_MATCHES}\n")
    if (lifted := say_signals(results)) and not options.json:
        sys.stderr.write(f"{printable(lifted)}\n")
    if options.sheet is not None:
        from magicmm.sheet import write_sheet

        write_sheet(Path(options.sheet), title, results)
        sys.stderr.write(f"contact sheet: {printable(options.sheet)}\n")
    if options.null:
        sys.stdout.flush()
        sys.stdout.buffer.write(b"".join(os.fsencode(hit["path"]) + b"\0" for hit in hits))
    elif options.jsonl:
        _write_lines(json.dumps(hit) for hit in hits)
    elif options.json:
        sure = None if results.confidence is None else round(results.confidence, 4)
        doubt = {"confidence": sure, "is_doubtful": results.is_doubtful}
        fired = [{"kind": signal.kind, "words": signal.words} for signal in results.signals]
        told = {"taught": list(results.taught), "signals": fired, "signal_weight": results.signal_weight}
        _write_json({"query": query, "searched": results.searched, **told, **doubt, "hits": hits})
    else:
        _write_lines(f"{hit['score']:6.3f}  {printable(hit['path'])}" for hit in hits)
        if results.taught:
            sys.stderr.write(f"taught: {printable(', '.join(results.taught))}\n")
        sys.stderr.write(f"{len(hits)} of {results.searched:,} photos\n")


def _hit(match: Match) -> dict[str, Any]:
    taken = None if match.taken is None else datetime.fromtimestamp(match.taken, timezone.utc)
    return {
        "path": _path(match.uri),
        "score": round(match.score, 6),
        "id": match.id,
        "uri": match.uri,
        "taken": taken and taken.replace(tzinfo=None).isoformat(),
        "width": match.width,
        "height": match.height,
        "signals": dict(match.signals),
    }


def _concept(concept: Concept) -> dict[str, Any]:
    facts = {name: getattr(concept, name) for name in ("name", "noun", "examples", "stale")}
    return facts | {"photos": [_path(uri) for uri in concept.uris]}


def _path(uri: str) -> str:
    from magicmm.sources import uri_path

    return os.fspath(uri_path(uri)) if uri.startswith("file:///") else uri


def _say_plan(gallery: Gallery, as_json: bool) -> int:
    plan = gallery.plan()
    if as_json:
        _write_json({name: getattr(plan, name) for name in plan.__slots__})
        return 0
    estimate = "unknown before the first sync" if plan.seconds is None else f"about {plan.seconds:,.0f} s"
    _write_lines(
        [
            f"{plan.new:,} new, {plan.changed:,} changed, {plan.removed:,} gone, {plan.unchanged:,} unchanged",
            f"time: {estimate}",
            *(f"cannot be read now: {printable(_path(uri))}" for uri in plan.unavailable),
        ]
    )
    return 0


def _counts(last: Progress | None) -> dict[str, Any]:
    names = ("done", "total", "embedded", "reused", "removed", "skipped", "rate")
    answer: dict[str, Any] = {} if last is None else {name: getattr(last, name) for name in names}
    return answer | {"unavailable": [] if last is None else [_path(uri) for uri in last.unavailable]}


def _write_lines(lines: Any) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")


def _write_json(answer: dict[str, Any]) -> None:
    # ASCII escapes also carry names that are not UTF-8 (lone surrogates), which UTF-8 output could not.
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")
