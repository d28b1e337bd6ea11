package dev.magicmm

import java.nio.file.Path

/**
 * The writing side of concepts: teaches one by photos, forgets it, and renews its vectors under another model. Each
 * call has a connection of its own and is one transaction.
 */
internal class Teaching(
    private val indexPath: Path,
    private val driver: DatabaseDriver,
    private val embedder: PhotoEmbedder,
) {
    /** See [Gallery.teach]; [model] is the active one and that of the embedder. */
    fun teach(
        model: Model,
        name: String,
        photos: List<ByteArray>,
        ids: List<Long>,
        noun: String?,
        anew: Boolean,
    ): Concept {
        val tidy = tidyName(name)
        if (noun != null) embedder.embedQuery(noun, null, false) // refused now, not by a search
        if (photos.isEmpty() && ids.isEmpty()) {
            throw MagicError(ErrorCode.ARGUMENT_INVALID, "No photo shows \"$tidy\".", "Give one photo or more.")
        }
        return writing { index ->
            val examples = ids.map { indexed(index, model, it) } +
                photos.map { embedded(index, model, embedder, it, null) }
            index.transaction {
                val kept = if (anew) null else index.concepts()[nameKey(tidy)]?.noun
                val concept = index.putConcept(tidy, noun ?: kept)
                if (anew) index.clearExamples(concept)
                for (example in examples) index.putExample(concept, example)
                index.describe(concept, model.fingerprint)
            }
        }
    }

    /** See [Gallery.forget]. */
    fun forget(name: String): Unit = writing { index ->
        index.transaction {
            val known = index.concepts()
            val concept = if (mayBeName(name)) known[nameKey(name)] else null
            if (concept == null) {
                val names = known.values.joinToString { it.name }.ifEmpty { "none" }
                throw MagicError(
                    ErrorCode.ARGUMENT_INVALID,
                    "\"$name\" was not taught.",
                    "Taught: $names. A source ends in /.",
                )
            }
            index.removeConcept(concept)
        }
    }

    private fun <T> writing(work: (Index) -> T): T = writerLock(indexPath) { Index(indexPath, driver).use(work) }

    private fun indexed(index: Index, model: Model, photoId: Long): Example {
        val facts = index.photoFacts(photoId)
        val vector = index.vectorOf(photoId, model)
        if (facts?.hash == null || vector == null) {
            throw MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "No indexed photo has the id $photoId.",
                "Give its bytes instead.",
            )
        }
        return Example(facts.hash, facts.uri, model.fingerprint, vector)
    }
}

/** An example with its concept. */
internal class Renewed(val concept: KnownConcept, val example: Example)

/**
 * Returns, with vectors of [model], the examples whose vectors are of another one; writes nothing. An example whose
 * photo is gone or is another one by now is left out: it stays as it is, and searches do not use it.
 */
internal fun renewExamples(
    index: Index,
    model: Model,
    embedder: PhotoEmbedder,
    sources: List<PhotoSource>,
): List<Renewed> = index.concepts().values.flatMap { concept ->
    index.examples(concept).filter { it.fingerprint != model.fingerprint }
        .mapNotNull { renewed(index, model, embedder, sources, it) }
        .map { Renewed(concept, it) }
}

/** Writes what [renewExamples] found; part of a transaction. */
internal fun Index.putRenewed(renewed: List<Renewed>): Unit = renewed.forEach { putExample(it.concept, it.example) }

private fun renewed(
    index: Index,
    model: Model,
    embedder: PhotoEmbedder,
    sources: List<PhotoSource>,
    example: Example,
): Example? {
    vectorWithHash(index, model, example.hash)?.let {
        return Example(example.hash, example.uri, model.fingerprint, it)
    }
    val uri = example.uri ?: return null
    return try {
        val source = sources.find { uri.startsWith(it.uri) }
        val data = (source?.load(uri) ?: readPhoto(uriPath(uri))).data
        embedded(index, model, embedder, data, uri).takeIf { it.hash == example.hash }
    } catch (error: MagicError) {
        val isLost = error.code == ErrorCode.IMAGE_INVALID || error.code == ErrorCode.RUNTIME_FAILED ||
            error.code == ErrorCode.ARGUMENT_INVALID
        if (isLost) null else throw error
    }
}

/** Returns an example for the bytes of a file; content that the index knows needs no model. */
private fun embedded(index: Index, model: Model, embedder: PhotoEmbedder, data: ByteArray, uri: String?): Example {
    val hash = ContentHash.of(data)
    val vector = vectorWithHash(index, model, hash)
        ?: quantiseChecked(embedder.embedPixels(listOf(embedder.preparePhoto(data).pixels)).single(), embedder.dim)
    return Example(hash, uri, model.fingerprint, vector)
}

private fun vectorWithHash(index: Index, model: Model, hash: ContentHash): Quantised? =
    index.photoWithHash(hash, model)?.let { index.vectorOf(it, model) }
