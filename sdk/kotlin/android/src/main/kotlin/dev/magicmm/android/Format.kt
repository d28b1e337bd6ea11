package dev.magicmm.android

/**
 * A photo format, as Android names it.
 *
 * @property turnsItself Whether the container says how the picture is turned, so that EXIF must not turn it again.
 */
internal enum class Format(private val types: List<String>, val turnsItself: Boolean = false) {
    JPEG(listOf("image/jpeg")),
    PNG(listOf("image/png")),
    WEBP(listOf("image/webp")),
    GIF(listOf("image/gif")),
    BMP(listOf("image/bmp", "image/x-ms-bmp")),
    HEIF(listOf("image/heif", "image/heic"), turnsItself = true),
    AVIF(listOf("image/avif"), turnsItself = true),
    ;

    companion object {
        fun of(type: String?): Format? = values().find { type in it.types }
    }
}

private val HEIC_BRANDS = setOf("heic", "heix", "hevc", "heim", "heis", "hevm", "mif1", "msf1")

internal fun looksLikeHeic(data: ByteArray): Boolean =
    data.size >= 12 && data.ascii(4, 4) == "ftyp" && data.ascii(8, 4) in HEIC_BRANDS

/**
 * Whether a file goes on to the end of its picture. Android shows the upper part of a photo that is cut off and says
 * nothing; such a photo would be indexed by its sky.
 */
internal fun isComplete(data: ByteArray, format: Format): Boolean = when (format) {
    Format.JPEG -> jpegEnds(data)
    Format.PNG -> data.ascii(maxOf(0, data.size - PNG_TAIL), PNG_TAIL).contains("IEND")
    Format.WEBP -> data.size >= 8L + unsigned(data, 4)
    Format.GIF -> data.takeLast(GIF_TAIL).contains(0x3B)
    Format.BMP, Format.HEIF, Format.AVIF -> true // their decoders refuse what is cut off
}

/** Some programs write padding or metadata behind the last chunk. */
private const val PNG_TAIL = 4096
private const val GIF_TAIL = 16

/** Whether an end-of-image marker follows the first scan; the thumbnail in the header has one of its own. */
private fun jpegEnds(data: ByteArray): Boolean {
    var at = 2
    while (at + 4 <= data.size) {
        if (data[at] != MARKER) return true // oddly built; for the decoder to judge
        val kind = data[at + 1].toInt() and 0xFF
        when {
            kind == START_OF_SCAN -> return endMarkerAfter(data, at)
            kind == 0xFF || kind == 0x01 || kind in 0xD0..0xD8 -> at += if (kind == 0xFF) 1 else 2
            else -> at += 2 + ((data[at + 2].toInt() and 0xFF) shl 8 or (data[at + 3].toInt() and 0xFF))
        }
    }
    return false
}

private fun endMarkerAfter(data: ByteArray, start: Int): Boolean =
    (start until data.size - 1).any { data[it] == MARKER && data[it + 1] == END_OF_IMAGE }

private const val MARKER = 0xFF.toByte()
private const val END_OF_IMAGE = 0xD9.toByte()
private const val START_OF_SCAN = 0xDA

private fun ByteArray.ascii(start: Int, length: Int): String =
    String(this, start, minOf(length, size - start), Charsets.ISO_8859_1)

private fun unsigned(data: ByteArray, at: Int): Long =
    (0 until 4).fold(0L) { sum, place -> sum or ((data[at + place].toLong() and 0xFF) shl 8 * place) }
