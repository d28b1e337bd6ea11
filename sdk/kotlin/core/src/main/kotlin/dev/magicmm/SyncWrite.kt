package dev.magicmm

/** What became of a file in a commit. */
internal enum class Kind { EMBEDDED, REUSED, SKIPPED }

/** What a commit wrote: what each outcome counts as, and the photos skipped. */
internal class Committed(val kinds: List<Kind>, val skips: List<Skip>)

/**
 * The part of a sync that writes: runs the model on a batch and commits it whole.
 *
 * @param sizes The sizes of all files that are to come.
 */
internal class Writer(
    private val index: Index,
    private val model: Model,
    private val embedder: PhotoEmbedder,
    private val preparer: Preparer,
    private val sizes: Set<Long>,
) {
    /** Content whose row another file has taken, and that may come under another name (swapped, renumbered). */
    private val displaced = HashMap<ContentHash, Known>()

    /** Photos whose file is gone, by content: a new file with the same content is the same photo, moved. */
    val vanished: HashMap<ContentHash, ArrayList<Long>> = HashMap()

    /** Embeds what needs it and writes everything in one transaction. */
    fun commit(outcomes: List<Outcome>): Committed {
        val batch = embed(outcomes.map(::settle))
        val kinds = index.transaction {
            val wanted = batch.outcomes.mapTo(HashSet()) { it.facts.hash }
            batch.outcomes.map { write(it, batch.vectors, wanted) }.also { index.bumpGeneration() }
        }
        val skips = batch.outcomes.map { it.facts }.mapNotNull { facts ->
            facts.reason?.let { Skip(facts.uri, it, facts.detail.orEmpty()) }
        }
        return Committed(kinds, skips)
    }

    /** Decodes after all what was thought known when its worker looked, but is not in the index now. */
    private fun settle(outcome: Outcome): Outcome {
        val isTrusted = outcome.pixels == null && outcome.facts.reason == null
        return if (isTrusted && known(outcome.facts.hash) == null) {
            preparer.prepare(outcome.task, trustKnown = false)
        } else {
            outcome
        }
    }

    /** Returns vectors by content hash (copies run once), and the outcomes with the model's failures. */
    private fun embed(outcomes: List<Outcome>): Batch {
        val pixels = LinkedHashMap<ContentHash, ByteArray>()
        for (outcome in outcomes) {
            val hash = outcome.facts.hash
            if (outcome.pixels != null && hash != null && known(hash) == null) pixels[hash] = outcome.pixels
        }
        val vectors = HashMap<ContentHash, Quantised>()
        val errors = HashMap<ContentHash, String>()
        runModel(pixels, vectors, errors)
        val marked = outcomes.map { outcome ->
            val error = if (outcome.pixels == null) null else errors[outcome.facts.hash]
            if (error == null) {
                outcome
            } else {
                outcome.withFacts(outcome.facts.copy(reason = SkipReason.EMBEDDING_FAILED, detail = error))
            }
        }
        return Batch(vectors, marked)
    }

    private fun runModel(
        pixels: Map<ContentHash, ByteArray>,
        vectors: MutableMap<ContentHash, Quantised>,
        errors: MutableMap<ContentHash, String>,
    ) {
        if (pixels.isEmpty()) return
        var error = tryModel(pixels, vectors) ?: return
        if (pixels.size == 1) {
            errors[pixels.keys.single()] = error.toString()
            return
        }
        for ((hash, picture) in pixels) { // find the photo that the model cannot take
            error = tryModel(mapOf(hash to picture), vectors) ?: continue
            errors[hash] = error.toString()
        }
        if (vectors.isEmpty()) {
            throw MagicError(
                ErrorCode.RUNTIME_FAILED,
                "The model fails on every photo: $error",
                "Verify the bundle.",
                error,
            )
        }
    }

    /** Embeds photos; returns the model's refusal instead of throwing it. */
    private fun tryModel(
        pixels: Map<ContentHash, ByteArray>,
        vectors: MutableMap<ContentHash, Quantised>,
    ): MagicError? {
        try {
            val rows = embedder.embedPixels(pixels.values.toList()).map { quantiseChecked(it, model.dim) }
            check(rows.size == pixels.size) { "embedPixels gave ${rows.size} vectors for ${pixels.size} photos" }
            vectors += pixels.keys.zip(rows)
            return null
        } catch (error: MagicError) {
            if (error.code != ErrorCode.RUNTIME_FAILED) throw error
            return error
        }
    }

    /** Writes one outcome and says what it counts as. */
    private fun write(outcome: Outcome, vectors: Map<ContentHash, Quantised>, wanted: Set<ContentHash?>): Kind {
        val given = outcome.facts
        val known = if (given.reason == null) known(given.hash) else null
        val facts = known?.facts?.copy(uri = given.uri, stamp = given.stamp) ?: given
        val oldId = outcome.task.photoId ?: movedFrom(given)
        if (oldId != null) displace(oldId, facts, wanted)
        val photoId = index.putPhoto(facts, oldId)
        if (facts.reason != null || facts.hash == null) {
            index.removeVectors(photoId)
            return Kind.SKIPPED
        }
        if (known == null) {
            val vector = vectors[facts.hash]
                ?: throw corrupt(index.path, "it finds a photo by its content at one time and not at another")
            index.putVector(photoId, model, vector)
            return Kind.EMBEDDED
        }
        if (index.vectorOf(photoId, model) == null) index.putVector(photoId, model, known.vector)
        return Kind.REUSED
    }

    /** Returns the row of a photo that is gone and has the content of a new file. */
    private fun movedFrom(facts: PhotoFacts): Long? =
        if (facts.reason == null) facts.hash?.let { vanished[it]?.removeLastOrNull() } else null

    /** Makes room in a row for other content, and keeps what it held when that may come again. */
    private fun displace(photoId: Long, facts: PhotoFacts, wanted: Set<ContentHash?>) {
        val old = index.photoFacts(photoId)
        if (old == null || old.hash == facts.hash) return
        if (old.hash != null && (old.hash in wanted || old.stamp.bytes in sizes)) {
            index.vectorOf(photoId, model)?.let { displaced[old.hash] = Known(old, it) }
        }
        index.removeVectors(photoId) // those of other models too: they show the photo as it was
    }

    /** Returns what is known of a content that the model has seen. */
    private fun known(hash: ContentHash?): Known? {
        if (hash == null) return null
        val twin = index.photoWithHash(hash, model) ?: return displaced[hash]
        val facts = index.photoFacts(twin)
        val vector = index.vectorOf(twin, model)
        return if (facts == null || vector == null) null else Known(facts, vector)
    }

    /** The facts of a photo with some content, and its vector. */
    private class Known(val facts: PhotoFacts, val vector: Quantised)

    private class Batch(val vectors: Map<ContentHash, Quantised>, val outcomes: List<Outcome>)
}
