package dev.magicmm

import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.IntBuffer

/**
 * int8 [count, dim], row by row, in memory or mapped from a file.
 *
 * A buffer ends at 2 GB, so the rows may lie in several, each but the last with `rowsAPiece` rows.
 */
internal class CodeRows(
    val count: Int,
    val dim: Int,
    private val rowsAPiece: Int,
    private val pieces: List<ByteBuffer>,
) {
    /** Returns a reader; one for each thread. */
    fun reader(): Reader = Reader()

    /** Returns a copy of some rows, in the given order. */
    fun take(rows: IntArray): CodeRows {
        val reader = reader()
        return build(rows.size, dim) { place, row -> reader.readBytes(rows[place], row) }
    }

    /** Copies rows out of the buffers, where loops over them run at full speed. */
    inner class Reader {
        private val bytes = pieces.map { it.duplicate() }
        private val words: List<IntBuffer> = pieces.map { it.duplicate().order(ByteOrder.LITTLE_ENDIAN).asIntBuffer() }

        /** Copies one row into [into], `dim` bytes. */
        fun readBytes(row: Int, into: ByteArray) {
            val piece = bytes[row / rowsAPiece]
            move(piece, row % rowsAPiece * dim)
            piece.get(into, 0, dim)
        }

        /** Copies [rows] rows from [row] on into [into] from place [at], four codes a word; needs `dim % 4 == 0`. */
        fun readWords(row: Int, rows: Int, into: IntArray, at: Int) {
            var done = 0
            while (done < rows) {
                val first = row + done
                val some = minOf(rows - done, rowsAPiece - first % rowsAPiece)
                val piece = words[first / rowsAPiece]
                move(piece, first % rowsAPiece * (dim / 4))
                piece.get(into, at + done * (dim / 4), some * (dim / 4))
                done += some
            }
        }

        // Through the base class: Android 8 has `position` only there.
        private fun move(buffer: Buffer, position: Int) {
            buffer.position(position)
        }
    }

    companion object {
        private const val MOST_BYTES = 1 shl 30

        /** Returns how many rows lie in one buffer. */
        fun rowsAPiece(dim: Int): Int = MOST_BYTES / dim

        /** Makes rows in memory: [fill] is called for each row, in order, with its place and the bytes to fill. */
        fun build(count: Int, dim: Int, fill: (place: Int, row: ByteArray) -> Unit): CodeRows {
            val size = rowsAPiece(dim)
            val row = ByteArray(dim)
            val pieces = (0 until count step size).map { start ->
                val rows = minOf(size, count - start)
                val data = ByteArray(rows * dim)
                for (place in 0 until rows) {
                    fill(start + place, row)
                    row.copyInto(data, place * dim)
                }
                ByteBuffer.wrap(data)
            }
            return CodeRows(count, dim, size, pieces)
        }
    }
}
