package dev.magicmm

import org.junit.jupiter.api.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertSame
import kotlin.test.assertTrue

class ImageTest {
    @Test
    fun `sizes that do not fit the bytes`() {
        for ((width, height, bytes) in listOf(
            Triple(0, 1, 0),
            Triple(1, 1, 4),
            Triple(2, -2, 12),
            Triple(65536, 65536, 3),
        )) {
            val error = assertFailsWith<PhotoSkipped> { RgbImage(width, height, ByteArray(bytes)) }
            assertEquals(SkipReason.UNSUPPORTED_PIXELS, error.reason)
            assertEquals(ErrorCode.IMAGE_INVALID, error.code)
        }
        assertFailsWith<PhotoSkipped> { alphaOnWhite(2, 2, ByteArray(15)) }
        assertFailsWith<PhotoSkipped> { grey16(1, 1, intArrayOf(0x10000)) }
        assertFailsWith<PhotoSkipped> { grey16(1, 1, intArrayOf(-1)) }
    }

    @Test
    fun `other orientations turn nothing`() {
        val rgb = picture(3, 2)
        for (orientation in listOf(-1, 0, 1, 9)) assertSame(rgb, upright(rgb, orientation))
    }

    @Test
    fun `a large picture of one colour stays so`() {
        val rgb = RgbImage(3000, 2000, ByteArray(18_000_000) { 200.toByte() })
        assertTrue(resize(rgb, 448, 448).pixels.all { it == 200.toByte() })
    }
}
