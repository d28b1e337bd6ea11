package dev.magicmm

import java.nio.file.Files
import java.nio.file.Path
import java.util.concurrent.atomic.AtomicInteger
import kotlin.test.assertEquals

const val SIDE = 8
const val DIM = 4

/** A byte of protobuf that says nothing: the smallest file that is taken for a graph. */
private val NO_GRAPH = byteArrayOf(8, 8)

const val WORDS = """{"[UNK]": 0, "red": 1, "dog": 2, "##s": 3, ":": 4, "query": 5}"""

fun wordPiece(vocab: String = WORDS, added: String = "[]"): String =
    """{"added_tokens": $added, "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
    "strip_accents": null, "lowercase": true}, "pre_tokenizer": {"type": "BertPreTokenizer"}, "model": {"type": "WordPiece",
    "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": $vocab}}"""

private fun role(rest: String = ""): String {
    val ids = """"head": [1], "image_before": [], "image_after": [], "tail": [], "text": "{text}""""
    return "{$ids, \"prefix\": null, \"max_tiles\": 1$rest}"
}

/** A dual encoder whose graphs only [FakeSessions] can run. */
fun dualBundle(folder: Path, files: Map<String, ByteArray> = emptyMap(), rest: String = ""): Bundle {
    val manifest =
        """"architecture": "dual_encoder", "composed": {"text_weight": 1},
        "image": {"side": $SIDE, "views": ["crop", "squash"], "resample": "bicubic"},
        "roles": {"photo": ${role()}, "query": ${role()}},
        "graphs": {"onnx": {"image": "image.onnx", "text": "text.onnx"}}$rest"""
    return write(folder, manifest, mapOf("image.onnx" to NO_GRAPH, "text.onnx" to NO_GRAPH) + files)
}

/** A dual encoder with a `composed` graph, to which the words are added when they have a weight; see [dualBundle]. */
fun composingBundle(folder: Path, textWeight: Double? = null): Bundle {
    val weight = if (textWeight == null) "" else "\"composed\": {\"text_weight\": $textWeight},"
    val composed = role().replace("\"image_before\": []", "\"image_before\": [2]")
        .replace("\"image_after\": []", "\"image_after\": [5]")
        .replace("\"tail\": []", "\"tail\": [4]")
        .replace("{text}", "dog {text}")
    val manifest =
        """"architecture": "dual_encoder", $weight
        "image": {"side": $SIDE, "views": ["crop", "squash"], "resample": "bicubic"},
        "roles": {"photo": ${role()}, "query": ${role()}, "composed": $composed},
        "graphs": {"onnx": {"image": "image.onnx", "text": "text.onnx", "composed": "composed.onnx"}}"""
    return write(folder, manifest, listOf("image.onnx", "text.onnx", "composed.onnx").associateWith { NO_GRAPH })
}

/** A vision-language bundle with six token rows and a prefix; see [dualBundle]. */
fun visionLanguageBundle(folder: Path, files: Map<String, ByteArray> = emptyMap(), rows: Int = 6): Bundle {
    val manifest =
        """"architecture": "vision_language", "image": {"side": $SIDE, "views": ["squash"], "resample": "bicubic"},
        "tokens": {"file": "tokens.bin", "rows": $rows, "dim": $DIM},
        "roles": {"photo": ${role()}, "query": ${role(", \"prefix\": \"prefix/query.safetensors\"")
            .replace("\"prefix\": null, ", "")}, "composed": ${role()}},
        "graphs": {"onnx": {"vision": "vision.onnx", "language": "language.onnx"}}"""
    val table = ByteArray(64 + 4 * rows) { if (it < rows * DIM) it.toByte() else 0 }
    for (row in 0 until rows) table[64 + 4 * row + 2] = 0x80.toByte() // float32 1.0, little-endian
    for (row in 0 until rows) table[64 + 4 * row + 3] = 0x3F
    val own = mapOf("vision.onnx" to NO_GRAPH, "language.onnx" to NO_GRAPH, "tokens.bin" to table)
    val prefix = safetensors("""{"past_key_0": {"dtype": "F32", "shape": [1, 1, 2, 3], "data_offsets": [0, 24]}}""", 24)
    return write(folder, manifest, own + ("prefix/query.safetensors" to prefix) + files)
}

