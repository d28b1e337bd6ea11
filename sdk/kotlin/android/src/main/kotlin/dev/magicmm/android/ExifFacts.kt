package dev.magicmm.android

import android.media.ExifInterface
import java.io.ByteArrayInputStream
import java.io.IOException
import java.time.DateTimeException
import java.time.LocalDateTime
import java.time.ZoneOffset
import java.time.format.DateTimeFormatter
import java.time.format.ResolverStyle

/**
 * What the header of a photo says of it (docs/FORMAT.md, "Facts"). Android reads EXIF in JPEG and raw photos, in HEIC from
 * Android 9 and in PNG and WebP from Android 11.
 */
internal class ExifFacts(
    val orientation: Int = 1,
    val taken: Double? = null,
    val latitude: Double? = null,
    val longitude: Double? = null,
) {
    companion object {
        /** Reads the header; a broken one costs these facts, never the photo. */
        fun read(data: ByteArray): ExifFacts {
            val exif =
                try {
                    ExifInterface(ByteArrayInputStream(data))
                } catch (_: IOException) {
                    return ExifFacts()
                } catch (_: RuntimeException) { // Android's reader throws several of them on broken headers
                    return ExifFacts()
                }
            val latitude = degrees(exif, ExifInterface.TAG_GPS_LATITUDE, ExifInterface.TAG_GPS_LATITUDE_REF, "S", 90)
            val longitude =
                degrees(exif, ExifInterface.TAG_GPS_LONGITUDE, ExifInterface.TAG_GPS_LONGITUDE_REF, "W", 180)
            val hasPlace = latitude != null && longitude != null
            return ExifFacts(
                exif.getAttributeInt(ExifInterface.TAG_ORIENTATION, 1),
                seconds(exif.getAttribute(ExifInterface.TAG_DATETIME_ORIGINAL))
                    ?: seconds(exif.getAttribute(ExifInterface.TAG_DATETIME)),
                latitude.takeIf { hasPlace },
                longitude.takeIf { hasPlace },
            )
        }

        private val FORM =
            DateTimeFormatter.ofPattern("uuuu:MM:dd HH:mm:ss").withResolverStyle(ResolverStyle.STRICT)

        private fun seconds(text: String?): Double? = try {
            text?.trim('\u0000', ' ')?.take(FORM_LENGTH)
                ?.let { LocalDateTime.parse(it, FORM).toEpochSecond(ZoneOffset.UTC).toDouble() }
        } catch (_: DateTimeException) {
            null // cameras with an unset clock write zeros
        }

        private const val FORM_LENGTH = 19

        /** Android's own reading of the place has only the digits of a float. */
        private fun degrees(exif: ExifInterface, tag: String, side: String, negative: String, limit: Int): Double? {
            val parts = exif.getAttribute(tag)?.split(',')?.map { fraction(it) ?: return null } ?: return null
            if (parts.size != 3) return null
            val angle = parts[0] + parts[1] / 60 + parts[2] / 3600
            if (!(angle >= 0 && angle <= limit)) return null
            return if (exif.getAttribute(side)?.trim('\u0000', ' ')?.uppercase() == negative) -angle else angle
        }

        private fun fraction(text: String): Double? {
            val (above, below) = text.trim().split('/').takeIf { it.size == 2 } ?: return null
            val divisor = below.toDoubleOrNull()?.takeIf { it != 0.0 } ?: return null
            return above.toDoubleOrNull()?.div(divisor)
        }
    }
}
