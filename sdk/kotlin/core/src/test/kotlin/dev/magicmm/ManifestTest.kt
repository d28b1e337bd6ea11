package dev.magicmm

import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Files
import java.nio.file.Path
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull

/** What the manifest says of a composed graph; the messages are Python's. That other rules hold is in `bundle.json`. */
class ManifestTest {
    @TempDir
    lateinit var folder: Path

    private fun said(bundle: Bundle, old: String, new: String): String {
        val text = String(Files.readAllBytes(bundle.path.resolve("manifest.json")))
        check(old in text) { "the manifest has no $old" }
        val error = assertFailsWith<MagicError> { parseManifest(text.replace(old, new)) }
        assertEquals(ErrorCode.BUNDLE_INVALID, error.code)
        return error.message.substringBefore(" Install")
    }

    @Test
    fun `a weight of the text where photo and text are a sum, and where it is added to what a graph says of both`() {
        assertEquals(1.0, dualBundle(folder.resolve("dual")).manifest.composedTextWeight)
        assertNull(composingBundle(folder.resolve("composing")).manifest.composedTextWeight)
        assertEquals(0.5, composingBundle(folder.resolve("added"), textWeight = 0.5).manifest.composedTextWeight)
    }

    @Test
    fun `what is wrong is said in the words of Python`() {
        val bundle = composingBundle(folder)
        val runtime = "\"graphs\": {\"coreml\": {\"image\": \"image.onnx\"}, \"onnx\""
        assertEquals(
            "graphs.coreml of this dual_encoder bundle lacks composed, text.",
            said(bundle, "\"graphs\": {\"onnx\"", runtime),
        )
        assertEquals("roles lacks composed.", said(bundle, "\"composed\": {\"head\"", "\"other\": {\"head\""))
        assertEquals(
            "manifest.composed must be an object",
            said(bundle, "\"graphs\"", "\"composed\": null, \"graphs\"").substringBefore(", got"),
        )
        val alternative = "\"alternatives\": {\"openvino\": {\"composed\": \"text.onnx\"}}, \"graphs\""
        assertEquals(
            "alternatives.openvino names composed, which is no part.",
            said(dualBundle(folder.resolve("dual")), "\"graphs\"", alternative),
        )
    }
}
