package dev.magicmm.android

import dev.magicmm.Budget
import dev.magicmm.Cancellation
import dev.magicmm.Concept
import dev.magicmm.DuplicateGroup
import dev.magicmm.Embedder
import dev.magicmm.Filter
import dev.magicmm.Gallery
import dev.magicmm.MagicError
import dev.magicmm.Plan
import dev.magicmm.Progress
import dev.magicmm.Results
import dev.magicmm.RgbImage
import dev.magicmm.Status
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.channels.trySendBlocking
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** The methods of [Gallery] for coroutines: same names, same errors; a sync is a cold flow. */
public class SuspendingGallery(
    /** The gallery behind it. */
    public val gallery: Gallery,
    private val dispatcher: CoroutineDispatcher = Dispatchers.IO,
) {
    /** See [Gallery.plan]. */
    public suspend fun plan(): Plan = withContext(dispatcher) { gallery.plan() }

    /** See [Gallery.sync]; a collector that stops collecting stops the sync at the next photo. */
    public fun sync(budget: Budget = Budget()): Flow<Progress> = events { cancellation, onProgress ->
        gallery.sync(budget, cancellation, onProgress)
    }

    /** See [Gallery.rebuild]; a collector that stops collecting stops the rebuild at the next photo. */
    public fun rebuild(budget: Budget = Budget()): Flow<Progress> = events { cancellation, onProgress ->
        gallery.rebuild(budget, cancellation, onProgress)
    }

    /** See [Gallery.forget]. */
    public suspend fun forget(what: String): Unit = withContext(dispatcher) { gallery.forget(what) }

    /** See [Gallery.teach]. */
    public suspend fun teach(
        name: String,
        photos: List<ByteArray> = emptyList(),
        photoIds: List<Long> = emptyList(),
        noun: String? = null,
        replace: Boolean = false,
    ): Concept = withContext(dispatcher) { gallery.teach(name, photos, photoIds, noun, replace) }

    /** See [Gallery.taught]. */
    public suspend fun taught(): List<Concept> = withContext(dispatcher) { gallery.taught() }

    /** See [Gallery.search]. */
    public suspend fun search(
        text: String? = null,
        image: ByteArray? = null,
        k: Int = 20,
        minScore: Double? = null,
        where: Filter? = null,
        truncate: Boolean = false,
        taught: Boolean = true,
        signals: Boolean = true,
    ): Results = withContext(dispatcher) { gallery.search(text, image, k, minScore, where, truncate, taught, signals) }

    /** See [Gallery.similar]. */
    public suspend fun similar(photoId: Long, k: Int = 20, minScore: Double? = null, where: Filter? = null): Results =
        withContext(dispatcher) { gallery.similar(photoId, k, minScore, where) }

    /** See [Gallery.duplicates]. */
    public suspend fun duplicates(minScore: Double? = null): List<DuplicateGroup> =
        withContext(dispatcher) { gallery.duplicates(minScore) }

    /** See [Gallery.photoId]. */
    public suspend fun photoId(uri: String): Long? = withContext(dispatcher) { gallery.photoId(uri) }

    /** See [Gallery.status]. */
    public suspend fun status(): Status = withContext(dispatcher) { gallery.status() }

    private fun events(work: (Cancellation, (Progress) -> Unit) -> Unit): Flow<Progress> = callbackFlow {
        val cancellation = Cancellation()
        launch {
            try {
                // The sync waits for its collector: a slow one must not pile events up.
                work(cancellation) { progress -> if (trySendBlocking(progress).isFailure) cancellation.cancel() }
                close()
            } catch (error: MagicError) {
                close(error)
            }
        }
        awaitClose { cancellation.cancel() }
    }.flowOn(dispatcher)
}

/** The methods of [Embedder] for coroutines: same names, same errors. */
public class SuspendingEmbedder(
    /** The embedder behind it. */
    public val embedder: Embedder,
    private val dispatcher: CoroutineDispatcher = Dispatchers.Default,
) {
    /** See [Embedder.embedText]. */
    public suspend fun embedText(text: String, role: String = "query", truncate: Boolean = false): FloatArray =
        withContext(dispatcher) { embedder.embedText(text, role, truncate) }

    /** See [Embedder.embedImage]. */
    public suspend fun embedImage(image: RgbImage, role: String = "photo"): FloatArray =
        withContext(dispatcher) { embedder.embedImage(image, role) }

    /** See [Embedder.embedImages]. */
    public suspend fun embedImages(images: List<RgbImage>, role: String = "photo"): List<FloatArray> =
        withContext(dispatcher) { embedder.embedImages(images, role) }

    /** See [Embedder.embedQuery]. */
    public suspend fun embedQuery(
        text: String? = null,
        image: RgbImage? = null,
        truncate: Boolean = false,
    ): FloatArray = withContext(dispatcher) { embedder.embedQuery(text, image, truncate) }
}
