package dev.magicmm

import java.math.BigDecimal
import java.math.MathContext
import java.math.RoundingMode

/** JSON in the one spelling that fingerprints are taken of (docs/FORMAT.md, "Fingerprint"). */
@MagicInternals
public fun canonicalJson(value: Any?): String = StringBuilder().also { it.appendJson(value) }.toString()

private fun StringBuilder.appendJson(value: Any?) {
    when (value) {
        is Map<*, *> -> appendObject(value)
        is List<*> -> appendList(value)
        is String -> appendText(value)
        is Double -> append(shortestDecimal(value))
        else -> append(value) // null, true and false, whole numbers
    }
}

private fun StringBuilder.appendObject(entries: Map<*, *>) {
    append('{')
    entries.keys.map { it as String }.sortedWith(BY_CODE_POINT).forEachIndexed { place, key ->
        if (place > 0) append(',')
        appendText(key)
        append(':')
        appendJson(entries[key])
    }
    append('}')
}

private fun StringBuilder.appendList(items: List<*>) {
    append('[')
    items.forEachIndexed { place, item ->
        if (place > 0) append(',')
        appendJson(item)
    }
    append(']')
}

private fun StringBuilder.appendText(text: String) {
    append('"')
    for (char in text) {
        when (char) {
            '"' -> append("\\\"")
            '\\' -> append("\\\\")
            '\b' -> append("\\b")
            '\u000c' -> append("\\f")
            '\n' -> append("\\n")
            '\r' -> append("\\r")
            '\t' -> append("\\t")
            in ' '..'~' -> append(char)
            else -> append("\\u").append(char.code.toString(16).padStart(4, '0'))
        }
    }
    append('"')
}

/** UTF-16 puts surrogates before U+E000 to U+FFFF; code points do not. */
private val BY_CODE_POINT =
    Comparator<String> { one, other ->
        val place = one.zip(other).indexOfFirst { (a, b) -> a != b }
        if (place < 0) one.length - other.length else one.codePointAt(place) - other.codePointAt(place)
    }

/**
 * The shortest decimal that reads back as the same double, in the spelling that FORMAT.md shows. `Double.toString` is not
 * the shortest before JDK 19 and differs between platforms.
 */
internal fun shortestDecimal(value: Double): String {
    if (value.isInfinite()) return if (value > 0) "Infinity" else "-Infinity"
    val sign = if (value < 0 || 1 / value < 0) "-" else ""
    if (value == 0.0) return "${sign}0.0"
    val exact = BigDecimal(Math.abs(value))
    val shortest = (1..17).firstNotNullOf { digits -> nearest(exact, digits) }.stripTrailingZeros()
    val digits = shortest.unscaledValue().toString()
    val point = digits.length - shortest.scale() // the value is 0.DIGITS x 10^point
    return sign +
        when {
            point > 16 || point < -3 -> scientific(digits, point - 1)
            point <= 0 -> "0." + "0".repeat(-point) + digits
            point >= digits.length -> digits + "0".repeat(point - digits.length) + ".0"
            else -> digits.substring(0, point) + "." + digits.substring(point)
        }
}

/** The decimal of so many digits that lies nearest to [exact] among those that read back as the same double, or null. */
private fun nearest(exact: BigDecimal, digits: Int): BigDecimal? =
    listOf(RoundingMode.HALF_EVEN, RoundingMode.UP, RoundingMode.DOWN)
        .map { exact.round(MathContext(digits, it)) }
        .firstOrNull { it.toDouble() == exact.toDouble() }

private fun scientific(digits: String, exponent: Int): String {
    val mantissa = if (digits.length == 1) digits else "${digits[0]}.${digits.substring(1)}"
    val sign = if (exponent < 0) '-' else '+'
    return mantissa + "e" + sign + Math.abs(exponent).toString().padStart(2, '0')
}
