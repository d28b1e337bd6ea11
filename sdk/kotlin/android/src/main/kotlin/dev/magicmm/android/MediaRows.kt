package dev.magicmm.android

import android.content.ContentResolver
import android.content.ContentUris
import android.content.Context
import android.database.Cursor
import android.net.Uri
import android.os.Build
import android.os.Bundle
import android.provider.BaseColumns
import android.provider.MediaStore
import android.provider.MediaStore.MediaColumns
import dev.magicmm.PhotoRef
import dev.magicmm.Stamp

/** Rows of the media library. Which columns it has depends on the Android version. */
internal class MediaRows(context: Context) {
    private val resolver = context.contentResolver

    /** Calls [visit] for every photo, the latest first; false when the library does not answer. */
    fun list(visit: (PhotoRef) -> Unit): Boolean = read(collection()) { row ->
        visit(PhotoRef(uriOf(row), stampOf(row)))
    }

    /** The stamp of one photo now; null when it is not there any more. */
    fun stamp(uri: String): Stamp? {
        var found: Stamp? = null
        read(Uri.parse(uri)) { found = stampOf(it) }
        return found
    }

    /** The cursor fetches rows in windows of its own, so that memory does not grow with the library. */
    private fun read(address: Uri, visit: (Cursor) -> Unit): Boolean {
        val cursor =
            if (HAS_GENERATIONS) {
                resolver.query(address, COLUMNS, arguments(), null)
            } else {
                resolver.query(
                    address,
                    COLUMNS,
                    if (HAS_VOLUMES) "${MediaColumns.IS_PENDING} = 0" else null,
                    null,
                    LATEST_FIRST,
                )
            } ?: return false
        cursor.use { while (it.moveToNext()) visit(it) }
        return true
    }

    private fun arguments() = Bundle().apply {
        putInt(MediaStore.QUERY_ARG_MATCH_PENDING, MediaStore.MATCH_EXCLUDE)
        putInt(MediaStore.QUERY_ARG_MATCH_TRASHED, MediaStore.MATCH_EXCLUDE)
        putString(ContentResolver.QUERY_ARG_SQL_SORT_ORDER, LATEST_FIRST)
    }

    private fun uriOf(row: Cursor): String {
        val volume = if (HAS_VOLUMES) MediaStore.Images.Media.getContentUri(row.getString(VOLUME)) else collection()
        return ContentUris.withAppendedId(volume, row.getLong(ID)).toString()
    }

    /**
     * The library knows whole seconds; its generation takes the place of the fraction, since it grows with every change.
     * When the library is built anew generations begin again: photos are then read, though not embedded, once more.
     */
    private fun stampOf(row: Cursor): Stamp {
        val generation = if (HAS_GENERATIONS) row.getLong(GENERATION) % NANOS else 0
        return Stamp(row.getLong(SIZE), row.getLong(MODIFIED) * NANOS + generation)
    }

    private fun collection(): Uri = if (HAS_VOLUMES) {
        MediaStore.Images.Media.getContentUri(MediaStore.VOLUME_EXTERNAL)
    } else {
        MediaStore.Images.Media.EXTERNAL_CONTENT_URI
    }

    private companion object {
        val HAS_VOLUMES = Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q
        val HAS_GENERATIONS = Build.VERSION.SDK_INT >= Build.VERSION_CODES.R
        val COLUMNS: Array<String> = listOfNotNull(
            BaseColumns._ID,
            MediaColumns.SIZE,
            MediaColumns.DATE_MODIFIED,
            MediaColumns.VOLUME_NAME.takeIf { HAS_VOLUMES },
            MediaColumns.GENERATION_MODIFIED.takeIf { HAS_GENERATIONS },
        ).toTypedArray()
        const val ID = 0
        const val SIZE = 1
        const val MODIFIED = 2
        const val VOLUME = 3
        const val GENERATION = 4
        const val LATEST_FIRST = "${BaseColumns._ID} DESC"
        const val NANOS = 1_000_000_000L
    }
}
