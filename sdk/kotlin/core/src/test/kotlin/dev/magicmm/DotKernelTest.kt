package dev.magicmm

import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Test
import java.nio.ByteBuffer
import kotlin.random.Random

/** Every kernel gives the integer product, for all byte values, in any order of rows, across pieces. */
class DotKernelTest {
    private val random = Random(1)

    private fun expected(rows: List<ByteArray>, query: ByteArray): IntArray =
        IntArray(rows.size) { row -> query.indices.sumOf { query[it] * rows[row][it] } }

    private fun dots(kernel: DotKernel, rows: CodeRows, chosen: IntArray? = null): IntArray {
        val total = chosen?.size ?: rows.count
        val out = IntArray(kernel.tile)
        val found = IntArray(total)
        val reader = rows.reader()
        for (start in 0 until total step kernel.tile) {
            val count = minOf(kernel.tile, total - start)
            kernel.dots(reader, chosen, start, count, out)
            out.copyInto(found, start, 0, count)
        }
        return found
    }

    private fun codeRows(rows: List<ByteArray>, dim: Int): CodeRows =
        CodeRows.build(rows.size, dim) { place, row -> rows[place].copyInto(row) }

    @Test
    fun `random codes of many lengths`() {
        for (dim in listOf(1, 2, 3, 4, 5, 8, 12, 16, 64, 100, 384, 1536, 4096)) {
            val rows = List(37) { random.nextBytes(dim) }
            val query = random.nextBytes(dim)
            assertArrayEquals(expected(rows, query), dots(DotKernel.of(query), codeRows(rows, dim)), "dim $dim")
        }
    }

    @Test
    fun `the largest and smallest codes do not overflow`() {
        val extremes = listOf(-128, -127, 0, 127).map { it.toByte() }
        for (dim in listOf(16, 17)) {
            val rows = extremes.flatMap { one ->
                extremes.map { other -> ByteArray(dim) { if (it % 2 == 0) one else other } }
            }
            for (query in rows) assertArrayEquals(expected(rows, query), dots(DotKernel.of(query), codeRows(rows, dim)))
        }
    }

    @Test
    fun `chosen rows come in their order`() {
        val rows = List(50) { random.nextBytes(32) }
        val query = random.nextBytes(32)
        val chosen = intArrayOf(49, 0, 7, 7, 31)
        val found = dots(DotKernel.of(query), codeRows(rows, 32), chosen)
        assertArrayEquals(expected(chosen.map { rows[it] }, query), found)
    }

    @Test
    fun `rows that lie in several buffers are read across their ends`() {
        val rows = List(11) { random.nextBytes(8) }
        val pieces = rows.chunked(3).map { some -> ByteBuffer.wrap(some.fold(ByteArray(0), ByteArray::plus)) }
        val query = random.nextBytes(8)
        assertArrayEquals(expected(rows, query), dots(DotKernel.of(query), CodeRows(11, 8, 3, pieces)))
        assertArrayEquals(expected(rows, query), dots(ByteKernel(query), CodeRows(11, 8, 3, pieces)))
    }
}
