package dev.magicmm.jvm

import dev.magicmm.Gallery
import dev.magicmm.PhotoEmbedder
import dev.magicmm.PhotoSource
import java.nio.file.Path
import java.nio.file.Paths

/**
 * Opens an index on a desktop, or makes it when sources are given.
 *
 * @param embedder The model; the gallery releases it when it is closed.
 * @param sources Places to add to those that the index already knows.
 * @param indexPath The index file.
 * @throws dev.magicmm.MagicError As the other `open` of [Gallery].
 */
public fun Gallery.Companion.open(
    embedder: PhotoEmbedder,
    sources: List<PhotoSource> = emptyList(),
    indexPath: Path = defaultIndexPath(),
): Gallery = open(indexPath, embedder, sources, SqliteJdbc)

/** Returns where the index lies unless told otherwise, as in Python: the platform's folder for a user's data. */
public fun defaultIndexPath(): Path = dataFolder().resolve("magicmm").resolve("index.db")

private fun dataFolder(): Path {
    val home = Paths.get(System.getProperty("user.home"))
    val system = System.getProperty("os.name").lowercase()
    return when {
        system.startsWith("windows") -> folderOf("LOCALAPPDATA") ?: home.resolve("AppData").resolve("Local")
        system.startsWith("mac") -> home.resolve("Library").resolve("Application Support")
        else -> folderOf("XDG_DATA_HOME") ?: home.resolve(".local").resolve("share")
    }
}

private fun folderOf(variable: String): Path? = System.getenv(variable)?.trim()?.ifEmpty { null }?.let { Paths.get(it) }
