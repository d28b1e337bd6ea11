package dev.magicmm

import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.StandardCopyOption
import java.nio.file.StandardOpenOption
import java.util.zip.CRC32

private const val CHUNK_BYTES = 1 shl 20

/**
 * Writes the scan file anew, beside the old one, and renames it. The caller holds the index's lock.
 *
 * @throws MagicError `storage_failed` when the disk is full; the old file stays.
 */
@MagicInternals
public fun writeScanFile(index: Index, model: Model) {
    val path = scanPath(index.path)
    val aside = aside(path)
    val header = try {
        translatedErrors(path) {
            val written = FileChannel.open(
                aside,
                StandardOpenOption.CREATE,
                StandardOpenOption.TRUNCATE_EXISTING,
                StandardOpenOption.WRITE,
            ).use { file ->
                index.snapshot { writeRows(file, index, model) }.also { file.force(true) }
            }
            replace(aside, path)
            written
        }
    } catch (error: Throwable) {
        deleteQuietly(aside)
        throw error
    }
    index.transaction {
        index.forgetRemoved(header.lastSeq)
        index.setMeta("compacted", header.generation)
    }
}

private fun replace(from: Path, to: Path) {
    Files.move(from, to, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING)
}

private fun deleteQuietly(path: Path) {
    try {
        Files.deleteIfExists(path)
    } catch (_: IOException) {
        // The first error is the one to tell.
    }
}

/** Writes codes as they come and the columns in front of them afterwards: every vector is read once. */
private fun writeRows(file: FileChannel, index: Index, model: Model): ScanHeader {
    val header = ScanHeader(
        dim = model.dim,
        rows = index.countVectors(model).toLong(),
        indexId = index.meta("index_id"),
        fingerprint = model.fingerprint,
        generation = index.metaNumber("generation"),
        lastSeq = 0,
        columnsCrc = 0,
        codesCrc = 0,
    )
    val columns = ScanColumns(header)
    val codes = CodesOut(file, header.codesAt)
    index.vectorsAfter(0, model) { row ->
        columns.add(row, index.path)
        codes.put(row.vector.codes)
    }
    codes.flush()
    val head = columns.finish(index.path)
    val crc = CRC32().apply { update(head) }.value.toInt()
    val complete = header.copy(lastSeq = columns.lastSeq, columnsCrc = crc, codesCrc = codes.crc)
    writeFully(file, ByteBuffer.wrap(complete.pack()), 0)
    writeFully(file, ByteBuffer.wrap(head), ScanHeader.BYTES.toLong())
    return complete
}

/** The columns between header and codes, filled row by row. */
private class ScanColumns(private val header: ScanHeader) {
    private val bytes =
        ByteBuffer.allocate((header.codesAt - ScanHeader.BYTES).toInt()).order(ByteOrder.LITTLE_ENDIAN)
    private var count = 0

    var lastSeq = 0L
        private set

    fun add(row: VectorRow, indexPath: Path) {
        if (count.toLong() == header.rows) throw miscounted(indexPath, count + 1)
        bytes.putLong(8 * count, row.seq)
        bytes.putLong((header.idsAt - ScanHeader.BYTES).toInt() + 8 * count, row.photoId)
        bytes.putFloat((header.scalesAt - ScanHeader.BYTES).toInt() + 4 * count, row.vector.scale)
        lastSeq = row.seq
        count++
    }

    fun finish(indexPath: Path): ByteArray {
        if (count.toLong() != header.rows) throw miscounted(indexPath, count)
        return bytes.array()
    }

    private fun miscounted(indexPath: Path, found: Int): MagicError =
        corrupt(indexPath, "it counts ${header.rows} vectors and holds $found")
}

/** Codes on their way to the file, in chunks. */
private class CodesOut(private val file: FileChannel, private var at: Long) {
    private val chunk = ByteArray(CHUNK_BYTES)
    private val checksum = CRC32()
    private var filled = 0

    val crc: Int get() = checksum.value.toInt()

    fun put(codes: ByteArray) {
        if (filled + codes.size > chunk.size) flush()
        codes.copyInto(chunk, filled)
        filled += codes.size
    }

    fun flush() {
        checksum.update(chunk, 0, filled)
        writeFully(file, ByteBuffer.wrap(chunk, 0, filled), at)
        at += filled
        filled = 0
    }
}

private fun writeFully(file: FileChannel, bytes: ByteBuffer, at: Long) {
    var place = at
    while (bytes.hasRemaining()) place += file.write(bytes, place)
}
