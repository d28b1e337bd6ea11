package dev.magicmm

import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test
import kotlin.random.Random

/** Top-k against sorting everything. */
class TopKTest {
    private val random = Random(2)

    private fun vectors(count: Int, dim: Int, kinds: Int = Int.MAX_VALUE): List<Quantised> {
        val some = List(minOf(count, kinds)) { quantise(FloatArray(dim) { random.nextFloat() - 0.5f }) }
        return List(count) { some[it % some.size] }
    }

    private fun sorted(rows: List<Quantised>, ids: LongArray, query: Query, takesPart: (Int) -> Boolean): List<Long> {
        val least = query.minScore?.toFloat() ?: Float.NEGATIVE_INFINITY
        val (codes, scale) = query.vector.run { codes to scale }
        return rows.indices.filter(takesPart)
            .map { row -> score(dot(codes, rows[row].codes), scale, rows[row].scale) to ids[row] }
            .filter { it.first >= least }
            .sortedWith(compareByDescending<Pair<Float, Long>> { it.first }.thenBy { it.second })
            .take(query.k).map { it.second }
    }

    private fun dot(one: ByteArray, other: ByteArray) = one.indices.sumOf { one[it] * other[it] }

    @Test
    fun `agrees with sorting everything, whatever the threads, ties and masks`() {
        for ((count, kinds) in listOf(1 to 1, 300 to 300, 300 to 4, 300 to 1, 40_000 to 40_000, 40_000 to 7)) {
            val rows = vectors(count, 16, kinds)
            val ids = (1L..count).shuffled(random).toLongArray()
            val alive = BooleanArray(count) { it % 5 != 0 }
            val segment = Segment.of(16, rows, ids, alive)
            for (share in listOf(null, 0.0, 0.01, 0.5)) {
                val mask = share?.let { BooleanArray(count) { random.nextDouble() < share } }
                for (k in listOf(1, 20, count + 5)) {
                    val query = Query(vectors(1, 16)[0], k, if (k == 20) 0.1 else null)
                    val expected = sorted(rows, ids, query) { alive[it] && (mask == null || mask[it]) }
                    for (threads in listOf(0, 1, 2)) {
                        val found = topK(segment, query, mask, threads)
                        assertEquals(expected, found.ids.toList(), "$count rows, $kinds kinds, share $share, k $k")
                    }
                }
            }
        }
    }

    @Test
    fun `no rows give no answer`() {
        val found = topK(Segment.of(4, emptyList(), LongArray(0)), Query(vectors(1, 4)[0], 3))
        assertEquals(0, found.ids.size)
        assertEquals(0, found.scores.size)
    }

    @Test
    fun `a least score that is no number lets nothing pass`() {
        val segment = Segment.of(4, vectors(9, 4), LongArray(9) { it.toLong() })
        assertEquals(0, topK(segment, Query(vectors(1, 4)[0], 3, Double.NaN)).ids.size)
    }

    @Test
    fun `searches in many threads at once do not disturb each other`() {
        val rows = vectors(40_000, 16)
        val segment = Segment.of(16, rows, LongArray(40_000) { it.toLong() })
        val queries = List(8) { Query(vectors(1, 16)[0], 10) }
        val expected = queries.map { topK(segment, it, null, 1).ids }
        val found = arrayOfNulls<LongArray>(8)
        queries.indices.map { place -> Thread { found[place] = topK(segment, queries[place]).ids }.apply { start() } }
            .forEach(Thread::join)
        expected.indices.forEach { assertArrayEquals(expected[it], found[it]) }
    }
}
