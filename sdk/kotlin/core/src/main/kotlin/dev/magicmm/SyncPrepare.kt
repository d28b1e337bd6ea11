package dev.magicmm

// The part of a sync that runs ahead in worker threads: read a file, know its content or decode it.

/** One file to deal with; [photoId] is its row, if it has one. */
internal class Task(val source: PhotoSource, val ref: PhotoRef, val photoId: Long?)

/** What became of a task before the model: pixels to embed, known content (no pixels), or a reason to skip. */
internal class Outcome(val task: Task, val facts: PhotoFacts, val pixels: ByteArray?) {
    fun withFacts(facts: PhotoFacts): Outcome = Outcome(task, facts, pixels)
}

/**
 * Turns a task into an outcome; runs in worker threads and touches no index.
 *
 * @param isKnown Tests for content whose vector the index already has.
 */
internal class Preparer(private val embedder: PhotoEmbedder, private val isKnown: (ContentHash) -> Boolean) {
    /** Reads, and unless the content is known (and that is trusted), decodes and resizes. */
    fun prepare(task: Task, trustKnown: Boolean = true): Outcome {
        var facts = PhotoFacts(task.ref.uri, task.ref.stamp, null)
        try {
            val file = task.source.load(task.ref.uri)
            facts = facts.copy(stamp = file.stamp, hash = file.hash)
            if (trustKnown && isKnown(file.hash)) return Outcome(task, facts, null)
            val photo = embedder.preparePhoto(file.data)
            val seen = facts.copy(
                taken = photo.taken,
                latitude = photo.latitude,
                longitude = photo.longitude,
                width = photo.width,
                height = photo.height,
            )
            return Outcome(task, seen, photo.pixels)
        } catch (skip: PhotoSkipped) {
            return Outcome(task, facts.copy(reason = skip.reason, detail = skip.toString()), null)
        }
    }
}
