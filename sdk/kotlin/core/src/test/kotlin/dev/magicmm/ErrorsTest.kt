package dev.magicmm

import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Files
import java.nio.file.Path
import kotlin.test.assertEquals
import kotlin.test.assertTrue

class ErrorsTest {
    @TempDir
    lateinit var folder: Path

    @Test
    fun `an error says what happened and what to do`() {
        assertEquals("It broke. Mend it.", MagicError(ErrorCode.CANCELLED, "It broke.", "Mend it.").toString())
        assertEquals("It broke.", PhotoSkipped(SkipReason.VANISHED, "It broke.").toString())
    }

    @Test
    fun `paths that are no bundles`() {
        assertCode(ErrorCode.BUNDLE_INVALID) { Bundle.load(folder) }
        assertCode(ErrorCode.BUNDLE_INVALID) { Bundle.load(folder.resolve("none")) }
        assertCode(ErrorCode.BUNDLE_INVALID) { Bundle.load("a\u0000b") }
        Files.write(folder.resolve("manifest.json"), byteArrayOf(0x22, 0xC3.toByte(), 0x28, 0x22))
        assertCode(ErrorCode.BUNDLE_INVALID) { Bundle.load(folder.toString()) }
        Files.write(folder.resolve("manifest.json"), ByteArray((4 shl 20) + 1))
        assertCode(ErrorCode.BUNDLE_INVALID) { Bundle.load(folder) }
    }

    @Test
    fun `file names that mean other files on other systems, though they are there`() {
        for (name in listOf(".hidden", "a b", "-x", "\u00e9", "a/.b", "a~")) {
            val files = mapOf(name to byteArrayOf(1))
            assertCode(ErrorCode.BUNDLE_INVALID) { dualBundle(Files.createTempDirectory(folder, "b"), files) }
        }
    }

    @Test
    fun `a changed file is found by its hash`() {
        val bundle = dualBundle(folder)
        bundle.checkHashes()
        Files.write(folder.resolve("image.onnx"), byteArrayOf(8, 9))
        val error = assertCode(ErrorCode.BUNDLE_INVALID) { bundle.checkHashes() }
        assertTrue("image.onnx" in error.message)
        Files.delete(folder.resolve("image.onnx"))
        assertCode(ErrorCode.BUNDLE_INVALID) { bundle.checkHashes() }
        assertCode(ErrorCode.BUNDLE_INVALID) { bundle.file("manifest.json") }
    }

    @Test
    fun `a bundle without graphs for this runtime`() {
        val bundle = dualBundle(folder)
        val text = String(Files.readAllBytes(folder.resolve("manifest.json"))).replace("\"onnx\"", "\"executorch\"")
        Files.write(folder.resolve("manifest.json"), text.toByteArray())
        val embedder = Embedder.open(Bundle.load(bundle.path), FakeSessions())
        assertCode(ErrorCode.RUNTIME_FAILED) { embedder.embedText("red") }
    }
}
