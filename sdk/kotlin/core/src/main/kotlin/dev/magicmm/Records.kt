package dev.magicmm

import java.security.MessageDigest

/**
 * What tells an unchanged file from a changed one.
 *
 * @property bytes Size of the file.
 * @property modified Modification time, nanoseconds since 1970-01-01 UTC.
 */
public data class Stamp(val bytes: Long, val modified: Long)

/** What tells one content from another: the first half of a SHA-256. */
public class ContentHash(bytes: ByteArray) {
    private val content = bytes.copyOf()

    /** A copy of the 16 bytes. */
    public val bytes: ByteArray get() = content.copyOf()

    override fun equals(other: Any?): Boolean = other is ContentHash && content.contentEquals(other.content)

    override fun hashCode(): Int = content.contentHashCode()

    override fun toString(): String = hex(content)

    public companion object {
        private const val BYTES = 16

        /** Returns the hash of the whole content of a file. */
        public fun of(data: ByteArray): ContentHash =
            ContentHash(MessageDigest.getInstance("SHA-256").digest(data).copyOf(BYTES))
    }
}

/** Returns two small hex digits a byte. */
internal fun hex(bytes: ByteArray): String {
    val text = StringBuilder(2 * bytes.size)
    for (byte in bytes) {
        text.append(Character.forDigit((byte.toInt() shr 4) and 15, 16))
        text.append(Character.forDigit(byte.toInt() and 15, 16))
    }
    return text.toString()
}

/** A model whose vectors the index holds: a row of the table `model`. */
@MagicInternals
public data class Model(val id: Long, val fingerprint: String, val name: String, val dim: Int, val isActive: Boolean)

/** A row of the table `photo` without its id; [reason] is null for an indexed photo. */
@MagicInternals
public data class PhotoFacts(
    val uri: String,
    val stamp: Stamp,
    val hash: ContentHash?,
    val taken: Double? = null,
    val latitude: Double? = null,
    val longitude: Double? = null,
    val width: Int? = null,
    val height: Int? = null,
    val reason: SkipReason? = null,
    val detail: String? = null,
)

/**
 * What EXIF says of photos, [n] each; NaN = nothing.
 *
 * @property ids Rising.
 * @property taken The camera's wall clock in seconds since 1970-01-01 00:00 of that clock.
 * @property latitude Degrees north.
 * @property longitude Degrees east.
 */
@MagicInternals
public class ExifColumns(
    public val ids: LongArray,
    public val taken: DoubleArray,
    public val latitude: DoubleArray,
    public val longitude: DoubleArray,
) {
    /** How many photos. */
    public val size: Int get() = ids.size
}
