package dev.magicmm

import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.charset.CharacterCodingException
import java.nio.file.Path

/**
 * One tensor of a [Safetensors] file.
 *
 * @property type For example `F32` or `U8`.
 * @property shape May hold zeros.
 * @property begin Where its values begin, from the start of the file.
 * @property bytes How many there are.
 */
internal class TensorEntry(val type: String, val shape: List<Int>, val begin: Long, val bytes: Int)

/**
 * The header of a `safetensors` file, checked: values lie side by side, without gaps, up to the end of the file.
 *
 * @throws MagicError `bundle_invalid` when the file cannot be read or breaks the format.
 */
internal class Safetensors(private val path: Path) {
    /** The tensors by name. */
    val entries: Map<String, TensorEntry> = reading { readHeader(it) }

    /** The values of a tensor as they are stored, little-endian. */
    fun bytes(name: String): ByteArray {
        val entry = entries[name] ?: throw invalid("it holds no $name")
        return reading { file ->
            file.seek(entry.begin)
            ByteArray(entry.bytes).also(file::readFully)
        }
    }

    /** A float32 tensor. */
    fun floats(name: String): Tensor.Floats {
        val entry = entries[name] ?: throw invalid("it holds no $name")
        if (entry.type != "F32") throw invalid("$name is ${entry.type}, not F32")
        val values = FloatArray(entry.bytes / Float.SIZE_BYTES)
        ByteBuffer.wrap(bytes(name)).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(values)
        return Tensor.Floats(entry.shape, values)
    }

    private fun readHeader(file: RandomAccessFile): Map<String, TensorEntry> {
        val length = file.length()
        if (length < LENGTH_BYTES) throw invalid("it is too short")
        val headerBytes = java.lang.Long.reverseBytes(file.readLong())
        if (headerBytes !in 0..minOf(MOST_HEADER_BYTES, length - LENGTH_BYTES)) throw invalid("its header is too long")
        val header = ByteArray(headerBytes.toInt()).also(file::readFully)
        val raw = Json.parse(header.toText()) as? Map<*, *> ?: throw invalid("its header is no object")
        val start = LENGTH_BYTES + headerBytes
        val tensors = raw.filterKeys { it != "__metadata__" }.entries.associate { (name, entry) ->
            name as String to
                entry
        }
        val found = tensors.mapValues { (name, entry) -> entryOf(name, entry, start) }
        var end = start
        for (entry in found.values.sortedWith(compareBy({ it.begin }, { it.bytes }))) {
            if (entry.begin != end) throw invalid("its tensors overlap or leave gaps")
            end += entry.bytes
        }
        if (end != length) throw invalid("its tensors do not fill it")
        return found
    }

    private fun entryOf(name: String, value: Any?, start: Long): TensorEntry {
        val entry = value as? Map<*, *> ?: throw invalid("$name is no object")
        val type = entry["dtype"] as? String
        val size = TYPE_BYTES[type] ?: throw invalid("$name has the unknown type $type")
        val shape = wholeNumbers(entry["shape"]) ?: throw invalid("$name has no shape")
        val offsets = wholeNumbers(entry["data_offsets"])
        if (offsets?.size != 2) throw invalid("$name has no data_offsets")
        val (begin, end) = offsets
        val bytes = shape.fold(size) { product, side -> Math.multiplyExact(product, side) }
        if (end - begin != bytes || bytes > Int.MAX_VALUE || shape.any { it > Int.MAX_VALUE }) {
            throw invalid("$name has ${end - begin} bytes, not those of $type $shape")
        }
        return TensorEntry(type!!, shape.map { it.toInt() }, start + begin, bytes.toInt())
    }

    private fun wholeNumbers(value: Any?): List<Long>? {
        val items = value as? List<*> ?: return null
        val numbers = items.filterIsInstance<Long>().filter { it >= 0 }
        return if (numbers.size == items.size) numbers else null
    }

    private fun <T> reading(read: (RandomAccessFile) -> T): T = try {
        RandomAccessFile(path.toFile(), "r").use(read)
    } catch (error: CharacterCodingException) {
        throw invalid("its header is not UTF-8", error)
    } catch (error: IOException) {
        throw invalid(saidBy(error), error)
    } catch (error: JsonError) {
        throw invalid("its header is no JSON: ${error.message}", error)
    } catch (error: ArithmeticException) {
        throw invalid("a shape is too large", error)
    }

    private fun invalid(what: String, cause: Throwable? = null): MagicError =
        bundleInvalid("${path.fileName} cannot be read: $what.", cause = cause)

    private companion object {
        const val LENGTH_BYTES = 8L
        const val MOST_HEADER_BYTES = 100_000_000L
        val TYPE_BYTES =
            listOf("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2").associateWith { 1L } +
                listOf("U16", "I16", "F16", "BF16").associateWith { 2L } +
                listOf("U32", "I32", "F32").associateWith { 4L } +
                listOf("U64", "I64", "F64").associateWith { 8L }
    }
}
