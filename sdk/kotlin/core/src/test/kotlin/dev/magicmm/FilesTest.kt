package dev.magicmm

import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Files
import java.nio.file.Path
import kotlin.test.assertEquals

/** Files inside of a bundle that are read by hand: graphs and `safetensors`. */
class FilesTest {
    @TempDir
    lateinit var folder: Path

    private fun varint(number: Int): ByteArray = if (number <
        0x80
    ) {
        byteArrayOf(number.toByte())
    } else {
        byteArrayOf((number or 0x80).toByte()) + varint(number ushr 7)
    }

    private fun field(number: Int, content: ByteArray): ByteArray =
        varint(number shl 3 or 2) + varint(content.size) + content

    private fun entry(key: String, value: String): ByteArray =
        field(13, field(1, key.toByteArray()) + field(2, value.toByteArray()))

    /** A graph with one initializer. */
    private fun graph(tensor: ByteArray): ByteArray = field(7, field(5, tensor))

    private fun embed(graph: ByteArray, rest: String = "", more: Map<String, ByteArray> = emptyMap()) {
        val bundle = dualBundle(Files.createTempDirectory(folder, "b"), mapOf("text.onnx" to graph) + more, rest)
        Embedder.open(bundle, FakeSessions()).embedText("red")
    }

    @Test
    fun `a graph may read files of its bundle and no others`() {
        embed(graph(entry("location", "weights.bin")), more = mapOf("weights.bin" to byteArrayOf(1)))
        embed(graph(entry("location", "./weights.bin")), more = mapOf("weights.bin" to byteArrayOf(1)))
        for (name in listOf("other.bin", "../weights.bin", "/etc/hosts", "a/../weights.bin", "", ".")) {
            assertCode(ErrorCode.BUNDLE_INVALID) {
                embed(graph(entry("location", name)), more = mapOf("weights.bin" to byteArrayOf(1)))
            }
        }
        assertCode(ErrorCode.BUNDLE_INVALID) {
            embed(
                graph(entry("location", "weights.bin") + entry("location", "x")),
                more = mapOf("weights.bin" to byteArrayOf(1)),
            )
        }
    }

    @Test
    fun `tensors of nodes, subgraphs, functions and sparse tensors count, too`() {
        val outside = entry("location", "outside.bin")
        val places =
            listOf(
                field(7, field(1, field(5, field(5, outside)))),
                field(7, field(1, field(5, field(6, field(5, outside))))),
                field(7, field(15, field(1, outside))),
                field(20, field(1, field(5, outside))),
                field(25, field(7, field(5, field(10, outside)))),
            )
        for (place in places) assertCode(ErrorCode.BUNDLE_INVALID) { embed(place) }
    }

    @Test
    fun `files that are no graphs`() {
        var nested = ByteArray(0)
        repeat(30) { nested = field(1, field(5, field(6, nested))) }
        val broken =
            listOf(
                ByteArray(0),
                byteArrayOf(0x3A, 5, 1),
                byteArrayOf(0x3B),
                ByteArray(11) { 0x80.toByte() },
                byteArrayOf(0x09, 1, 2),
                "no protobuf".toByteArray(),
                graph(field(8, byteArrayOf(-1, -2))),
                field(7, nested),
            )
        for (data in broken) assertCode(ErrorCode.RUNTIME_FAILED) { embed(data) }
    }

    @Test
    fun `packed weights must be declared and stored as the format says`() {
        val rest = """, "packed": {"onnx": {"text": "text.q4"}}"""
        val dims = byteArrayOf(0x08, 2, 0x08, 4)
        val int8 = byteArrayOf(0x10, 3)
        val offset = entry("offset", (1L shl 40).toString())
        val sound = dims + int8 + field(8, "w".toByteArray()) + entry("location", "text.q4") + offset
        val header =
            """{"w.codes": {"dtype": "U8", "shape": [2, 2], "data_offsets": [0, 4]},
            "w.multipliers": {"dtype": "U8", "shape": [1, 4], "data_offsets": [4, 8]}}"""
        val stored = safetensors(header, 8)
        embed(graph(sound), rest, mapOf("text.q4" to stored))
        val wrong =
            listOf(
                int8 + field(8, "w".toByteArray()) + entry("location", "text.q4"),
                byteArrayOf(0x10, 1) + field(8, "w".toByteArray()) + entry("location", "text.q4") + offset,
                dims + int8 + field(8, "v".toByteArray()) + entry("location", "text.q4") + offset,
            )
        for (tensor in wrong) {
            assertCode(ErrorCode.BUNDLE_INVALID) { embed(graph(tensor), rest, mapOf("text.q4" to stored)) }
        }
        val twice = field(7, field(5, sound) + field(5, sound))
        assertCode(ErrorCode.BUNDLE_INVALID) { embed(twice, rest, mapOf("text.q4" to stored)) }
        assertCode(ErrorCode.BUNDLE_INVALID) { embed(byteArrayOf(8, 8), rest, mapOf("text.q4" to stored)) }
    }

