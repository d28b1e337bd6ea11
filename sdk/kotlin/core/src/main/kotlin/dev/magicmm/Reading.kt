package dev.magicmm

import java.io.IOException
import java.nio.file.AccessDeniedException
import java.nio.file.Files
import java.nio.file.NoSuchFileException
import java.nio.file.Path
import java.nio.file.attribute.BasicFileAttributes

/** A larger file is no photo; reading it whole would endanger the process. */
internal const val MAX_PHOTO_BYTES: Long = 512L shl 20

/**
 * Reads a photo from disk; its stamp is taken before its bytes.
 *
 * @throws PhotoSkipped With the reason, when the file cannot be read or is too large.
 */
internal fun readPhoto(path: Path): PhotoFile = try {
    val found = Files.readAttributes(path, BasicFileAttributes::class.java)
    // Opening a pipe would wait for ever.
    if (!found.isRegularFile) throw PhotoSkipped(SkipReason.READ_FAILED, "$path is no file.")
    if (found.size() > MAX_PHOTO_BYTES) {
        throw PhotoSkipped(SkipReason.FILE_TOO_LARGE, "$path has more than ${MAX_PHOTO_BYTES shr 20} MB.")
    }
    PhotoFile(Files.readAllBytes(path), stampOf(found))
} catch (error: NoSuchFileException) {
    throw missing(path, error)
} catch (error: AccessDeniedException) {
    throw PhotoSkipped(SkipReason.PERMISSION_DENIED, "No permission to read $path.", cause = error)
} catch (error: IOException) {
    throw PhotoSkipped(SkipReason.READ_FAILED, "$path cannot be read (${error.message}).", cause = error)
}

private fun missing(path: Path, error: NoSuchFileException): PhotoSkipped = if (Files.isSymbolicLink(path)) {
    PhotoSkipped(SkipReason.BROKEN_LINK, "$path is a link to a file that does not exist.", cause = error)
} else {
    PhotoSkipped(SkipReason.VANISHED, "$path does not exist.", cause = error)
}
