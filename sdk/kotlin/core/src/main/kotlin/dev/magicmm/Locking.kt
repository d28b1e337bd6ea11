package dev.magicmm

import java.nio.channels.FileChannel
import java.nio.file.Path
import java.nio.file.StandardOpenOption

// One writer at a time: the lock beside an index file, freed by the system when its holder dies.

/** Index files that this process writes: the system's lock counts for the process, not for its threads. */
private val writing = HashSet<Path>()

/**
 * Holds the index for writing; readers are not concerned.
 *
 * @throws MagicError `index_locked` when somebody else writes, `storage_failed` when the folder is not writable.
 */
internal fun <T> writerLock(indexPath: Path, work: () -> T): T {
    val folder = translatedErrors(indexPath) { indexPath.toAbsolutePath().parent.toRealPath() }
    val path = folder.resolve("${indexPath.fileName}.lock")
    // Looked at before the file is opened: closing any channel of a file frees the process's lock on it.
    if (!synchronized(writing) { writing.add(path) }) throw locked(indexPath)
    try {
        val channel = translatedErrors(indexPath) {
            FileChannel.open(path, StandardOpenOption.CREATE, StandardOpenOption.WRITE)
        }
        channel.use {
            translatedErrors(indexPath) { channel.tryLock() } ?: throw locked(indexPath)
            return work()
        }
    } finally {
        synchronized(writing) { writing.remove(path) }
    }
}

private fun locked(indexPath: Path): MagicError = MagicError(
    ErrorCode.INDEX_LOCKED,
    "Another process is writing to $indexPath.",
    "Wait for it to finish; searching works meanwhile.",
)