    @Test
    fun `packed weights that do not fit what the graph declares`() {
        val path = Files.write(folder.resolve("w.q4"), stored("U8", "[2, 2]"))
        val zero = PackedWeights(path, mapOf("w" to listOf(2L, 4L)))
        assertCode(ErrorCode.BUNDLE_INVALID) { zero.read("w") } // multipliers of 0
        assertCode(ErrorCode.BUNDLE_INVALID) { PackedWeights(path, mapOf("w" to listOf(4L, 2L))).read("w") }
        Files.write(path, stored("I8", "[2, 2]"))
        assertCode(ErrorCode.BUNDLE_INVALID) { PackedWeights(path, mapOf("w" to listOf(2L, 4L))).read("w") }
        Files.write(path, stored("U8", "[4]"))
        assertCode(ErrorCode.BUNDLE_INVALID) { PackedWeights(path, mapOf("w" to listOf(2L, 4L))).read("w") }
    }

    private fun stored(type: String, shape: String): ByteArray {
        val codes = """"w.codes": {"dtype": "$type", "shape": $shape, "data_offsets": [0, 4]}"""
        return safetensors("""{$codes, "w.multipliers": {"dtype": "U8", "shape": [1, 4], "data_offsets": [4, 8]}}""", 8)
    }

    @Test
    fun `a header is read as the format says`() {
        val header =
            """{"__metadata__": {"x": "y"}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            "a": {"dtype": "U8", "shape": [2, 2], "data_offsets": [0, 4]},
            "none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [12, 12]}}"""
        val file = Safetensors(Files.write(folder.resolve("x"), safetensors(header, 12)))
        assertEquals(setOf("a", "b", "none"), file.entries.keys)
        assertEquals(listOf(2), file.floats("b").shape)
        assertEquals(0, file.floats("none").values.size)
        assertCode(ErrorCode.BUNDLE_INVALID) { file.floats("a") }
        assertCode(ErrorCode.BUNDLE_INVALID) { file.bytes("c") }
    }

    @Test
    fun `headers that lie`() {
        fun one(shape: String, offsets: String, type: String = "\"U8\"") =
            safetensors("""{"a": {"dtype": $type, "shape": $shape, "data_offsets": $offsets}}""", 4)
        val broken =
            listOf(
                ByteArray(0),
                ByteArray(7),
                ByteArray(8) { -1 },
                byteArrayOf(9, 0, 0, 0, 0, 0, 0, 0) + "{}".toByteArray(),
                safetensors("[]", 0),
                safetensors("{", 0),
                safetensors("""{"a": 7}""", 0),
                safetensors("""{"a": {}, "a": {}}""", 0),
                safetensors("{}", 4),
                one("[4]", "[0, 3]"),
                one("[3]", "[0, 3]"),
                one("[4]", "[1, 5]"),
                one("[4]", "[0]"),
                one("[-4]", "[0, 4]"),
                one("[4.0]", "[0, 4]"),
                one("[4]", "[0, 4]", "\"U9\""),
                one("[4]", "[0, 4]", "7"),
                one("[4611686018427387904, 4]", "[0, 4]"),
            )
        for (data in broken) {
            assertCode(ErrorCode.BUNDLE_INVALID) { Safetensors(Files.write(folder.resolve("x"), data)) }
        }
        assertCode(ErrorCode.BUNDLE_INVALID) { Safetensors(folder.resolve("none")) }
    }
}
