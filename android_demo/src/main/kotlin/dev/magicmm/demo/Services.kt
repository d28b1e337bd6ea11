package dev.magicmm.demo

import android.content.Context
import dev.magicmm.Bundle
import dev.magicmm.DecodingEmbedder
import dev.magicmm.Embedder
import dev.magicmm.Gallery
import dev.magicmm.android.AndroidDecoder
import dev.magicmm.android.BundleAssets
import dev.magicmm.android.DeviceConditions
import dev.magicmm.android.DeviceState
import dev.magicmm.android.Governor
import dev.magicmm.android.Indexer
import dev.magicmm.android.MemoryTiers
import dev.magicmm.android.SuspendingGallery
import dev.magicmm.android.defaultIndexPath
import dev.magicmm.android.deleteIndex
import dev.magicmm.android.open
import dev.magicmm.ort.OrtSessions
import java.nio.file.Path

/** One model, one index, one indexer. */
class Services private constructor(
    private val context: Context,
    /** The model's files. */
    val bundle: Bundle,
    device: () -> DeviceState,
) : AutoCloseable {
    private val embedder = DecodingEmbedder(Embedder.open(bundle, OrtSessions()), AndroidDecoder)
    private val gallery = Gallery.open(context, embedder)

    /** Where the index lies. */
    val indexPath: Path = defaultIndexPath(context)

    /** What screens ask. */
    val photos = SuspendingGallery(gallery)

    /** What syncs. */
    val indexer = Indexer(gallery, Governor(device = device))

    private val memory = MemoryTiers(embedder, indexer::isRunning)

    init {
        context.registerComponentCallbacks(memory)
    }

    override fun close() {
        context.unregisterComponentCallbacks(memory)
        indexer.stop()
        indexer.awaitEnd()
        gallery.close()
    }

    /** Closes everything and deletes the index; photos are not touched. */
    fun closeAndDelete() {
        close()
        deleteIndex(indexPath)
    }

    companion object {
        private const val BUNDLE = "nano.magicmm"

        /** Opens the bundle that travels with the app. */
        fun open(context: Context): Services =
            open(context, BundleAssets.install(context, BUNDLE), DeviceConditions(context)::read)

        /** Opens a bundle. */
        fun open(context: Context, bundle: Bundle, device: () -> DeviceState): Services =
            Services(context.applicationContext, bundle, device)
    }
}
