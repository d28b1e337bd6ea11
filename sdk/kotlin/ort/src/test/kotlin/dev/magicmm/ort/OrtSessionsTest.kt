package dev.magicmm.ort

import dev.magicmm.Bundle
import dev.magicmm.Embedder
import dev.magicmm.ErrorCode
import dev.magicmm.MagicError
import dev.magicmm.RgbImage
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.Paths
import java.util.concurrent.Callable
import java.util.concurrent.Executors
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class OrtSessionsTest {
    @TempDir
    lateinit var folder: Path

    private val nano = Bundle.load(Paths.get("../../python/magicmm/bundles/nano.magicmm"))

    private fun noise(width: Int, height: Int): RgbImage =
        RgbImage(width, height, ByteArray(3 * width * height) { (it * it / 7).toByte() })

    @Test
    fun `the built-in model passes its golden cases`() {
        assertTrue(nano.verify(OrtSessions(threads = 1)).passes)
    }

    @Test
    fun `threads share one embedder`() {
        Embedder.open(nano, OrtSessions(threads = 1)).use { embedder ->
            val texts = List(12) { "a photo of $it dogs" }
            val expected = texts.map { embedder.embedText(it) }
            val photo = embedder.embedImage(noise(300, 200))
            val pool = Executors.newFixedThreadPool(4)
            val found = texts.map { pool.submit(Callable { embedder.embedText(it) }) }
            val photos = List(3) { pool.submit(Callable { embedder.embedImage(noise(300, 200)) }) }
            found.forEachIndexed { place, vector -> assertContentEquals(expected[place], vector.get()) }
            photos.forEach { assertContentEquals(photo, it.get()) }
            pool.shutdown()
        }
    }

    @Test
    fun `vectors are the same after a release`() {
        val embedder = Embedder.open(nano, OrtSessions(threads = 2))
        val before = embedder.embedQuery("at night", noise(64, 80))
        embedder.release()
        assertContentEquals(before, embedder.embedQuery("at night", noise(64, 80)))
        embedder.close()
    }

    @Test
    fun `a provider that is not there is named with its reason, and the next one runs`() {
        val sessions = OrtSessions(1, listOf(ExecutionProvider.NNAPI, ExecutionProvider.QNN, ExecutionProvider.CPU))
        Embedder.open(nano, sessions).use { it.embedText("a dog") }
        assertEquals(listOf(ExecutionProvider.NNAPI, ExecutionProvider.QNN), sessions.refusals.map { it.provider })
        assertTrue(sessions.refusals.all { it.graph == "text.onnx" && it.reason.isNotBlank() })
    }

    @Test
    fun `without CPU in the list nothing else runs instead`() {
        val embedder = Embedder.open(nano, OrtSessions(1, listOf(ExecutionProvider.NNAPI)))
        val error = assertFailsWith<MagicError> { embedder.embedText("a dog") }
        assertEquals(ErrorCode.RUNTIME_FAILED, error.code)
        assertTrue("NNAPI" in error.message)
    }

    @Test
    fun `options that cannot be`() {
        assertEquals(ErrorCode.ARGUMENT_INVALID, assertFailsWith<MagicError> { OrtSessions(-1) }.code)
        assertEquals(ErrorCode.ARGUMENT_INVALID, assertFailsWith<MagicError> { OrtSessions(0, emptyList()) }.code)
    }

    @Test
    fun `a graph that the runtime refuses`() {
        val copy = folder.resolve("nano.magicmm")
        for (name in nano.manifest.files.keys + "manifest.json") {
            Files.createDirectories(copy.resolve(name).parent)
            Files.copy(nano.path.resolve(name), copy.resolve(name))
        }
        // Of the same size, and protobuf: one field of bytes that no message knows.
        val size = Files.size(copy.resolve("text.onnx")).toInt()
        val content = size - 4
        val header = byteArrayOf(0x7A, (content and 0x7F or 0x80).toByte(), (content shr 7 and 0x7F or 0x80).toByte())
        Files.write(copy.resolve("text.onnx"), header + (content shr 14).toByte() + ByteArray(content))
        val embedder = Embedder.open(Bundle.load(copy), OrtSessions(1))
        assertEquals(ErrorCode.RUNTIME_FAILED, assertFailsWith<MagicError> { embedder.embedText("a dog") }.code)
    }
}
