package dev.magicmm

import java.io.IOException
import java.nio.file.DirectoryIteratorException
import java.nio.file.Files
import java.nio.file.LinkOption
import java.nio.file.Path
import java.nio.file.attribute.BasicFileAttributes
import java.util.concurrent.TimeUnit

/** Names of photos end in one of these, in capitals or not. */
internal val EXTENSIONS: Set<String> = setOf(
    "jpg", "jpeg", "jpe", "jfif", "mpo", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "hif",
)

/**
 * The photos in a folder and its subfolders.
 *
 * Hidden files and folders are left out, links to folders are not followed (so loops cannot arise), links to photos
 * are. A folder that cannot be read, or a root that is missing or suddenly empty (a drive that is not mounted), is
 * reported as unavailable: its photos stay indexed.
 *
 * @param path A folder; nothing is read yet.
 */
public class FolderSource(path: Path) : PhotoSource {
    /** The folder, absolute. */
    public val path: Path = path.toAbsolutePath().normalize()

    override val uri: String = folderUri(this.path)

    override fun changes(known: Map<String, Stamp>, allKnown: Set<String>): Changes {
        val new = ArrayList<PhotoRef>()
        val changed = ArrayList<PhotoRef>()
        val unavailable = ArrayList<String>()
        val seen = HashSet<String>()
        walk(unavailable) { uri, stamp ->
            seen += uri
            if (known[uri] != stamp) (if (uri in allKnown) changed else new).add(PhotoRef(uri, stamp))
        }
        if (seen.isEmpty() && allKnown.isNotEmpty() && uri !in unavailable) unavailable += uri
        val removed = allKnown.filter { it !in seen && unavailable.none(it::startsWith) }.sorted()
        return Changes(new, changed, removed, seen.size - new.size - changed.size, unavailable)
    }

    override fun load(uri: String): PhotoFile = readPhoto(uriPath(uri))

    /** Visits URI and stamp of every photo, folder by folder in the order of their names. */
    private fun walk(unavailable: MutableList<String>, visit: (uri: String, stamp: Stamp) -> Unit) {
        val folders = ArrayDeque(listOf(path to uri))
        while (folders.isNotEmpty()) {
            val (folder, prefix) = folders.removeLast()
            val entries = entriesOf(folder)
            if (entries == null) {
                unavailable += prefix
                continue
            }
            val inner = ArrayList<Pair<Path, String>>()
            for (entry in entries) {
                val uri = prefix + quoteName(entry)
                if (Files.isDirectory(entry, LinkOption.NOFOLLOW_LINKS)) {
                    inner += entry to "$uri/"
                } else if (extensionOf(entry) in EXTENSIONS) {
                    entryStamp(entry)?.let { visit(uri, it) }
                }
            }
            folders += inner.asReversed()
        }
    }
}

/** Returns what lies in a folder and is not hidden, by the bytes of the names; null when it cannot be read. */
private fun entriesOf(folder: Path): List<Path>? = try {
    Files.newDirectoryStream(folder).use { listing ->
        listing.map { nameBytes(it) to it }
            .filterNot { (name, _) -> name[0] == '.'.code.toByte() }
            .sortedWith { (one, _), (other, _) -> compareBytes(one, other) }
            .map { it.second }
    }
} catch (_: IOException) {
    null
} catch (_: DirectoryIteratorException) {
    null
}

private fun compareBytes(one: ByteArray, other: ByteArray): Int {
    for (place in 0 until minOf(one.size, other.size)) {
        val difference = (one[place].toInt() and 0xFF) - (other[place].toInt() and 0xFF)
        if (difference != 0) return difference
    }
    return one.size - other.size
}

private fun extensionOf(path: Path): String = path.fileName.toString().substringAfterLast('.', "").lowercase()

/** Returns the stamp; null for what is no file; a zero stamp for a file that `load` will fail on and explain. */
private fun entryStamp(path: Path): Stamp? = try {
    val found = Files.readAttributes(path, BasicFileAttributes::class.java)
    if (found.isRegularFile) stampOf(found) else null
} catch (_: IOException) {
    Stamp(0, 0)
}

// Times beyond the year 2262 exist on some file systems, but not in 64 bits of nanoseconds.
internal fun stampOf(found: BasicFileAttributes): Stamp =
    Stamp(found.size(), found.lastModifiedTime().to(TimeUnit.NANOSECONDS).coerceAtLeast(-Long.MAX_VALUE))
