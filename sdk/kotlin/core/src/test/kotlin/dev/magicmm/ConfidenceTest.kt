package dev.magicmm

import org.junit.jupiter.api.Test
import kotlin.math.exp
import kotlin.math.ln
import kotlin.random.Random
import kotlin.test.assertEquals
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** The formula of docs/FORMAT.md; that both languages agree on whole searches is tested from Python. */
class ConfidenceTest {
    private val spec = ConfidenceSpec(0.7, -1.0, 12.0, -0.7, 30, 0.1)
    private val background = FloatArray(101) { -0.2f + 0.005f * it }.also { it.shuffle(Random(1)) }

    @Test
    fun `it is the documented formula`() {
        for ((best, searched) in listOf(0.3 to 101, 0.9 to 5000, -0.5 to 40)) {
            val expected = 1 / (1 + exp(-(-1 + 12 * (best - 0.15) - 0.7 * ln(searched.toDouble()))))
            assertEquals(expected, confidence(spec, best, background, 101, searched)!!, 1e-6)
        }
    }

    @Test
    fun `a small library has none, and few that pass a filter count as the least library`() {
        assertNull(confidence(spec, 0.5, background, 29, 29))
        assertNotNull(confidence(spec, 0.5, background, 30, 30))
        assertEquals(confidence(spec, 0.5, background, 101, 30), confidence(spec, 0.5, background, 101, 2))
    }

    @Test
    fun `extremes stay probabilities`() {
        val steep = ConfidenceSpec(0.5, 0.0, 1e8, 0.0, 2, 0.1)
        assertEquals(1.0, confidence(steep, 1.0, background, 101, 101))
        assertEquals(0.0, confidence(steep, -1.0, background, 101, 101))
    }

    @Test
    fun `quantiles interpolate`() {
        val values = floatArrayOf(4f, 1f, 3f, 2f)
        assertEquals(listOf(1.0, 1.75, 2.5, 4.0), listOf(0.0, 0.25, 0.5, 1.0).map { quantile(values, it) })
        assertEquals(5.0, quantile(floatArrayOf(5f), 0.7))
    }

    @Test
    fun `the background is every living row of a small library and an even sample of a large one`() {
        val random = Random(3)
        for ((count, step) in listOf(300 to 1, 5000 to 3)) {
            val rows = List(count) { quantise(FloatArray(16) { random.nextFloat() - 0.5f }) }
            val alive = BooleanArray(count) { it % 50 != 7 }
            val segment = Segment.of(16, rows, LongArray(count) { it + 1L }, alive)
            val query = Query(quantise(FloatArray(16) { random.nextFloat() - 0.5f }), count)
            val all = topK(segment, query).run { ids.zip(scores.toList()).sortedBy { it.first }.map { it.second } }
            val found = backgroundOf(listOf(segment), query)
            assertEquals(all.filterIndexed { place, _ -> place % step == 0 }, found.toList())
            assertTrue(found.size <= 2048)
        }
    }
}
