package dev.magicmm.android

import android.content.ContentProvider
import android.content.ContentUris
import android.content.ContentValues
import android.content.res.AssetFileDescriptor
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.Bundle
import android.os.CancellationSignal
import android.os.ParcelFileDescriptor
import android.provider.BaseColumns
import android.provider.MediaStore
import android.provider.MediaStore.MediaColumns
import java.io.File
import java.io.FileNotFoundException

/** One row of the library. */
data class FakePhoto(
    val id: Long,
    val file: File,
    val volume: String = MediaStore.VOLUME_EXTERNAL_PRIMARY,
    val modified: Long = 1_700_000_000,
    val generation: Long = 1,
    val isPending: Boolean = false,
    val isTrashed: Boolean = false,
)

/** Answers like Android's media library, as far as the SDK asks it, with files of this machine. */
class FakeMediaStore : ContentProvider() {
    /** What the library holds; tests change it while the app runs. */
    @Volatile
    var photos: List<FakePhoto> = emptyList()

    /** A volume that was taken out: what names it is refused, as the real library does. */
    @Volatile
    var awayVolume: String? = null

    /** Called before a photo is opened. */
    @Volatile
    var beforeOpen: (FakePhoto) -> Unit = {}

    override fun onCreate(): Boolean = true

    override fun query(
        address: Uri,
        columns: Array<String>?,
        arguments: Bundle?,
        signal: CancellationSignal?,
    ): Cursor {
        val withPending = arguments?.getInt(MediaStore.QUERY_ARG_MATCH_PENDING) == MediaStore.MATCH_INCLUDE
        val withTrashed = arguments?.getInt(MediaStore.QUERY_ARG_MATCH_TRASHED) == MediaStore.MATCH_INCLUDE
        return rows(address, columns!!) { (withPending || !it.isPending) && (withTrashed || !it.isTrashed) }
    }

    override fun query(
        address: Uri,
        columns: Array<String>?,
        selection: String?,
        values: Array<String>?,
        order: String?,
    ): Cursor = rows(address, columns!!) { !it.isPending }

    private fun rows(address: Uri, columns: Array<String>, isAsked: (FakePhoto) -> Boolean): Cursor {
        val volume = address.pathSegments.first()
        require(volume != awayVolume) { "Volume $volume not found" }
        val id = address.lastPathSegment?.toLongOrNull()
        val cursor = MatrixCursor(columns)
        for (photo in photos.filter { (id == null || it.id == id) && isAsked(it) }.sortedByDescending { it.id }) {
            cursor.addRow(columns.map { valueOf(photo, it) })
        }
        return cursor
    }

    private fun valueOf(photo: FakePhoto, column: String): Any = when (column) {
        BaseColumns._ID -> photo.id
        MediaColumns.SIZE -> photo.file.length()
        MediaColumns.DATE_MODIFIED -> photo.modified
        MediaColumns.VOLUME_NAME -> photo.volume
        MediaColumns.GENERATION_MODIFIED -> photo.generation
        else -> throw IllegalArgumentException("no column $column")
    }

    override fun openFile(address: Uri, mode: String): ParcelFileDescriptor {
        val photo =
            photos.find { it.id == ContentUris.parseId(address) } ?: throw FileNotFoundException("$address is gone")
        beforeOpen(photo)
        return ParcelFileDescriptor.open(photo.file, ParcelFileDescriptor.MODE_READ_ONLY)
    }

    override fun openTypedAssetFile(
        address: Uri,
        type: String,
        options: Bundle?,
        signal: CancellationSignal?,
    ): AssetFileDescriptor = AssetFileDescriptor(openFile(address, "r"), 0, AssetFileDescriptor.UNKNOWN_LENGTH)

    override fun getType(address: Uri): String = "image/*"

    override fun insert(address: Uri, values: ContentValues?): Uri? = null

    override fun delete(address: Uri, selection: String?, values: Array<String>?): Int = 0

    override fun update(address: Uri, values: ContentValues?, selection: String?, arguments: Array<String>?): Int = 0
}
