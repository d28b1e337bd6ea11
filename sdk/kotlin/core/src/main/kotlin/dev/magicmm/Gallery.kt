package dev.magicmm

import java.nio.file.Files
import java.nio.file.Path

/**
 * An index, its sources and a model, as one thing to sync and to search. Blocking and thread-safe: searches go on in
 * other threads and processes while a sync runs, and see every committed batch.
 *
 * @property indexPath The index file.
 * @property embedder The model.
 */
public class Gallery private constructor(
    public val indexPath: Path,
    public val embedder: PhotoEmbedder,
    sources: List<PhotoSource>,
    driver: DatabaseDriver,
) : AutoCloseable {
    private val maintenance = Maintenance(indexPath, driver, embedder, sources)
    private val teaching = Teaching(indexPath, driver, embedder)
    private val index = Index(indexPath, driver, create = sources.isNotEmpty())
    private val lock = Any()
    private var matrix: ScanMatrix? = null
    private var exif: ExifColumns? = null

    /** Closes the index and releases the model. */
    override fun close() {
        synchronized(lock) {
            matrix = null
            exif = null
            index.close()
        }
        embedder.release()
    }

    // -- keeping up to date -----------------------------------------------------------------------------------------

    /** Says what the next sync would do, without doing it. */
    public fun plan(): Plan = maintenance.plan()

    /**
     * Brings the index up to date and returns the last event. Photos are decoded ahead in other threads; the model, the
     * commits and [onProgress] run in this one.
     *
     * Every event is on disk when it arrives. A killed sync loses at most the batch in hand; the next one goes on.
     *
     * @param budget When to stop early.
     * @param cancellation Lets another thread stop the sync; so does interrupting this thread.
     * @param onProgress Called at the start, after each commit and at the end. What it throws ends the sync.
     * @throws MagicError `index_locked` when somebody else syncs, `model_mismatch`, `bundle_invalid`, `storage_failed`,
     *   `runtime_failed`, `cancelled`.
     */
    public fun sync(
        budget: Budget = Budget(),
        cancellation: Cancellation = Cancellation(),
        onProgress: (Progress) -> Unit = {},
    ): Progress = maintenance.sync(Control(budget, cancellation, onProgress))

    /**
     * Embeds every photo anew with this gallery's model, beside the vectors that go on answering searches. The new ones
     * take over when all photos have theirs; until then a stopped rebuild can be continued. Parameters as for [sync].
     *
     * @throws MagicError As [sync]; `source_unavailable` at the end when photos could not be reached.
     */
    public fun rebuild(
        budget: Budget = Budget(),
        cancellation: Cancellation = Cancellation(),
        onProgress: (Progress) -> Unit = {},
    ): Progress = maintenance.rebuild(Control(budget, cancellation, onProgress))

    /**
     * Removes a source with its photos and vectors from the index, or a taught concept; no photo is touched.
     *
     * @param what The URI of a source, which ends in "/", or the name of a concept, which holds none. What was taught
     *   by photos of a source stays taught.
     * @throws MagicError `argument_invalid` for what the index does not know, `index_locked`.
     */
    public fun forget(what: String): Unit = if (what.endsWith("/")) maintenance.forget(what) else teaching.forget(what)

    // -- teaching ---------------------------------------------------------------------------------------------------

    /**
     * Teaches a name for something of the user's own by photos of it; searches whose text holds the name find it.
     * Teaching a name again adds photos. All is stored in the index, or nothing when one photo cannot be used.
     *
     * @param name Letter case, accents and punctuation do not matter.
     * @param photos The bytes of files; they need not be in the index.
     * @param photoIds Ids of indexed photos.
     * @param noun What it is, in words that the model knows ("a dog"); null = as before.
     * @param replace Forget the photos and the noun of before.
     * @throws MagicError `argument_invalid`, `image_invalid`, `text_invalid` (noun), `model_mismatch`, `index_locked`,
     *   `source_unavailable` before the first sync.
     */
    public fun teach(
        name: String,
        photos: List<ByteArray> = emptyList(),
        photoIds: List<Long> = emptyList(),
        noun: String? = null,
        replace: Boolean = false,
    ): Concept {
        val model = consistently { requireModel() }
        return teaching.teach(model, name, photos, photoIds, noun, replace)
    }

    /** Returns what was taught, by name. */
    public fun taught(): List<Concept> = consistently {
        val fingerprint = index.activeModel()?.fingerprint
        index.concepts().values.map { index.describe(it, fingerprint) }
    }

    // -- asking -----------------------------------------------------------------------------------------------------

    /**
     * Finds the k photos closest to words, to a photo, or to both together.
     *
     * @param text What to look for.
     * @param image A photo to look for: the bytes of a file.
     * @param k How many, 1 to 1,000,000; exactly k come back whenever k photos pass.
     * @param minScore Least cosine.
     * @param where Conditions that photos must meet; they apply before the k best are taken.
     * @param truncate Use the beginning of a text that is too long, instead of an error.
     * @param taught Let names that were taught stand for their photos; false reads them as words like others.
     * @param signals Lift photos whose EXIF fits a time or place that the text names ([Results.signals]).
     * @throws MagicError `text_invalid`, `image_invalid`, `argument_invalid`, `model_mismatch`, `index_corrupt`,
     *   `source_unavailable` while the index holds no photos.
     */
    public fun search(
        text: String? = null,
        image: ByteArray? = null,
        k: Int = 20,
        minScore: Double? = null,
        where: Filter? = null,
        truncate: Boolean = false,
        taught: Boolean = true,
        signals: Boolean = true,
    ): Results {
        checkK(k)
        val read = consistently {
            requireModel()
            if (taught) readText(index, text, embedder) else ReadText(emptyList(), text)
        }
        val vector = quantiseChecked(embedRead(embedder, read, image, truncate), embedder.dim)
        val found = consistently {
            requireModel() // a rebuild may have finished meanwhile
            val query = Query(vector, k, minScore)
            val results = top(query, where, if (signals && text != null) readSignals(text) else emptyList())
            // Photos are closer to photos than words are: scores of a taught name say nothing to a judge of words.
            val isWords = text != null && image == null && read.concepts.isEmpty()
            if (isWords) judged(results, query) else results
        }
        return found.copy(taught = read.concepts.map { it.name })
    }

    /**
     * Finds the k photos closest to an indexed one, which is left out. Needs no model. Parameters as for [search].
     *
     * @throws MagicError `argument_invalid` when no indexed photo has this id.
     */
    public fun similar(photoId: Long, k: Int = 20, minScore: Double? = null, where: Filter? = null): Results {
        checkK(k)
        val found = consistently {
            val vector = index.activeModel()?.let { index.vectorOf(photoId, it) } ?: throw MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "No indexed photo has the id $photoId.",
                "Search by image instead.",
            )
            top(Query(vector, k + 1, minScore), where)
        }
        val others = found.matches.filter { it.id != photoId }
        val wasFound = others.size < found.matches.size
        return Results(others.take(k), if (wasFound) found.searched - 1 else found.searched)
    }

    /**
     * Groups photos with the same bytes, or, given [minScore], photos that look alike (cosine at least that).
     *
     * @throws MagicError `index_corrupt`, `source_unavailable` while the index holds no photos.
     */
    public fun duplicates(minScore: Double? = null): List<DuplicateGroup> = consistently {
        if (minScore == null) {
            index.sameBytes().mapNotNull { ids -> groupOf("same_bytes", ids, FloatArray(ids.size) { 1f }) }
        } else {
            lookAlikes(freshMatrix().rows(), minScore).mapNotNull { group ->
                groupOf("look_alike", group.map { it.id }.toLongArray(), group.map { it.score }.toFloatArray())
            }
        }
    }

    /** Returns the id of the indexed photo at a URI; null when there is none, or it was skipped. */
    public fun photoId(uri: String): Long? = consistently {
        val model = index.activeModel()
        index.photoId(uri)?.takeIf { model != null && index.vectorOf(it, model) != null }
    }

    /** Says what is in the index. */
    public fun status(): Status = consistently {
        val (active, others) = index.models().partition { it.isActive }.let { it.first.firstOrNull() to it.second }
        val filling = others.firstOrNull()
        Status(
            indexPath = indexPath.toString(),
            indexBytes = sizeOf(indexPath) + sizeOf(scanPath(indexPath)),
            model = active?.name,
            fingerprint = active?.fingerprint,
            dim = active?.dim,
            indexed = active?.let(index::countVectors) ?: 0,
            skipped = index.skips(),
            sources = index.sources(),
            rebuilding = filling?.name,
            rebuilt = filling?.let(index::countVectors) ?: 0,
        )
    }

    // -- inside -----------------------------------------------------------------------------------------------------

    /** One thread at a time, and one state of the index: vectors, filter and rows are of one moment. */
    private fun <T> consistently(read: () -> T): T = synchronized(lock) { index.snapshot(read) }

    private fun top(query: Query, where: Filter?, fired: List<Fired> = emptyList()): Results {
        val matrix = freshMatrix()
        val selected = if (where == null || where.isEmpty) null else index.selectIds(where)
        if (fired.isNotEmpty()) {
            // Read once a generation, as the matrix is: only new vectors bring new facts.
            val photos = exif ?: index.exifColumns().also { exif = it }
            return rankedBySignals(index, matrix, query, selected, fired, photos)
        }
        val (best, searched) = matrix.search(query, selected)
        return Results(index.matches(best.ids, best.scores), searched)
    }

    /** Says how sure the first match is. */
    private fun judged(results: Results, query: Query): Results {
        val spec = embedder.confidence
        if (spec == null || results.matches.isEmpty()) return results
        val all = freshMatrix()
        val best = results.matches[0].score.toDouble()
        val sure = confidence(spec, best, all.background(query), all.size, results.searched)
        return results.copy(confidence = sure, isDoubtful = sure != null && sure < spec.threshold)
    }

    private fun freshMatrix(): ScanMatrix {
        val model = requireActive()
        val generation = index.metaNumber("generation")
        return matrix?.takeIf { it.generation == generation && it.modelId == model.id }
            ?: ScanMatrix.load(index, model).also {
                matrix = it
                exif = null
            }
    }

    private fun groupOf(kind: String, ids: LongArray, scores: FloatArray): DuplicateGroup? =
        DuplicateGroup(kind, index.matches(ids, scores)).takeIf { it.photos.size > 1 }

    private fun requireActive(): Model = index.activeModel() ?: throw MagicError(
        ErrorCode.SOURCE_UNAVAILABLE,
        "The index $indexPath holds no photos yet.",
        "Sync it.",
    )

    private fun requireModel(): Model {
        val model = requireActive()
        if (model.fingerprint != embedder.fingerprint) throw modelMismatch(model, embedder)
        return model
    }

    public companion object {
        private const val MAX_K = 1_000_000

        /**
         * Opens an index, or makes it when sources are given.
         *
         * @param indexPath The index file.
         * @param embedder The model; the gallery releases it when it is closed.
         * @param sources Places to add to those that the index already knows.
         * @param driver The platform's SQLite.
         * @throws MagicError `source_unavailable` (no index and no sources), `argument_invalid`, `index_corrupt`,
         *   `index_too_new`, `index_locked`, `storage_failed`.
         */
        public fun open(
            indexPath: Path,
            embedder: PhotoEmbedder,
            sources: List<PhotoSource> = emptyList(),
            driver: DatabaseDriver,
        ): Gallery {
            sources.find { !it.uri.endsWith("/") }?.let {
                throw MagicError(
                    ErrorCode.ARGUMENT_INVALID,
                    "The URI of a source must end in \"/\", got \"${it.uri}\".",
                    "Photos then have URIs that begin with it.",
                )
            }
            return Gallery(indexPath, embedder, sources.toList(), driver)
        }

        private fun checkK(k: Int) {
            if (k !in 1..MAX_K) throw MagicError(ErrorCode.ARGUMENT_INVALID, "k is $k.", "Ask for 1 to $MAX_K photos.")
        }

        private fun sizeOf(path: Path): Long = if (Files.exists(path)) Files.size(path) else 0
    }
}
