package dev.magicmm

import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.channels.FileChannel
import java.nio.charset.CharacterCodingException
import java.nio.file.Path

/** `TensorProto.INT8`. */
internal const val ONNX_INT8: Long = 3

/** A file that is no protobuf message. */
internal class OnnxError(message: String) : IllegalArgumentException(message)

/**
 * A tensor whose values lie in another file.
 *
 * @property dataType The number of its type in onnx.proto.
 * @property entries Where the values lie, as key and value in the order of the file: `location`, `offset`, `length`.
 * @property isInitializer Whether it is an initializer of the main graph.
 */
internal class ExternalTensor(
    val name: String,
    val dataType: Long,
    val shape: List<Long>,
    private val entries: List<Pair<String, String>>,
    val isInitializer: Boolean,
) {
    /** Every value that is given for a key: readers differ in which they take. */
    fun all(key: String): List<String> = entries.filter { it.first == key }.map { it.second }
}

/**
 * The tensors of an ONNX graph that name another file, wherever the format allows one, found before a runtime sees the
 * graph: a graph may name any path, and some runtimes follow it. Throws [OnnxError] and `IOException`.
 */
internal fun externalTensors(path: Path): List<ExternalTensor> {
    val data =
        RandomAccessFile(path.toFile(), "r").use { file ->
            if (file.length() !in 1..Int.MAX_VALUE) throw OnnxError("the file is empty or too large")
            file.channel.map(FileChannel.MapMode.READ_ONLY, 0, file.length())
        }
    val found = ArrayList<ExternalTensor>()
    OnnxWalk(data, found).message(0, data.limit(), Message.MODEL, 0)
    return found
}

/** The messages of onnx.proto that can lead to a tensor, with the numbers of the fields that do. */
private enum class Message {
    MODEL,
    TRAINING,
    GRAPH,
    FUNCTION,
    NODE,
    ATTRIBUTE,
    SPARSE_TENSOR,
    TENSOR,
    ;

    fun inner(field: Int): Message? = when (this) {
        MODEL -> mapOf(7 to GRAPH, 20 to TRAINING, 25 to FUNCTION)[field]

        TRAINING -> if (field == 1 || field == 2) GRAPH else null

        GRAPH -> mapOf(1 to NODE, 5 to TENSOR, 15 to SPARSE_TENSOR)[field]

        FUNCTION -> mapOf(7 to NODE, 11 to ATTRIBUTE)[field]

        NODE -> if (field == 5) ATTRIBUTE else null

        ATTRIBUTE ->
            mapOf(
                5 to TENSOR,
                6 to GRAPH,
                10 to TENSOR,
                11 to GRAPH,
                22 to SPARSE_TENSOR,
                23 to SPARSE_TENSOR,
            )[field]

        SPARSE_TENSOR -> if (field == 1 || field == 2) TENSOR else null

        TENSOR -> null
    }
}

private class Field(val number: Int, val kind: Int, val begin: Int, val end: Int)

private class OnnxWalk(private val data: ByteBuffer, private val found: MutableList<ExternalTensor>) {
    fun message(start: Int, stop: Int, kind: Message, depth: Int) {
        if (depth > MOST_DEPTH) throw OnnxError("messages are nested too deeply")
        if (kind == Message.TENSOR) {
            val tensor = tensor(start, stop, depth == INITIALIZER_DEPTH)
            if (tensor.all("location").isNotEmpty()) found.add(tensor)
            return
        }
        fields(start, stop) { field ->
            val inner = if (field.kind == BYTES) kind.inner(field.number) else null
            if (inner != null) message(field.begin, field.end, inner, depth + 1)
        }
    }

    private fun tensor(start: Int, stop: Int, isInitializer: Boolean): ExternalTensor {
        var name = ""
        var dataType = 0L
        val shape = ArrayList<Long>()
        val entries = ArrayList<Pair<String, String>>()
        fields(start, stop) { field ->
            val isNumber = field.kind == VARINT
            val isBytes = field.kind == BYTES
            when {
                field.number == DIMS && (isNumber || isBytes) -> shape += numbers(field)

                // one by one, or all in one
                field.number == DATA_TYPE && isNumber -> dataType = numbers(field).first()

                field.number == TENSOR_NAME && isBytes -> name = text(field)

                field.number == EXTERNAL_DATA && isBytes -> entries += entry(field)
            }
        }
        return ExternalTensor(name, dataType, shape, entries, isInitializer)
    }

    private fun entry(field: Field): Pair<String, String> {
        var key = ""
        var value = ""
        fields(field.begin, field.end) { inner ->
            if (inner.kind == BYTES && inner.number == 1) key = text(inner)
            if (inner.kind == BYTES && inner.number == 2) value = text(inner)
        }
        return key to value
    }

    private fun fields(start: Int, stop: Int, onField: (Field) -> Unit) {
        var at = start
        while (at < stop) {
            val (key, begin) = varint(at, stop)
            val kind = (key and 7).toInt()
            val field =
                when (kind) {
                    BYTES -> {
                        val (length, content) = varint(begin, stop)
                        if (length !in 0..stop - content) throw OnnxError("a field ends after its message")
                        Field((key ushr 3).toInt(), kind, content, content + length.toInt())
                    }

                    VARINT -> Field((key ushr 3).toInt(), kind, begin, varint(begin, stop).second)

                    FIXED64 -> Field((key ushr 3).toInt(), kind, begin, begin + Long.SIZE_BYTES)

                    FIXED32 -> Field((key ushr 3).toInt(), kind, begin, begin + Int.SIZE_BYTES)

                    else -> throw OnnxError("field ${key ushr 3} is of the unknown kind $kind")
                }
            if (field.end > stop) throw OnnxError("a field ends after its message")
            onField(field)
            at = field.end
        }
    }

    private fun numbers(field: Field): List<Long> {
        val numbers = ArrayList<Long>()
        var at = field.begin
        while (at < field.end) {
            val (number, next) = varint(at, field.end)
            numbers.add(number)
            at = next
        }
        return numbers
    }

    private fun text(field: Field): String {
        val part = ByteArray(field.end - field.begin) { data.get(field.begin + it) }
        return try {
            part.toText()
        } catch (error: CharacterCodingException) {
            throw OnnxError("a name is not UTF-8: ${error.message}")
        }
    }

    /** A number, and where the next field begins. */
    private fun varint(start: Int, stop: Int): Pair<Long, Int> {
        var value = 0L
        for (place in 0 until minOf(MOST_VARINT_BYTES, stop - start)) {
            val byte = data.get(start + place).toLong()
            value = value or ((byte and 0x7F) shl (7 * place))
            if (byte >= 0) return value to start + place + 1
        }
        throw OnnxError("a number does not end")
    }

    private companion object {
        const val MOST_DEPTH = 64
        const val MOST_VARINT_BYTES = 10
        const val VARINT = 0
        const val FIXED64 = 1
        const val BYTES = 2
        const val FIXED32 = 5

        // Fields of a tensor.
        const val DIMS = 1
        const val DATA_TYPE = 2
        const val TENSOR_NAME = 8
        const val EXTERNAL_DATA = 13

        /** Model, graph, tensor; the initializers of training graphs and subgraphs lie deeper. */
        const val INITIALIZER_DEPTH = 2
    }
}
