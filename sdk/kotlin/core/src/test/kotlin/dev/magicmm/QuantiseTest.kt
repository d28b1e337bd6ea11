package dev.magicmm

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test
import kotlin.math.abs
import kotlin.math.sqrt
import kotlin.random.Random

class QuantiseTest {
    @Test
    fun `halves go to the even neighbour and the peak to 127`() {
        val found = quantise(floatArrayOf(127f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f))
        assertEquals(listOf<Byte>(127, 0, 2, 2, 0, -2, -2), found.codes.toList())
    }

    @Test
    fun `codes times scale have length 1, whatever the length before`() {
        val random = Random(3)
        for (factor in listOf(1e-30f, 1f, 1e30f)) {
            val vector = FloatArray(384) { (random.nextFloat() - 0.5f) * factor }
            val found = quantise(vector)
            val length = sqrt(found.codes.sumOf { (it * found.scale.toDouble()).let { value -> value * value } })
            assertEquals(1.0, length, 1e-6)
            assertEquals(127, found.codes.maxOf { abs(it.toInt()) })
        }
    }
}
