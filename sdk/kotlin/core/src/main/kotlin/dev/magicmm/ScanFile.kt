package dev.magicmm

import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.ClosedByInterruptException
import java.nio.channels.FileChannel
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.StandardOpenOption
import java.util.zip.CRC32

/**
 * A scan file whose codes are mapped into memory. It is derived from the index and never the truth: whoever finds it
 * missing, damaged or of another index reads the same rows from SQLite. The mapping lasts until the garbage collector
 * finds it.
 *
 * @property rows The rows; those deleted since the file was written are among them.
 */
@MagicInternals
public class ScanFile internal constructor(
    internal val header: ScanHeader,
    internal val seqs: LongArray,
    public val rows: Segment,
)

/** Returns where the scan file of an index lies. */
@MagicInternals
public fun scanPath(indexPath: Path): Path = indexPath.resolveSibling("${indexPath.fileName}.scan")

/** Maps a scan file; null when it is missing, damaged, or not of this index, model and time. */
@MagicInternals
public fun openScanFile(path: Path, index: Index, model: Model): ScanFile? = reading(path) { file ->
    val header = headerOf(file)?.takeIf { belongs(it, index, model) && it.end == file.size() }
    header?.let { open(file, it) }
}

/** Compares a scan file's data with its checksums; reads the whole file. */
@MagicInternals
public fun scanDataIsSound(path: Path): Boolean = reading(path) { file ->
    headerOf(file)?.let { header ->
        crcOf(file, ScanHeader.BYTES.toLong(), header.codesAt) == header.columnsCrc &&
            crcOf(file, header.codesAt, file.size()) == header.codesCrc
    }
} ?: false

/** Deletes a half-written scan file, and one that does not fit the index. The caller holds the index's lock. */
internal fun discardUselessFiles(index: Index) {
    val path = scanPath(index.path)
    val model = index.activeModel()
    try {
        Files.deleteIfExists(aside(path))
        if (model == null || openScanFile(path, index, model) == null) Files.deleteIfExists(path)
    } catch (_: IOException) {
        // Windows: another process has it mapped; it is renamed over later.
    }
}

// A name of its own for each process would leave litter behind a kill; the lock makes one name enough.
internal fun aside(path: Path): Path = path.resolveSibling("${path.fileName}.new")

private fun <T> reading(path: Path, read: (FileChannel) -> T?): T? = try {
    FileChannel.open(path, StandardOpenOption.READ).use(read)
} catch (error: ClosedByInterruptException) {
    throw interrupted(error) // or a sound file would pass for a damaged one, and be deleted
} catch (_: IOException) {
    null
}

private fun headerOf(file: FileChannel): ScanHeader? =
    bytesOf(file, 0, ScanHeader.BYTES)?.let { ScanHeader.unpack(it.array()) }

private fun belongs(header: ScanHeader, index: Index, model: Model): Boolean = header.dim == model.dim &&
    header.indexId == index.meta("index_id") &&
    header.fingerprint == model.fingerprint &&
    // Not merely "not newer": a file from beyond a restored backup would pass once the index has caught up.
    header.generation == index.metaNumber("compacted")

private fun open(file: FileChannel, header: ScanHeader): ScanFile? {
    val rows = header.rows.toInt()
    val start = ScanHeader.BYTES.toLong()
    val length = header.codesAt - start
    if (length > Int.MAX_VALUE) return null
    val columns = bytesOf(file, start, length.toInt()) ?: return null
    if (CRC32().apply { update(columns.array()) }.value.toInt() != header.columnsCrc) return null
    val seqs = LongArray(rows).also { columns.asLongBuffer().get(it) }
    val ids = LongArray(rows) { columns.getLong((header.idsAt - start).toInt() + 8 * it) }
    val scales = FloatArray(rows) { columns.getFloat((header.scalesAt - start).toInt() + 4 * it) }
    return ScanFile(header, seqs, Segment(mapCodes(file, header), scales, ids))
}

private fun mapCodes(file: FileChannel, header: ScanHeader): CodeRows {
    val rowsAPiece = CodeRows.rowsAPiece(header.dim)
    val pieces = (0 until header.rows step rowsAPiece.toLong()).map { first ->
        val some = minOf(rowsAPiece.toLong(), header.rows - first)
        file.map(FileChannel.MapMode.READ_ONLY, header.codesAt + first * header.dim, some * header.dim)
    }
    return CodeRows(header.rows.toInt(), header.dim, rowsAPiece, pieces)
}

/** Reads a part of a file; null when the file ends before. */
private fun bytesOf(file: FileChannel, at: Long, count: Int): ByteBuffer? {
    if (file.size() < at + count) return null
    val bytes = ByteBuffer.allocate(count).order(ByteOrder.LITTLE_ENDIAN)
    while (bytes.hasRemaining()) if (file.read(bytes, at + bytes.position()) < 0) return null
    bytes.rewindToStart()
    return bytes
}

private fun crcOf(file: FileChannel, from: Long, to: Long): Int {
    val crc = CRC32()
    var at = from
    while (at < to) {
        val some = bytesOf(file, at, minOf(CHUNK_BYTES, to - at).toInt()) ?: return 0
        crc.update(some.array())
        at += some.array().size
    }
    return crc.value.toInt()
}

private const val CHUNK_BYTES = 1L shl 20

// Through the base class: Android 8 has `rewind` only there.
private fun java.nio.Buffer.rewindToStart() {
    rewind()
}
