package dev.magicmm

import kotlin.math.sqrt

// A text that names taught concepts becomes a vector of their photos and of the other words. The weights were chosen by
// benchmarks/taught.py.

private const val REST_WEIGHT = 1.0
private const val NOUN_WEIGHT = 0.6
private const val LEAST_LENGTH = 1e-6

/** A concept that a text names, with one example or more. */
internal class NamedConcept(val name: String, val noun: String?, val examples: List<Quantised>)

/** What a text says: concepts that it names, and the words beside them (null = none that says anything). */
internal class ReadText(val concepts: List<NamedConcept>, val rest: String?)

/** Finds taught names in the text of a query; those without an example of this model are words like others. */
internal fun readText(index: Index, text: String?, embedder: PhotoEmbedder): ReadText {
    if (text == null) return ReadText(emptyList(), null)
    val known = index.concepts()
    val usable = HashMap<List<String>, NamedConcept>()
    for (key in splitNames(text, known.keys).keys) {
        val concept = known.getValue(key)
        val examples = index.examples(concept).filter { it.fingerprint == embedder.fingerprint }.map { it.vector }
        if (examples.any { it.codes.size != embedder.dim }) {
            throw corrupt(index.path, "an example of \"${concept.name}\" has a vector of the wrong length")
        }
        if (examples.isNotEmpty()) usable[key] = NamedConcept(concept.name, concept.noun, examples)
    }
    val split = splitNames(text, usable.keys)
    return ReadText(split.keys.map(usable::getValue), split.rest)
}

/**
 * Embeds a query: the other words (and the photo) as ever, joined with the concepts that the text names.
 *
 * @throws MagicError As [PhotoEmbedder.embedQuery].
 */
internal fun embedRead(embedder: PhotoEmbedder, read: ReadText, image: ByteArray?, truncate: Boolean): FloatArray {
    if (read.concepts.isEmpty()) return embedder.embedQuery(read.rest, image, truncate)
    val sum = DoubleArray(embedder.dim)
    for (concept in read.concepts) sum.add(prototype(embedder, concept), 1.0)
    var vector = unit(sum)
    if (read.rest != null || image != null) {
        vector.add(unitQuery(embedder, read.rest, image, truncate), REST_WEIGHT)
        vector = unit(vector)
    }
    return FloatArray(vector.size) { vector[it].toFloat() }
}

/** Returns the unit vector that stands for a concept: the mean of its examples, its noun among them. */
private fun prototype(embedder: PhotoEmbedder, concept: NamedConcept): DoubleArray {
    val sum = DoubleArray(embedder.dim)
    for (example in concept.examples) {
        for (place in sum.indices) sum[place] += (example.codes[place] * example.scale).toDouble()
    }
    val vector = unit(sum)
    if (concept.noun == null) return vector
    vector.add(unitQuery(embedder, concept.noun, null, truncate = true), NOUN_WEIGHT / concept.examples.size)
    return unit(vector)
}

private fun unitQuery(embedder: PhotoEmbedder, text: String?, image: ByteArray?, truncate: Boolean): DoubleArray {
    val vector = embedder.embedQuery(text, image, truncate)
    quantiseChecked(vector, embedder.dim)
    return unit(DoubleArray(vector.size) { vector[it].toDouble() })
}

private fun DoubleArray.add(other: DoubleArray, weight: Double) {
    for (place in indices) this[place] += weight * other[place]
}

private fun unit(vector: DoubleArray): DoubleArray {
    val length = sqrt(vector.sumOf { it * it })
    if (length < LEAST_LENGTH) {
        throw MagicError(
            ErrorCode.ARGUMENT_INVALID,
            "The taught photos and the words of this query cancel each other out.",
            "Search without taught names, or teach by other photos.",
        )
    }
    return DoubleArray(vector.size) { vector[it] / length }
}
