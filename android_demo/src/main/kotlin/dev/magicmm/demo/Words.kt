package dev.magicmm.demo

import dev.magicmm.Progress
import dev.magicmm.SkipReason
import dev.magicmm.android.PhotoAccess
import java.util.Locale

/** What the app says. In Kotlin and not in resources, because the build of CI has no resource compiler. */
object Words {
    const val APP = "magicmm"
    const val PRIVACY =
        "Photos are read on this device and never leave it: this app has no permission to use the network."
    const val ALLOW = "Allow access to photos"
    const val CHOOSE_MORE = "Choose more photos"
    const val INDEX_HINT = "Index photos to find them by what they show."
    const val SEARCH_HINT = "What does the photo show?"
    const val LONG_PRESS = "Touch and hold a photo for similar ones."
    const val FOUND = "Closest to your words"
    const val SIMILAR = "Similar to this photo"
    const val DELETE = "Delete the index"
    const val DELETE_ASK = "All that was indexed is deleted and must be indexed again. Photos are not touched."
    const val BACKGROUND = "Index while charging and idle"
    const val OVERRIDE = "Go on whatever the battery says"

    fun access(access: PhotoAccess): String = when (access) {
        PhotoAccess.FULL -> "You allow all photos."
        PhotoAccess.PARTIAL -> "You allow the photos that you chose."
        PhotoAccess.NONE -> "You allow no photos yet."
    }

    fun accessEffect(access: PhotoAccess): String = when (access) {
        PhotoAccess.FULL -> "New photos are found at the next indexing."
        PhotoAccess.PARTIAL -> "Only these can be found. Photos that you take out of the choice leave the index."
        PhotoAccess.NONE -> "Nothing can be indexed. What was indexed before stays."
    }

    fun count(progress: Progress): String = "${progress.done} of ${progress.total} new or changed photos"

    fun rate(progress: Progress): String {
        val rate = String.format(Locale.ROOT, "%.1f photos a second", progress.rate)
        val rest = progress.etaSeconds?.takeIf { progress.done < progress.total } ?: return rate
        return "$rate, about ${duration(rest)} left"
    }

    fun duration(seconds: Double): String = when {
        seconds < 90 -> "${seconds.toInt() + 1} s"
        seconds < 5400 -> "${(seconds / 60).toInt() + 1} min"
        else -> "${(seconds / 3600).toInt() + 1} h"
    }

    fun size(bytes: Long): String =
        if (bytes < 1_000_000) "${(bytes + 999) / 1000} kB" else String.format(Locale.ROOT, "%.1f MB", bytes / 1e6)

    fun score(score: Float): String = String.format(Locale.ROOT, "%.2f", score)

    fun skipped(reasons: List<SkipReason>): String {
        if (reasons.isEmpty()) return "No photo was skipped."
        val counts = reasons.groupingBy { it }.eachCount().entries.sortedByDescending { it.value }
        return "Skipped: " + counts.joinToString { (reason, count) -> "$count ${reason.value.replace('_', ' ')}" }
    }
}
