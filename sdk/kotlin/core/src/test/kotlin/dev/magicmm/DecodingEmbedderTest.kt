package dev.magicmm

import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Path
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class DecodingEmbedderTest {
    @TempDir
    lateinit var folder: Path

    /** Reads files of one byte of width, one of height, and pixels. */
    private val asked = ArrayList<Int>()
    private val decoder =
        PhotoDecoder { data, minSide ->
            asked.add(minSide)
            if (data.isEmpty()) throw PhotoSkipped(SkipReason.EMPTY_FILE, "The file has no bytes.")
            val rgb = RgbImage(data[0].toInt(), data[1].toInt(), data.copyOfRange(2, data.size))
            DecodedPhoto(rgb, 2 * rgb.width, 2 * rgb.height, 7.0, 1.5, -2.5)
        }

    private fun file(rgb: RgbImage): ByteArray = byteArrayOf(rgb.width.toByte(), rgb.height.toByte()) + rgb.pixels

    @Test
    fun `photos come out as those of the embedder, with the facts of their files`() {
        val embedder = Embedder.open(dualBundle(folder), FakeSessions())
        val gallery = DecodingEmbedder(embedder, decoder)
        val photos = List(3) { picture(20 + it, 15, it) }
        val prepared = photos.map { gallery.preparePhoto(file(it)) }
        val vectors = gallery.embedPixels(prepared.map { it.pixels })
        photos.forEachIndexed { place, photo -> assertContentEquals(embedder.embedImage(photo), vectors[place]) }
        assertEquals(listOf(40, 30), listOf(prepared[0].width, prepared[0].height))
        assertEquals(listOf(7.0, 1.5, -2.5), listOf(prepared[0].taken, prepared[0].latitude, prepared[0].longitude))
        assertEquals(listOf(2 * SIDE, 2 * SIDE, 2 * SIDE), asked)
        assertEquals(listOf("tiny", embedder.fingerprint), listOf(gallery.name, gallery.fingerprint))
    }

    @Test
    fun `queries of words, of a photo, and of both`() {
        val embedder = Embedder.open(visionLanguageBundle(folder), FakeSessions())
        val gallery = DecodingEmbedder(embedder, decoder)
        val photo = picture(9, 9)
        assertContentEquals(embedder.embedQuery("red"), gallery.embedQuery("red", null, false))
        assertContentEquals(embedder.embedQuery(image = photo), gallery.embedQuery(null, file(photo), false))
        assertContentEquals(embedder.embedQuery("red", photo), gallery.embedQuery("red", file(photo), false))
        assertCode(ErrorCode.ARGUMENT_INVALID) { gallery.embedQuery(null, null, false) }
    }

    @Test
    fun `what the decoder and the hashes say comes through`() {
        val gallery = DecodingEmbedder(Embedder.open(dualBundle(folder), FakeSessions()), decoder)
        gallery.checkHashes()
        assertEquals(SkipReason.EMPTY_FILE, assertFailsWith<PhotoSkipped> { gallery.preparePhoto(ByteArray(0)) }.reason)
        assertCode(ErrorCode.ARGUMENT_INVALID) { gallery.embedPixels(listOf(ByteArray(7))) }
        gallery.release()
    }
}
