package dev.magicmm

import java.nio.file.Path

/**
 * The writing side of a gallery: one process at a time brings an index up to date, rebuilds it, forgets sources. Each
 * call has a connection of its own, so that searches go on beside it.
 */
internal class Maintenance(
    private val indexPath: Path,
    private val driver: DatabaseDriver,
    private val embedder: PhotoEmbedder,
    private val given: List<PhotoSource>,
) {
    /** See [Gallery.plan]. */
    fun plan(): Plan = Index(indexPath, driver).use { index ->
        val work = Sync.findWork(index, index.activeModel(), allSources(index))
        val new = work.tasks.count { it.photoId == null }
        val changed = work.tasks.size - new
        val rate = index.metaRate("photos_per_second")
        Plan(
            new = new,
            changed = changed,
            removed = work.removed.size,
            unchanged = maxOf(0, index.countPhotos() - changed - work.removed.size),
            seconds = if (rate > 0) work.tasks.size / rate else null,
            unavailable = work.unavailable,
        )
    }

    /** See [Gallery.sync]. */
    fun sync(control: Control): Progress = writing { index ->
        val model = modelToFill(index)
        val last = fill(index, model, control)
        // Photos that could not be found when the model changed, or a rebuild by an SDK that knows no concepts.
        val renewed = renewExamples(index, model, embedder, allSources(index))
        if (renewed.isNotEmpty()) index.transaction { index.putRenewed(renewed) }
        if (ScanMatrix.load(index, model).isWorthRewriting) writeScanFile(index, model)
        last
    }

    /** See [Gallery.rebuild]. */
    fun rebuild(control: Control): Progress = writing { index ->
        embedder.checkHashes()
        val model = modelToRebuild(index)
        val last = fill(index, model, control)
        val missing = index.countMissing(model)
        if (missing > 0 && last.done == last.total) {
            throw MagicError(
                ErrorCode.SOURCE_UNAVAILABLE,
                "$missing photos in ${last.unavailable.joinToString()} cannot be reached; the old vectors stay.",
                "Connect the drive and rebuild again, or forget its source.",
            )
        }
        if (missing == 0) {
            val renewed = renewExamples(index, model, embedder, allSources(index))
            index.transaction {
                index.activateModel(model)
                index.putRenewed(renewed)
            }
            writeScanFile(index, model)
        }
        last
    }

    /** See [Gallery.forget]. */
    fun forget(sourceUri: String): Unit = writing { index ->
        if (sourceUri !in index.sources()) {
            val known = index.sources().joinToString().ifEmpty { "none" }
            throw MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "$sourceUri is not a source of this index.",
                "It knows: $known.",
            )
        }
        index.transaction { index.removeSource(sourceUri) }
        index.activeModel()?.let { writeScanFile(index, it) }
    }

    private fun <T> writing(work: (Index) -> T): T = writerLock(indexPath) { Index(indexPath, driver).use(work) }

    private fun modelToFill(index: Index): Model {
        val model = index.activeModel()
        if (model == null) {
            // From here on vectors carry this fingerprint: the files must be what the manifest says.
            embedder.checkHashes()
            return index.transaction { addModel(index, isActive = true) }
        }
        if (model.fingerprint != embedder.fingerprint) throw modelMismatch(model, embedder)
        return model
    }

    /** Returns the model that a rebuild fills: a fresh one, or the same one when a rebuild was interrupted. */
    private fun modelToRebuild(index: Index): Model {
        for (model in index.models().filterNot { it.isActive }) {
            if (model.fingerprint == embedder.fingerprint) return model
            index.transaction { index.dropModel(model) }
        }
        return index.transaction { addModel(index, isActive = false) }
    }

    private fun addModel(index: Index, isActive: Boolean): Model =
        index.addModel(embedder.fingerprint, embedder.name, embedder.dim, isActive)

    private fun fill(index: Index, model: Model, control: Control): Progress {
        discardUselessFiles(index)
        val sources = allSources(index)
        val unknown = sources.map { it.uri } - index.sources().toSet()
        // A search looks for new photos first: nothing new must cost no write.
        if (unknown.isNotEmpty()) index.transaction { unknown.forEach(index::addSource) }
        val last = Sync(index, model, embedder, Sync.findWork(index, model, sources), control).run()
        if (last.embedded > 0) index.transaction { index.setMeta("photos_per_second", last.rate) }
        return last
    }

    /** Returns the given sources and the folders the index knows; a folder inside another one is left to it. */
    private fun allSources(index: Index): List<PhotoSource> {
        val sources = LinkedHashMap<String, PhotoSource>()
        for (uri in index.sources()) if (uri.startsWith("file:///")) sources[uri] = FolderSource(uriPath(uri))
        given.associateByTo(sources) { it.uri }
        return sources.filterKeys { uri -> sources.keys.none { it != uri && uri.startsWith(it) } }.values.toList()
    }
}

/** Returns the error for an index whose vectors another model made. */
internal fun modelMismatch(model: Model, embedder: PhotoEmbedder): MagicError = MagicError(
    ErrorCode.MODEL_MISMATCH,
    "The index was made with ${model.name} (${model.fingerprint.take(12)}), not with" +
        " ${embedder.name} (${embedder.fingerprint.take(12)}).",
    "Use that bundle, or rebuild the index with this one.",
)
