package dev.magicmm

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.zip.CRC32

/** What a scan file says it holds (docs/FORMAT.md, part 5); [fingerprint] is 64 hex digits. */
internal data class ScanHeader(
    val dim: Int,
    val rows: Long,
    val indexId: String,
    val fingerprint: String,
    val generation: Long,
    val lastSeq: Long,
    val columnsCrc: Int,
    val codesCrc: Int,
) {
    /** Where the photo ids begin; seqs begin at [BYTES]. */
    val idsAt: Long get() = BYTES + 8 * rows

    val scalesAt: Long get() = idsAt + 8 * rows

    val codesAt: Long get() = (scalesAt + 4 * rows + 63) / 64 * 64

    /** The length of the file. */
    val end: Long get() = codesAt + rows * dim

    /** Returns the 128 bytes at the start of the file. */
    fun pack(): ByteArray {
        val bytes = ByteBuffer.allocate(BYTES).order(ByteOrder.LITTLE_ENDIAN)
        bytes.put(MAGIC).putInt(0).putInt(dim).putLong(rows)
        bytes.put(indexId.toByteArray(Charsets.US_ASCII).copyOf(ID_BYTES)).put(unhex(fingerprint))
        bytes.putLong(generation).putLong(lastSeq).putInt(columnsCrc).putInt(codesCrc)
        bytes.putInt(CRC_AT, crcOf(bytes.array()))
        return bytes.array()
    }

    companion object {
        const val BYTES = 128
        private const val CRC_AT = 8
        private const val BODY_AT = 12
        private const val BODY_END = 112
        private const val ID_BYTES = 32
        private const val MOST_ROWS = Int.MAX_VALUE - 8L
        private val MAGIC = "MMSCAN01".toByteArray(Charsets.US_ASCII)

        /** Reads the header; null when it is none or damaged. */
        fun unpack(data: ByteArray): ScanHeader? {
            if (data.size < BYTES || !data.copyOf(MAGIC.size).contentEquals(MAGIC)) return null
            val bytes = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN)
            if (bytes.getInt(CRC_AT) != crcOf(data)) return null
            val header = ScanHeader(
                dim = bytes.getInt(12),
                rows = bytes.getLong(16),
                indexId = String(data, 24, ID_BYTES, Charsets.ISO_8859_1),
                fingerprint = hex(data.copyOfRange(56, 88)),
                generation = bytes.getLong(88),
                lastSeq = bytes.getLong(96),
                columnsCrc = bytes.getInt(104),
                codesCrc = bytes.getInt(108),
            )
            // Beyond these no index of ours has a file, and offsets would overflow.
            return header.takeIf { it.dim in 1..MAX_DIM && it.rows in 0..MOST_ROWS }
        }

        private fun crcOf(header: ByteArray): Int =
            CRC32().apply { update(header, BODY_AT, BODY_END - BODY_AT) }.value.toInt()

        private fun unhex(text: String): ByteArray =
            ByteArray(text.length / 2) { text.substring(2 * it, 2 * it + 2).toInt(16).toByte() }
    }
}
