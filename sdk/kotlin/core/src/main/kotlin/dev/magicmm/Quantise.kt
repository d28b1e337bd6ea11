package dev.magicmm

import kotlin.math.abs
import kotlin.math.round
import kotlin.math.sqrt

/**
 * A vector as the index stores and scans it (docs/FORMAT.md, part 3): `codes * scale` has length 1.
 *
 * @property codes int8, one a dimension, -127 to 127.
 * @property scale Above 0, at most 1.
 */
public class Quantised(public val codes: ByteArray, public val scale: Float)

/**
 * Quantises a vector: `codes = round_half_even(v * (127 / max|v|))`, `scale = 1 / sqrt(sum codes^2)`.
 *
 * @param vector float32 of any length but 0, finite, not all zero; its length (norm) does not matter.
 */
public fun quantise(vector: FloatArray): Quantised {
    var peak = 0f
    for (value in vector) peak = maxOf(peak, abs(value))
    val factor = 127f / peak
    val codes = ByteArray(vector.size)
    // The sum of squares is an integer below 2^31: the scale is the same in every language.
    var squares = 0L
    for (place in vector.indices) {
        val code = round((vector[place] * factor).toDouble()).toInt()
        codes[place] = code.toByte()
        squares += code * code
    }
    return Quantised(codes, (1.0 / sqrt(squares.toDouble())).toFloat())
}

/**
 * Quantises what a model gave, which may be anything: a vector of another length, or without one, must not enter an
 * index.
 *
 * @throws MagicError `runtime_failed`.
 */
internal fun quantiseChecked(vector: FloatArray, dim: Int): Quantised {
    val found = if (vector.size == dim && vector.all { it.isFinite() }) quantise(vector) else null
    if (found != null && found.scale <= 1) return found
    throw MagicError(
        ErrorCode.RUNTIME_FAILED,
        "The model gave no usable vector (${vector.size} numbers, $dim expected).",
        "Verify the bundle.",
    )
}

/** Returns the score of two vectors whose codes have the integer product [dot]: two float32 products, in this order. */
@MagicInternals
public fun score(dot: Int, scale: Float, otherScale: Float): Float = dot.toFloat() * (scale * otherScale)
