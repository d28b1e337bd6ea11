package dev.magicmm.android

import android.graphics.Bitmap
import android.graphics.Color
import dev.magicmm.PhotoSkipped
import dev.magicmm.SkipReason
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import java.io.ByteArrayOutputStream
import kotlin.math.abs

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [26, 35])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class DecoderTest {
    private fun bitmap(width: Int, height: Int): Bitmap =
        Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888).apply {
            for (y in 0 until height) {
                for (x in 0 until width) {
                    setPixel(
                        x,
                        y,
                        Color.rgb(
                            255 * x / width,
                            255 * y / height,
                            80,
                        ),
                    )
                }
            }
        }

    private fun Bitmap.encoded(format: Bitmap.CompressFormat): ByteArray =
        ByteArrayOutputStream().also { compress(format, 95, it) }.toByteArray()

    private fun reasonOf(data: ByteArray): SkipReason =
        assertThrows(PhotoSkipped::class.java) { AndroidDecoder.decode(data, 0) }.reason

    @Test
    fun pngIsExact() {
        val photo = AndroidDecoder.decode(bitmap(40, 30).encoded(Bitmap.CompressFormat.PNG), 0)
        assertEquals(listOf(40, 30, 40, 30), listOf(photo.width, photo.height, photo.rgb.width, photo.rgb.height))
        val expected = ByteArray(3 * 40 * 30)
        for (y in 0 until 30) {
            for (x in 0 until 40) {
                val at = 3 * (40 * y + x)
                expected[at] = (255 * x / 40).toByte()
                expected[at + 1] = (255 * y / 30).toByte()
                expected[at + 2] = 80
            }
        }
        assertArrayEquals(expected, photo.rgb.pixels)
    }

    @Test
    fun halfTransparentPixelsLieOverWhite() {
        val picture = Bitmap.createBitmap(2, 1, Bitmap.Config.ARGB_8888)
        picture.setPixel(0, 0, Color.argb(0, 10, 20, 30))
        picture.setPixel(1, 0, Color.argb(128, 200, 0, 100))
        val pixels = AndroidDecoder.decode(picture.encoded(Bitmap.CompressFormat.PNG), 0).rgb.pixels.map {
            it.toInt() and
                0xFF
        }
        assertEquals(listOf(255, 255, 255), pixels.take(3))
        for ((found, expected) in pixels.drop(3).zip(listOf(227, 127, 177))) assertTrue(abs(found - expected) <= 1)
    }

    @Test
    fun largeJpegsAreDecodedSmaller() {
        val data = bitmap(1601, 901).encoded(Bitmap.CompressFormat.JPEG)
        val photo = AndroidDecoder.decode(data, 448)
        assertEquals(listOf(1601, 901), listOf(photo.width, photo.height))
        assertEquals(listOf(801, 451), listOf(photo.rgb.width, photo.rgb.height))
        assertEquals(1601, AndroidDecoder.decode(data, 0).rgb.width)
    }

    @Test
    @Config(sdk = [35]) // Robolectric's Android 8 reads no EXIF
    fun exifTurnsThePicture() {
        val data = withExif(bitmap(64, 32).encoded(Bitmap.CompressFormat.JPEG), orientation = 6)
        val photo = AndroidDecoder.decode(data, 0)
        assertEquals(listOf(32, 64, 32, 64), listOf(photo.width, photo.height, photo.rgb.width, photo.rgb.height))
        // Turned clockwise the left edge, dark in red, is on top.
        assertTrue((photo.rgb.pixels[0].toInt() and 0xFF) < 20)
        assertTrue((photo.rgb.pixels[3 * 32 * 63].toInt() and 0xFF) > 220)
    }

    @Test
    @Config(sdk = [35]) // Robolectric's Android 8 reads no EXIF
    fun exifGivesDateAndPlace() {
        val photo = AndroidDecoder.decode(withExif(bitmap(32, 32).encoded(Bitmap.CompressFormat.JPEG)), 0)
        assertEquals(1_500_000_000.0, photo.taken!!, 0.0)
        assertEquals(-(48 + 8 / 60.0 + 12.34 / 3600), photo.latitude!!, 1e-12)
        assertEquals(11 + 34 / 60.0 + 56.78 / 3600, photo.longitude!!, 1e-12)
        assertNull(AndroidDecoder.decode(bitmap(8, 8).encoded(Bitmap.CompressFormat.JPEG), 0).taken)
    }

    @Test
    fun whatIsBrokenSaysWhy() {
        val jpeg = bitmap(300, 200).encoded(Bitmap.CompressFormat.JPEG)
        val png = bitmap(300, 200).encoded(Bitmap.CompressFormat.PNG)
        assertEquals(SkipReason.EMPTY_FILE, reasonOf(ByteArray(0)))
        assertEquals(SkipReason.NOT_AN_IMAGE, reasonOf("no picture at all".toByteArray()))
        assertEquals(SkipReason.TRUNCATED, reasonOf(jpeg.copyOf(jpeg.size / 2)))
        assertEquals(SkipReason.TRUNCATED, reasonOf(png.copyOf(png.size / 2)))
        assertEquals(SkipReason.TOO_MANY_PIXELS, reasonOf(withPngSize(png, 20_000, 20_000)))
        val heic = byteArrayOf(0, 0, 0, 24) + "ftypheic".toByteArray() + ByteArray(200)
        assertEquals(SkipReason.HEIC_SUPPORT_MISSING, reasonOf(heic))
    }

    @Test
    fun aHalfReadHeaderIsNoCrash() {
        val jpeg = withExif(bitmap(60, 40).encoded(Bitmap.CompressFormat.JPEG))
        for (length in 1 until jpeg.size step 7) {
            assertThrows(PhotoSkipped::class.java) { AndroidDecoder.decode(jpeg.copyOf(length), 0) }
        }
    }

    @Test
    fun bitmapsOfTheAppAreRead() {
        val rgb = bitmap(10, 5).toRgbImage()
        assertEquals(listOf(10, 5), listOf(rgb.width, rgb.height))
        val thin = bitmap(10, 5).copy(Bitmap.Config.RGB_565, false).toRgbImage()
        for (place in rgb.pixels.indices) {
            assertTrue(abs((rgb.pixels[place].toInt() and 0xFF) - (thin.pixels[place].toInt() and 0xFF)) <= 8)
        }
    }
}
