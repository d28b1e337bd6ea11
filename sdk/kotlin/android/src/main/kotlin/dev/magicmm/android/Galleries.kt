package dev.magicmm.android

import android.content.Context
import dev.magicmm.Gallery
import dev.magicmm.PhotoEmbedder
import dev.magicmm.PhotoSource
import java.nio.file.Files
import java.nio.file.Path

/**
 * Opens the index of an app, or makes it.
 *
 * @param embedder The model; the gallery releases it when it is closed.
 * @param sources Where photos come from.
 * @param indexPath The index file.
 * @throws dev.magicmm.MagicError As the other `open` of [Gallery].
 */
public fun Gallery.Companion.open(
    context: Context,
    embedder: PhotoEmbedder,
    sources: List<PhotoSource> = listOf(MediaStoreSource(context)),
    indexPath: Path = defaultIndexPath(context),
): Gallery = open(indexPath, embedder, sources, AndroidDatabase)

/** Where the index lies unless told otherwise: in a folder that Android leaves out of backups and transfers. */
public fun defaultIndexPath(context: Context): Path =
    context.noBackupFilesDir.toPath().resolve("magicmm").resolve("index.db")

/** Deletes an index with all files beside it; photos are not touched. Close its gallery first. */
public fun deleteIndex(indexPath: Path) {
    for (ending in listOf("", "-wal", "-shm", "-journal", ".scan", ".lock")) {
        Files.deleteIfExists(indexPath.resolveSibling("${indexPath.fileName}$ending"))
    }
}
