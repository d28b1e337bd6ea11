package dev.magicmm

/** A set of characters; [table] holds, by run, how many characters lie before it and how many it has, in base 36. */
internal class CodePointSet(table: String) {
    /** First of a run, one behind its last, first of the next run, and so on. */
    private val bounds: IntArray

    init {
        var at = 0
        bounds = table.split(' ').map { number -> (at + number.toInt(BASE)).also { at = it } }.toIntArray()
    }

    operator fun contains(codePoint: Int): Boolean {
        val place = bounds.binarySearch(codePoint)
        return if (place >= 0) place % 2 == 0 else (-place - 1) % 2 == 1
    }
}

/** The small letters of capitals; [table] holds, by run, gap, count, step and signed distance in base 36. */
internal class SmallLetters(table: String) {
    private val small = HashMap<Int, Int>()

    init {
        var at = 0
        for ((gap, count, step, distance) in table.split(' ').map { it.toInt(BASE) }.chunked(4)) {
            at += gap
            for (capital in at until at + count * step step step) small[capital] = capital + distance
            at += (count - 1) * step
        }
    }

    fun of(codePoint: Int): Int = small[codePoint] ?: codePoint
}

private const val BASE = 36

/** Unicode's White_Space, which no later version has changed since 6.3. */
internal fun isWhiteSpace(codePoint: Int): Boolean = when (codePoint) {
    in 0x09..0x0D, 0x20, 0x85, 0xA0, 0x1680, in 0x2000..0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000 -> true
    else -> false
}

/** The code point at [index]; a lone surrogate is one of its own. */
internal fun CharSequence.codePoint(index: Int): Int = Character.codePointAt(this, index)

/** Converts a text character by character; lone surrogates are characters of their own. */
internal inline fun eachCodePoint(text: String, convert: (String) -> String): String {
    val converted = StringBuilder(text.length)
    var place = 0
    while (place < text.length) {
        val next = place + Character.charCount(text.codePoint(place))
        converted.append(convert(text.substring(place, next)))
        place = next
    }
    return converted.toString()
}
