package dev.magicmm.demo

import android.content.Context
import android.graphics.Bitmap
import android.net.Uri
import android.os.Build
import android.util.LruCache
import android.util.Size
import dev.magicmm.MagicError
import dev.magicmm.RgbImage
import dev.magicmm.android.AndroidDecoder
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import java.io.IOException

/** Small pictures of photos, a few megabytes of them kept. */
class Thumbnails(private val context: Context) {
    private val kept =
        object : LruCache<String, Bitmap>(MOST_BYTES) {
            override fun sizeOf(key: String, value: Bitmap): Int = value.byteCount
        }

    /** The picture of a photo; null when it is gone or cannot be shown. */
    suspend fun load(uri: String): Bitmap? =
        kept[uri] ?: withContext(Dispatchers.IO) { read(Uri.parse(uri)) }?.also { kept.put(uri, it) }

    /** The library keeps thumbnails from Android 10 on; where it has none, the photo itself is decoded. */
    private fun read(address: Uri): Bitmap? = thumbnail(address) ?: decoded(address)

    private fun thumbnail(address: Uri): Bitmap? {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.Q) return null
        return try {
            context.contentResolver.loadThumbnail(address, Size(SIDE, SIDE), null)
        } catch (_: IOException) {
            null
        }
    }

    private fun decoded(address: Uri): Bitmap? = try {
        context.contentResolver.openInputStream(address)?.use {
            bitmapOf(AndroidDecoder.decode(it.readBytes(), SIDE).rgb)
        }
    } catch (_: IOException) {
        null
    } catch (_: SecurityException) {
        null
    } catch (_: MagicError) {
        null
    }

    private fun bitmapOf(rgb: RgbImage): Bitmap {
        val colours = IntArray(rgb.width * rgb.height) { place ->
            val (red, green, blue) = List(3) { rgb.pixels[3 * place + it].toInt() and 0xFF }
            0xFF shl 24 or (red shl 16) or (green shl 8) or blue
        }
        return Bitmap.createBitmap(colours, rgb.width, rgb.height, Bitmap.Config.ARGB_8888)
    }

    private companion object {
        const val SIDE = 320
        const val MOST_BYTES = 24 shl 20
    }
}
