package dev.magicmm

/** Integer dot products of one query with rows of codes; exact. Not thread-safe: one for each thread. */
internal interface DotKernel {
    /** Rows that one call of [dots] takes at most. */
    val tile: Int

    /** Writes the products with [count] rows from [start] on, or from that place of [chosen] on, into [out]. */
    fun dots(reader: CodeRows.Reader, chosen: IntArray?, start: Int, count: Int, out: IntArray)

    companion object {
        /** Returns the fastest kernel for a query. */
        fun of(query: ByteArray): DotKernel = if (query.size % 4 == 0) WordKernel(query) else ByteKernel(query)
    }
}

/** One code after the other. */
internal class ByteKernel(private val query: ByteArray) : DotKernel {
    private val row = ByteArray(query.size)

    override val tile: Int get() = 8

    override fun dots(reader: CodeRows.Reader, chosen: IntArray?, start: Int, count: Int, out: IntArray) {
        for (place in 0 until count) {
            reader.readBytes(if (chosen == null) start + place else chosen[start + place], row)
            var sum = 0
            for (column in query.indices) sum += row[column] * query[column]
            out[place] = sum
        }
    }
}

/**
 * Four codes a 32-bit word, in a loop that the compilers of the JVM and of Android turn into vector instructions. They
 * do so for whole words only, and only while the loop writes to no array that might be one of those it reads
 * (docs/decisions/0011-kotlin-scan-kernel.md).
 */
internal class WordKernel(query: ByteArray) : DotKernel {
    private val words = query.size / 4

    override val tile: Int = maxOf(1, TILE_WORDS / words)

    private val rows = IntArray(tile * words)
    private val first = IntArray(words) { query[4 * it].toInt() }
    private val second = IntArray(words) { query[4 * it + 1].toInt() }
    private val third = IntArray(words) { query[4 * it + 2].toInt() }
    private val fourth = IntArray(words) { query[4 * it + 3].toInt() }

    override fun dots(reader: CodeRows.Reader, chosen: IntArray?, start: Int, count: Int, out: IntArray) {
        if (chosen == null) {
            reader.readWords(start, count, rows, 0)
        } else {
            for (place in 0 until count) reader.readWords(chosen[start + place], 1, rows, place * words)
        }
        for (place in 0 until count) out[place] = dot(rows, place * words, first, second, third, fourth)
    }

    private companion object {
        /** Words a tile: it stays in the first-level cache between copying and multiplying. */
        const val TILE_WORDS = 768

        @JvmStatic
        fun dot(rows: IntArray, at: Int, first: IntArray, second: IntArray, third: IntArray, fourth: IntArray): Int {
            var sum = 0
            for (place in first.indices) {
                val word = rows[at + place]
                // Moved up and down again, a byte keeps its sign.
                sum += ((word shl 24) shr 24) * first[place] + ((word shl 16) shr 24) * second[place] +
                    ((word shl 8) shr 24) * third[place] + (word shr 24) * fourth[place]
            }
            return sum
        }
    }
}
