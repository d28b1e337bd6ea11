package dev.magicmm

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Test

class ScanHeaderTest {
    private val header = ScanHeader(384, 5, "i".repeat(32), "ab".repeat(32), 1L shl 60, 1L shl 61, -1, 7)

    @Test
    fun `a header survives packing`() {
        assertEquals(128, header.pack().size)
        assertEquals(header, ScanHeader.unpack(header.pack()))
    }

    @Test
    fun `every byte is guarded`() {
        val data = header.pack()
        for (place in 0 until 112) {
            val broken = data.copyOf().also { it[place] = (it[place].toInt() xor 1).toByte() }
            assertNull(ScanHeader.unpack(broken), "byte $place")
        }
        assertNull(ScanHeader.unpack(data.copyOf(127)))
    }

    @Test
    fun `sizes that no index has are refused`() {
        for (rows in listOf(-1L, 1L shl 40)) assertNull(ScanHeader.unpack(header.copy(rows = rows).pack()))
        for (dim in listOf(0, -4)) assertNull(ScanHeader.unpack(header.copy(dim = dim).pack()))
    }
}
