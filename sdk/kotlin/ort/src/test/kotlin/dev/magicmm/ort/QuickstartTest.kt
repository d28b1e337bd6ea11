package dev.magicmm.ort

import dev.magicmm.Bundle
import dev.magicmm.Embedder
import dev.magicmm.RgbImage
import org.junit.jupiter.api.Test
import kotlin.test.assertEquals
import kotlin.test.assertTrue

private const val NANO = "../../python/magicmm/bundles/nano.magicmm"

/** The lines of the README, run. */
class QuickstartTest {
    @Test
    fun quickstart() {
        val width = 40
        val height = 30
        val pixels = ByteArray(3 * width * height) { it.toByte() }
        val bundle = Bundle.load(NANO)
        Embedder.open(bundle, OrtSessions(threads = 2)).use { embedder ->
            val words = embedder.embedText("a dog on the beach")
            val photo = embedder.embedImage(RgbImage(width, height, pixels))
            val both = embedder.embedQuery("at night", RgbImage(width, height, pixels))
            val cosine = words.indices.sumOf { words[it].toDouble() * photo[it] }
            assertTrue(cosine in -1.0..1.0)
            assertEquals(embedder.dim, both.size)
        }
    }
}
