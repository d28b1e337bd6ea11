package dev.magicmm

import kotlin.math.floor
import kotlin.math.ln
import kotlin.math.tanh

/**
 * How sure a search by words may be that its first match fits (docs/decisions/0014-confidence.md).
 *
 * @param best Score of the best match.
 * @param background Scores of photos of the whole library, whatever a filter leaves of it.
 * @param library Photos in the library.
 * @param searched Photos that passed the filter. Fewer than the least library count as that many: nothing is known of
 *   choices among a handful.
 * @return The probability, 0 to 1; null in a library that is too small to tell.
 */
internal fun confidence(
    spec: ConfidenceSpec,
    best: Double,
    background: FloatArray,
    library: Int,
    searched: Int,
): Double? {
    if (library < spec.leastPhotos) return null
    val excess = best - quantile(background, spec.quantile)
    val photos = maxOf(searched, spec.leastPhotos)
    val logit = spec.intercept + spec.excess * excess + spec.logPhotos * ln(photos.toDouble())
    return 0.5 * (1 + tanh(0.5 * logit))
}

/** Returns a quantile with linear interpolation, as numpy has it. */
internal fun quantile(values: FloatArray, share: Double): Double {
    val sorted = values.sortedArray()
    val place = share * (sorted.size - 1)
    val below = floor(place).toInt()
    val above = minOf(below + 1, sorted.size - 1)
    return sorted[below] + (place - below) * (sorted[above].toDouble() - sorted[below])
}
