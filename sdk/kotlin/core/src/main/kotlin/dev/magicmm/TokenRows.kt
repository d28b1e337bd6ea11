package dev.magicmm

import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import java.nio.file.Path

/**
 * The token table of a vision-language bundle, mapped: it costs disk, not memory. Thread-safe.
 *
 * @throws MagicError `bundle_invalid` when the file cannot be read.
 */
internal class TokenRows(path: Path, private val spec: TokenTable) {
    /** One mapping holds at most 2 GB. */
    private val rowsOfBlock = BLOCK_BYTES / spec.dim
    private val blocks: List<ByteBuffer>
    private val scales: ByteBuffer

    init {
        try {
            RandomAccessFile(path.toFile(), "r").use { file ->
                blocks =
                    (0 until spec.rows step rowsOfBlock).map { first ->
                        val rows = minOf(rowsOfBlock, spec.rows - first)
                        file.mapped(first.toLong() * spec.dim, rows.toLong() * spec.dim)
                    }
                scales = file.mapped(tokenScalesOffset(spec), spec.rows.toLong() * Float.SIZE_BYTES)
            }
        } catch (error: IOException) {
            throw bundleInvalid("$path cannot be read (${saidBy(error)}).", cause = error)
        }
    }

    /**
     * The rows of token ids, side by side: [ids] x dim.
     *
     * @throws MagicError `bundle_invalid` for an id outside the table.
     */
    fun of(ids: List<Int>): FloatArray {
        val rows = FloatArray(ids.size * spec.dim)
        ids.forEachIndexed { place, id ->
            if (id !in 0 until spec.rows) {
                throw bundleInvalid(
                    "Token id $id lies outside the table of ${spec.rows} rows.",
                    "The bundle's tokenizer and token table do not belong together; export it anew.",
                )
            }
            val scale = scales.getFloat(id * Float.SIZE_BYTES)
            val block = blocks[id / rowsOfBlock]
            val begin = id % rowsOfBlock * spec.dim
            for (column in 0 until spec.dim) rows[place * spec.dim + column] = block.get(begin + column) * scale
        }
        return rows
    }

    private fun RandomAccessFile.mapped(begin: Long, bytes: Long): ByteBuffer =
        channel.map(FileChannel.MapMode.READ_ONLY, begin, bytes).order(ByteOrder.LITTLE_ENDIAN)

    private companion object {
        const val BLOCK_BYTES = 1 shl 30
    }
}
