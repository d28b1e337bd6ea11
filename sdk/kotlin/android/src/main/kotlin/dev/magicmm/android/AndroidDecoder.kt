package dev.magicmm.android

import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Color
import android.os.Build
import dev.magicmm.DecodedPhoto
import dev.magicmm.PhotoDecoder
import dev.magicmm.PhotoSkipped
import dev.magicmm.RgbImage
import dev.magicmm.SkipReason
import dev.magicmm.alphaOnWhite
import dev.magicmm.upright
import java.nio.ByteBuffer

/** Photos by Android's own decoders. What a format needs of the device: WebP always, HEIC from Android 9, AVIF from 12. */
public object AndroidDecoder : PhotoDecoder {
    private const val MOST_PIXELS = 256_000_000L
    private const val MOST_DECODED_PIXELS = 100_000_000L

    override fun decode(data: ByteArray, minSide: Int): DecodedPhoto {
        if (data.isEmpty()) throw PhotoSkipped(SkipReason.EMPTY_FILE, "The file has no bytes.")
        val bounds = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeByteArray(data, 0, data.size, bounds)
        val format = formatOf(data, bounds)
        checkSize(bounds.outWidth, bounds.outHeight, MOST_PIXELS)
        val scale = if (format == Format.JPEG) reducedScale(bounds.outWidth, bounds.outHeight, minSide) else 1
        checkSize(bounds.outWidth / scale, bounds.outHeight / scale, MOST_DECODED_PIXELS)
        if (!isComplete(
                data,
                format,
            )
        ) {
            throw PhotoSkipped(SkipReason.TRUNCATED, "The file ends before its picture does.")
        }
        val exif = ExifFacts.read(data)
        // Containers of HEIC and AVIF turn their pictures themselves.
        val orientation = if (format.turnsItself) 1 else exif.orientation
        val rgb = guarded { upright(pixelsOf(data, scale), orientation) }
        val swaps = orientation >= 5
        return DecodedPhoto(
            rgb = rgb,
            width = if (swaps) bounds.outHeight else bounds.outWidth,
            height = if (swaps) bounds.outWidth else bounds.outHeight,
            taken = exif.taken,
            latitude = exif.latitude,
            longitude = exif.longitude,
        )
    }

    private fun formatOf(data: ByteArray, bounds: BitmapFactory.Options): Format {
        val format = Format.of(bounds.outMimeType)
        if (format != null && bounds.outWidth > 0 && bounds.outHeight > 0) return format
        if (looksLikeHeic(data)) {
            throw PhotoSkipped(
                SkipReason.HEIC_SUPPORT_MISSING,
                "This device (API ${Build.VERSION.SDK_INT}) cannot decode this HEIC photo.",
                "Index it on another device.",
            )
        }
        throw PhotoSkipped(SkipReason.NOT_AN_IMAGE, "The content is no photo format that this device reads.")
    }

    /** docs/FORMAT.md, part 2: JPEG may decode at 1/s. */
    private fun reducedScale(width: Int, height: Int, minSide: Int): Int =
        if (minSide <= 0) 1 else listOf(8, 4, 2).firstOrNull { minOf(width, height) / minSide >= it } ?: 1

    private fun checkSize(width: Int, height: Int, most: Long) {
        if (width.toLong() * height <= most) return
        throw PhotoSkipped(SkipReason.TOO_MANY_PIXELS, "$width x $height pixels; at most ${most / 1_000_000} million.")
    }

    private fun pixelsOf(data: ByteArray, scale: Int): RgbImage {
        val options =
            BitmapFactory.Options().apply {
                inSampleSize = scale
                inPreferredConfig = Bitmap.Config.ARGB_8888
                inPremultiplied = false // else the colours of half-transparent pixels are rounded
            }
        val bitmap = BitmapFactory.decodeByteArray(data, 0, data.size, options)
            ?: throw PhotoSkipped(SkipReason.DECODE_FAILED, "The decoder stopped on broken content.")
        return try {
            storedRgb(bitmap)
        } finally {
            bitmap.recycle()
        }
    }

    /** A photo that needs more memory than there is costs itself, not the sync. */
    private inline fun <T> guarded(work: () -> T): T = try {
        work()
    } catch (error: OutOfMemoryError) {
        throw PhotoSkipped(SkipReason.TOO_MANY_PIXELS, "The photo does not fit in memory.", cause = error)
    }
}

/**
 * The pixels of a bitmap as the SDK reads them: over white where it is transparent.
 *
 * Bitmaps of the configuration `HARDWARE` and others than 8 bits a channel are converted first. The values are those that
 * the bitmap stores, in whatever colour space it has.
 */
public fun Bitmap.toRgbImage(): RgbImage {
    if (config == Bitmap.Config.ARGB_8888) return storedRgb(this)
    val copy = copy(Bitmap.Config.ARGB_8888, false)
        ?: throw PhotoSkipped(SkipReason.UNSUPPORTED_PIXELS, "A bitmap of $config cannot be read.")
    return try {
        storedRgb(copy)
    } finally {
        copy.recycle()
    }
}

/** Reads what is stored: `getPixels` would convert colours to sRGB, which no other platform of the SDK does. */
private fun storedRgb(bitmap: Bitmap): RgbImage {
    val rgba = ByteBuffer.allocate(bitmap.byteCount)
    bitmap.copyPixelsToBuffer(rgba)
    val row = bitmap.rowBytes
    val width = bitmap.width
    val bytes = if (row == 4 * width) rgba.array() else withoutPadding(rgba.array(), row, width, bitmap.height)
    if (!storesRedFirst) swapRedAndBlue(bytes)
    if (bitmap.hasAlpha()) {
        if (bitmap.isPremultiplied) unpremultiply(bytes)
        return alphaOnWhite(width, bitmap.height, bytes)
    }
    val out = ByteArray(3 * width * bitmap.height)
    for (pixel in 0 until width * bitmap.height) {
        out[3 * pixel] = bytes[4 * pixel]
        out[3 * pixel + 1] = bytes[4 * pixel + 1]
        out[3 * pixel + 2] = bytes[4 * pixel + 2]
    }
    return RgbImage(width, bitmap.height, out)
}

private fun withoutPadding(bytes: ByteArray, row: Int, width: Int, height: Int): ByteArray {
    val out = ByteArray(4 * width * height)
    for (y in 0 until height) System.arraycopy(bytes, y * row, out, 4 * y * width, 4 * width)
    return out
}

/** Phones store red first; Android's graphics built for other machines, as tests use them, store blue first. */
private val storesRedFirst: Boolean by lazy {
    val dot = Bitmap.createBitmap(intArrayOf(Color.RED), 1, 1, Bitmap.Config.ARGB_8888)
    val stored = ByteBuffer.allocate(dot.byteCount)
    dot.copyPixelsToBuffer(stored)
    stored.get(0) != 0.toByte()
}

private fun swapRedAndBlue(rgba: ByteArray) {
    for (at in rgba.indices step 4) {
        val first = rgba[at]
        rgba[at] = rgba[at + 2]
        rgba[at + 2] = first
    }
}

private fun unpremultiply(rgba: ByteArray) {
    for (pixel in 0 until rgba.size / 4) {
        val alpha = rgba[4 * pixel + 3].toInt() and 0xFF
        if (alpha == 0 || alpha == 255) continue
        for (channel in 0 until 3) {
            val place = 4 * pixel + channel
            rgba[place] = minOf(255, ((rgba[place].toInt() and 0xFF) * 255 + alpha / 2) / alpha).toByte()
        }
    }
}
