package dev.magicmm.android

import android.content.ComponentCallbacks2
import android.content.res.Configuration
import dev.magicmm.PhotoEmbedder

/**
 * Gives memory back when Android asks for it. Register it with `Application.registerComponentCallbacks`.
 *
 * | Android says | what stays loaded |
 * | --- | --- |
 * | the screens are hidden, or memory runs low | what searches by words need; while a sync runs, everything |
 * | the app is in the background, or memory is critical | nothing |
 *
 * What was given back is loaded again when it is needed.
 *
 * @param embedder The model.
 * @param isIndexing Whether a sync is under way: its next batch would load the image graph again at once.
 */
public class MemoryTiers(private val embedder: PhotoEmbedder, private val isIndexing: () -> Boolean = { false }) :
    ComponentCallbacks2 {
    override fun onTrimMemory(level: Int) {
        when (tierOf(level)) {
            Tier.ALL -> Unit
            Tier.WORDS -> if (!isIndexing()) inBackground(embedder::releaseImages)
            Tier.NOTHING -> inBackground(embedder::release)
        }
    }

    @Deprecated("Android calls onTrimMemory as well.")
    override fun onLowMemory(): Unit = inBackground(embedder::release)

    override fun onConfigurationChanged(configuration: Configuration): Unit = Unit

    /** Releasing waits for the graph that runs, which the main thread must not. */
    private fun inBackground(work: () -> Unit) {
        Thread(work, "magicmm-memory").start()
    }

    internal enum class Tier { ALL, WORDS, NOTHING }

    internal companion object {
        // The levels of a running app are no longer sent from Android 14 on; earlier versions send them.
        @Suppress("DEPRECATION")
        fun tierOf(level: Int): Tier = when {
            level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND -> Tier.NOTHING
            level >= ComponentCallbacks2.TRIM_MEMORY_UI_HIDDEN -> Tier.WORDS
            level >= ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL -> Tier.NOTHING
            level >= ComponentCallbacks2.TRIM_MEMORY_RUNNING_LOW -> Tier.WORDS
            else -> Tier.ALL
        }
    }
}