/** A file with this header and zeros behind it. */
fun safetensors(header: String, bytes: Int): ByteArray {
    val length = ByteArray(8) { if (it < 4) (header.length ushr (8 * it)).toByte() else 0 }
    return length + header.toByteArray() + ByteArray(bytes)
}

private fun write(folder: Path, manifest: String, files: Map<String, ByteArray>): Bundle {
    val all = mapOf("tokenizer.json" to wordPiece().toByteArray(), "golden.json" to "{}".toByteArray()) + files
    for ((name, data) in all) {
        Files.createDirectories(folder.resolve(name).parent)
        Files.write(folder.resolve(name), data)
    }
    val listed =
        all.entries.joinToString { (name, data) ->
            "\"$name\": {\"bytes\": ${data.size}, \"sha256\": \"${sha256().digest(data).toHex()}\"}"
        }
    val text =
        """{"format": "magicmm-bundle", "format_version": 1, "id": "tiny", "dim": $DIM, "weights": "w",
        "text": {"tokenizer": "tokenizer.json", "max_tokens": 12, "pad_id": 0}, "quantisation": {}, "golden": "golden.json",
        $manifest, "files": {$listed}}"""
    Files.write(folder.resolve("manifest.json"), text.toByteArray())
    return Bundle.load(folder)
}

/** Sessions that compute what a test says and count what is open. */
class FakeSessions(private val compute: (String, Map<String, Tensor>, String?) -> Tensor.Floats = ::sums) :
    SessionFactory {
    val opened = AtomicInteger()
    val closed = AtomicInteger()

    override fun open(graph: Graph): Session {
        opened.incrementAndGet()
        val name = graph.path.fileName.toString()
        return object : Session {
            override fun run(inputs: Map<String, Tensor>, output: String?): Tensor.Floats =
                compute(name, inputs, output)

            override fun close() {
                closed.incrementAndGet()
            }
        }
    }
}

/** Vectors that depend on what went in, and visual tokens: the first bytes of each view. */
fun sums(graph: String, inputs: Map<String, Tensor>, output: String? = null): Tensor.Floats = when (graph) {
    "image.onnx" -> {
        val pixels = inputs.getValue("pixels") as Tensor.Bytes
        val bytes = (if (output == "visual") 1 else 2) * SIDE * SIDE * 3 // of a view, or of a photo
        val rows =
            FloatArray(pixels.values.size / bytes * DIM) { 1f + pixels.values[it / DIM * bytes + it % DIM] }
        val photos = pixels.shape[0] / 2
        Tensor.Floats(if (output == "visual") listOf(photos, 2, DIM) else listOf(photos, DIM), rows)
    }

    "composed.onnx" -> {
        val visual = inputs.getValue("visual") as Tensor.Floats
        val ids = (inputs.getValue("ids") as Tensor.Longs).values
        val places = ids.withIndex().sumOf { (place, id) -> (place + 1) * id }.toFloat()
        val length = (inputs.getValue("mask") as Tensor.Longs).values.sum().toFloat()
        Tensor.Floats(listOf(1, DIM), floatArrayOf(places, length, visual.values.first(), visual.values.last()))
    }

    "text.onnx" -> {
        val ids = inputs.getValue("ids") as Tensor.Longs
        Tensor.Floats(listOf(1, DIM), FloatArray(DIM) { 1f + ids.values.sum() * it })
    }

    "vision.onnx" -> {
        val tiles = (inputs.getValue("pixels") as Tensor.Bytes).shape[0]
        Tensor.Floats(listOf(tiles, 2, DIM), FloatArray(tiles * 2 * DIM) { it.toFloat() })
    }

    else -> {
        val embeds = inputs.getValue("embeds") as Tensor.Floats
        val (count, length) = embeds.shape
        val prefix = inputs.getValue("past_key_0") as Tensor.Floats
        val vector = floatArrayOf(1f, length.toFloat(), prefix.shape[2].toFloat(), embeds.values.sum())
        Tensor.Floats(listOf(count, DIM), FloatArray(count * DIM) { vector[it % DIM] })
    }
}

/** Check that an action fails, and with which code. */
fun assertCode(code: ErrorCode, action: () -> Unit): MagicError {
    val error = kotlin.test.assertFailsWith<MagicError> { action() }
    assertEquals(code, error.code, error.toString())
    return error
}

fun picture(width: Int, height: Int, seed: Int = 1): RgbImage =
    RgbImage(width, height, ByteArray(3 * width * height) { (it * 31 * seed).toByte() })
