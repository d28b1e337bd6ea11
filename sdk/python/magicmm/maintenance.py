"""The writing side of a gallery: one process at a time brings an index up to date, rebuilds it, forgets sources."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm.index import Index
from magicmm.locking import writer_lock
from magicmm.results import Plan, Progress
from magicmm.scan import ScanMatrix, discard_useless_files, write_scan_file
from magicmm.sources import FolderSource, PhotoSource, uri_path
from magicmm.sync import Budget, find_work, run_sync
from magicmm.teaching import put_renewed, renew_examples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from magicmm.embedder import Embedder
    from magicmm.records import Model


class Maintenance:
    """What `Gallery` does to its index; each call has a connection of its own, so that searches go on beside it."""

    def __init__(self, index_path: Path, embedder: Embedder, sources: Sequence[PhotoSource]) -> None:
        """Take the index, the model, and the sources that the caller brought."""
        self._path = index_path
        self._embedder = embedder
        self._given = sources

    def plan(self) -> Plan:
        """See `Gallery.plan`."""
        with closing(Index(self._path)) as index:
            tasks, removed, unavailable = find_work(index, index.active_model(), self._all_sources(index))
            new = sum(task.photo_id is None for task in tasks)
            rate = index.meta_rate("photos_per_second")
            return Plan(
                new=new,
                changed=len(tasks) - new,
                removed=len(removed),
                unchanged=max(0, index.count_photos() - (len(tasks) - new) - len(removed)),
                seconds=len(tasks) / rate if rate > 0 else None,
                unavailable=tuple(unavailable),
            )

    def sync(self, budget: Budget) -> Iterator[Progress]:
        """See `Gallery.sync`."""
        with writer_lock(self._path), closing(Index(self._path)) as index:
            model = self._model_to_fill(index)
            yield from self._fill(index, model, budget)
            self._finish(index, model)

    def rebuild(self, budget: Budget) -> Iterator[Progress]:
        """See `Gallery.rebuild`."""
        with writer_lock(self._path), closing(Index(self._path)) as index:
            self._embedder.bundle.check_hashes()
            model = self._model_to_rebuild(index)
            last = None
            for last in self._fill(index, model, budget):
                yield last
            missing = index.count_missing(model)
            if missing and last is not None and last.done == last.total:
                raise MagicError(
                    ErrorCode.SOURCE_UNAVAILABLE,
                    f"{missing} photos in {', '.join(last.unavailable)} cannot be reached; the old vectors stay.",
                    "Connect the drive and run rebuild again, or: magicmm forget DIR",
                )
            if missing == 0:
                renewed = renew_examples(index, model, self._embedder, self._all_sources(index))
                with index.transaction():
                    index.activate_model(model)
                    put_renewed(index, renewed)
                write_scan_file(index, model)

    def forget(self, source_uri: str) -> None:
        """See `Gallery.forget`."""
        with writer_lock(self._path), closing(Index(self._path)) as index:
            if source_uri not in index.sources():
                known = ", ".join(index.sources()) or "none"
                raise MagicError(
                    ErrorCode.ARGUMENT_INVALID, f"{source_uri} is not a source of this index.", f"It knows: {known}."
                )
            with index.transaction():
                index.remove_source(source_uri)
            model = index.active_model()
            if model is not None:
                write_scan_file(index, model)

    def _model_to_fill(self, index: Index) -> Model:
        model = index.active_model()
        if model is None:
            # From here on vectors carry this fingerprint: the files must be what the manifest says.
            self._embedder.bundle.check_hashes()
            with index.transaction():
                return self._add_model(index, is_active=True)
        if model.fingerprint != self._embedder.fingerprint:
            raise model_mismatch(model, self._embedder)
        return model

    def _model_to_rebuild(self, index: Index) -> Model:
        """Return the model that a rebuild fills: a fresh one, or the same one when a rebuild was interrupted."""
        for model in index.models():
            if not model.is_active:
                if model.fingerprint == self._embedder.fingerprint:
                    return model
                with index.transaction():
                    index.drop_model(model)
        with index.transaction():
            return self._add_model(index, is_active=False)

    def _add_model(self, index: Index, is_active: bool) -> Model:
        embedder = self._embedder
        return index.add_model(embedder.fingerprint, embedder.bundle.manifest.id, embedder.dim, is_active)

    def _fill(self, index: Index, model: Model, budget: Budget) -> Iterator[Progress]:
        discard_useless_files(index)
        sources = self._all_sources(index)
        unknown = {source.uri for source in sources} - set(index.sources())
        if unknown:  # a search looks for new photos first: nothing new must cost no write
            with index.transaction():
                for uri in unknown:
                    index.add_source(uri)
        last = None
        for last in run_sync(index, model, self._embedder, sources, budget):
            yield last
        if last is not None and last.embedded:
            with index.transaction():
                index.set_meta("photos_per_second", last.rate)

    def _finish(self, index: Index, model: Model) -> None:
        # Photos that could not be found when the model changed, or a rebuild by an SDK that knows no concepts.
        renewed = renew_examples(index, model, self._embedder, self._all_sources(index))
        if renewed:
            with index.transaction():
                put_renewed(index, renewed)
        if ScanMatrix.load(index, model).is_worth_rewriting:
            write_scan_file(index, model)

    def _all_sources(self, index: Index) -> list[PhotoSource]:
        """Return the given sources and the folders the index knows; a folder inside another one is left to it."""
        sources: dict[str, PhotoSource] = {
            uri: FolderSource(uri_path(uri)) for uri in index.sources() if uri.startswith("file:///")
        }
        sources |= {source.uri: source for source in self._given}
        return [s for uri, s in sources.items() if not any(uri != other and uri.startswith(other) for other in sources)]


def model_mismatch(model: Model, embedder: Embedder) -> MagicError:
    """Return the error for an index whose vectors another model made."""
    return MagicError(
        ErrorCode.MODEL_MISMATCH,
        f"The index was made with {model.name} ({model.fingerprint[:12]}), not with"
        f" {embedder.bundle.manifest.id} ({embedder.fingerprint[:12]}).",
        "Use that bundle (--bundle), or embed the photos anew: magicmm rebuild",
    )
